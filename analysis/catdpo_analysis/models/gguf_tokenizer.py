"""The fast tokenizer that a GGUF file describes in its metadata: tokenizer.json, tokenizer_config.json, chat template.

Two kinds exist in the supported families: byte-level BPE ("gpt2") whose pre-tokenizer is named by
tokenizer.ggml.pre, and SentencePiece BPE ("llama") whose merges follow from the scores of the vocabulary.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from catdpo_analysis.errors import UserError, shorten

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6  # tokenizer.ggml.token_type

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
LOWER, UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "llama-bpe": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "tekken": TEKKEN,
}
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "codeshell")
PLAIN = ("gpt-2", "gpt2", "default")
WHOLE_WORDS_FIRST = ("llama3", "llama-v3", "llama-bpe", "tekken")  # a word in the vocabulary is never built by merges


def build_tokenizer_files(get, path):
    """File name -> bytes, from `get(metadata key)`; empty if the file describes no tokenizer."""
    kind = get("tokenizer.ggml.model")
    if kind is None:
        return {}
    tokens = get("tokenizer.ggml.tokens")
    if not tokens:
        raise UserError(f"{path}: the tokenizer has no tokens (tokenizer.ggml.tokens)")
    types = get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens) or not all(isinstance(kind, int) for kind in types):
        raise UserError(f"{path}: tokenizer.ggml.token_type is not one number for each of the {len(tokens)} tokens")
    if kind == "gpt2":
        tokenizer = byte_level(tokens, get("tokenizer.ggml.merges"), get("tokenizer.ggml.pre", "default"), path)
    elif kind == "llama":
        tokenizer = sentencepiece(
            tokens, types, get("tokenizer.ggml.scores"), get("tokenizer.ggml.add_space_prefix", True), path
        )
    else:
        raise UserError(
            f'{path}: tokenizer kind "{kind}" is not supported; catdpo reads byte-level BPE ("gpt2") and SentencePiece '
            'BPE ("llama")'
        )
    whole = [
        AddedToken(token, normalized=False, special=True)
        for token, type_ in zip(tokens, types)
        if type_ == CONTROL or (type_ == UNKNOWN and kind == "llama")
    ]
    tokenizer.add_special_tokens(whole)
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token, type_ in zip(tokens, types) if type_ == USER_DEFINED]
    )

    named = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = get(f"tokenizer.ggml.{key}_token_id")
        if token is not None and 0 <= token < len(tokens):
            named[name] = token
    around = {
        "bos": bool(get("tokenizer.ggml.add_bos_token", kind == "llama")),
        "eos": bool(get("tokenizer.ggml.add_eos_token", False)),
    }
    add = {name: named[name] for name in around if around[name] and name in named}
    if add:
        piece = [f"{tokens[add['bos']]}:0"] if "bos" in add else []
        tail = [f"{tokens[add['eos']]}:0"] if "eos" in add else []
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*piece, "$A:0", *tail],
            pair=None,
            special_tokens=[(tokens[token], token) for token in sorted(set(add.values()))],
        )

    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": "bos" in add,
        "add_eos_token": "eos" in add,
    }
    config |= {f"{name}_token": tokens[token] for name, token in named.items()}
    length = get(f"{get('general.architecture')}.context_length")
    if length:
        config["model_max_length"] = length
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json({f"{name}_token": tokens[token] for name, token in named.items()}),
        "generation_config.json": _json(
            {f"{name}_token_id": named[name] for name in ("bos", "eos", "pad") if name in named}
        ),
    }
    template = get("tokenizer.chat_template")
    if template:
        files["chat_template.jinja"] = template.encode()
    return files


def _json(value):
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _bpe(path, **options):
    try:
        return Tokenizer(models.BPE(**options))
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"{path}: the tokenizer's tokens and merges do not fit together: {shorten(error, 160)}"
        ) from None


def byte_level(tokens, merges, pre, path):
    """GPT-2's scheme: every byte has a printable character; merges are given."""
    if merges is None:
        raise UserError(f"{path}: the byte-level tokenizer has no merges (tokenizer.ggml.merges)")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = _bpe(path, vocab=vocabulary, merges=pairs, ignore_merges=pre in WHOLE_WORDS_FIRST)
    if pre in SPLITS:
        split = pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    elif pre in SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif pre in PLAIN:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        known = ", ".join(sorted({*SPLITS, *SINGLE_DIGITS, *PLAIN}))
        raise UserError(
            f'{path}: pre-tokenizer "{pre}" (tokenizer.ggml.pre) is not supported; known are {known}; import from the '
            "Hugging Face folder instead"
        )
    if SPLITS.get(pre) is QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece(tokens, types, scores, space_prefix, path):
    """SentencePiece BPE: a merge is any split of a token into two others; better scores merge first."""
    if scores is None:
        raise UserError(f"{path}: the SentencePiece tokenizer has no scores (tokenizer.ggml.scores)")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = []
    for index, (token, type_) in enumerate(zip(tokens, types)):
        if type_ in (UNKNOWN, CONTROL, BYTE):
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((-scores[index], vocabulary[left], vocabulary[right], left, right))
    merges.sort()
    unknown = next((token for token, type_ in zip(tokens, types) if type_ == UNKNOWN), None)
    tokenizer = _bpe(
        path,
        vocab=vocabulary,
        merges=[merge[3:] for merge in merges],
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=BYTE in types,
    )
    steps = [normalizers.Prepend("\u2581")] if space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    ending = [decoders.Strip(" ", 1, 0)] if space_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *ending]
    )
    return tokenizer

"""The fast tokenizer that a GGUF file describes in its metadata: tokenizer.json, tokenizer_config.json, chat template.

Two kinds exist in the supported families: byte-level BPE ("gpt2") whose pre-tokenizer is named by
tokenizer.ggml.pre, and SentencePiece BPE ("llama") whose merges follow from the scores of the vocabulary.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.tokens.tokenizer import QWEN2_SPLIT, TEKKEN_SPLIT
from catdpo_analysis.tokens.tokenizer_files import TEMPLATE_NAME, template_files

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6  # tokenizer.ggml.token_type

LLAMA3 = QWEN2_SPLIT.replace(r"\p{N}| ", r"\p{N}{1,3}| ")
SPLITS = {
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "llama-bpe": LLAMA3,
    "qwen2": QWEN2_SPLIT,
    "deepseek-r1-qwen": QWEN2_SPLIT,
    "tekken": TEKKEN_SPLIT,
}
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "codeshell")
PLAIN = ("gpt-2", "gpt2")
WHOLE_WORDS_FIRST = ("llama3", "llama-v3", "llama-bpe", "tekken")  # a word in the vocabulary is never built by merges


def build_tokenizer_files(get, path):
    """File name -> bytes, from `get(metadata key)`; empty if the file describes no tokenizer."""
    kind, pre = get("tokenizer.ggml.model"), None
    if kind is None:
        return {}
    tokens = get("tokenizer.ggml.tokens")
    if not tokens:
        raise UserError(f"{path}: the tokenizer has no tokens (tokenizer.ggml.tokens)")
    types = get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens) or not all(isinstance(kind, int) for kind in types):
        raise UserError(f"{path}: tokenizer.ggml.token_type is not one number for each of the {len(tokens)} tokens")
    if kind == "gpt2":
        pre = get("tokenizer.ggml.pre")
        tokenizer = byte_level(tokens, get("tokenizer.ggml.merges"), pre, path)
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
    for name, key in (
        ("bos", "bos"),
        ("eos", "eos"),
        ("unk", "unknown"),
        ("pad", "padding"),
        ("eot", "eot"),
        ("eom", "eom"),
    ):
        token = get(f"tokenizer.ggml.{key}_token_id")
        if token is not None and 0 <= token < len(tokens):
            named[name] = token
        elif token is not None and name in ("bos", "eos"):
            raise UserError(
                f"{path}: tokenizer.ggml.{key}_token_id = {token}, but there are {len(tokens)} tokens; convert the "
                f"model again"
            )
    around = {
        "bos": bool(get("tokenizer.ggml.add_bos_token", kind == "llama" or pre in WHOLE_WORDS_FIRST)),
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
    ends = sorted({named[name] for name in ("eos", "eot", "eom") if name in named})  # llama.cpp stops at each of them
    for name in ("eot", "eom"):
        named.pop(name, None)
    config |= {f"{name}_token": tokens[token] for name, token in named.items()}
    length = get(f"{get('general.architecture')}.context_length")
    if length:
        config["model_max_length"] = length
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json({f"{name}_token": tokens[token] for name, token in named.items()}),
        "generation_config.json": _json(
            {f"{name}_token_id": named[name] for name in ("bos", "pad") if name in named}
            | ({"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {})
        ),
    }
    return files | template_files(_templates(get, path))


def _templates(get, path):
    """Name -> text of the chat templates; tokenizer.chat_templates lists the names of those that have one."""
    found = {"default": get("tokenizer.chat_template")}
    for name in get("tokenizer.chat_templates") or []:
        if not TEMPLATE_NAME.fullmatch(name):
            raise UserError(f"{path}: {shorten(name)} (tokenizer.chat_templates) is not a name for a chat template")
        found[name] = get(f"tokenizer.chat_template.{name}")
    return {name: text for name, text in found.items() if text}


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
    if pre in (None, "default"):
        raise UserError(
            f"{path}: the metadata do not name the pre-tokenizer (tokenizer.ggml.pre is {pre or 'missing'}), as in "
            f"files "
            "made before May 2024, so texts would be split otherwise than the model learned it; convert the model "
            "again "
            "with a current llama.cpp, import it from its Hugging Face folder, or import it with --no-tokenizer and "
            "give prepare the original's (--tokenizer DIR)"
        )
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
    if SPLITS.get(pre) is QWEN2_SPLIT:
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

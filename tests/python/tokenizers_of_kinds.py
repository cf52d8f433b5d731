"""Small tokenizers of the two kinds that the supported families have, with their other files as the tests want them."""

import json

from conftest import CHATML, train_bpe
from tokenizers import AddedToken, Tokenizer

from catdpo_analysis.models.gguf_tokenizer import sentencepiece

SPACE = "\u2581"


def sentencepiece_of(text="a bc abc de", normalized=False, prefix=True):
    """SentencePiece BPE with byte fallback: <unk>, <s>, </s>, 256 bytes, the letters of `text`, some merges."""
    letters = sorted({SPACE, *text.replace(" ", SPACE)})
    merged = [SPACE + "a", "bc", SPACE + "abc", "a" + "bc", SPACE + SPACE]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *merged]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(letters) + len(merged))
    tokenizer = sentencepiece(pieces, types, [-float(i) for i in range(len(pieces))], prefix, "here")
    flags = {"special": True, "normalized": normalized}
    tokenizer.add_tokens([AddedToken(token, **flags) for token in ("<unk>", "<s>", "</s>")])
    return tokenizer


def without(tokenizer, *tokens):
    """The same without some added tokens, and without them in the vocabulary (they must be the last ones)."""
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [entry for entry in data["added_tokens"] if entry["content"] not in tokens]
    for token in tokens:
        data["model"]["vocab"].pop(token, None)
    return Tokenizer.from_str(json.dumps(data))


def entry(content, **flags):
    """Of added_tokens_decoder."""
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return {"content": content} | plain | flags


def files_of(tokenizer=None, config=None, **more):
    """File name (without .json) -> bytes; `more`: special_tokens_map, added_tokens, generation_config as objects."""
    config = {"eos_token": "<|im_end|>", "chat_template": CHATML} if config is None else config
    files = {"tokenizer.json": (tokenizer or train_bpe()).to_str(), "tokenizer_config.json": json.dumps(config)}
    files |= {
        name if "." in name else f"{name}.json": value if isinstance(value, str) else json.dumps(value)
        for name, value in more.items()
    }
    return {name: text.encode() for name, text in files.items()}

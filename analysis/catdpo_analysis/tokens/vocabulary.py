"""The bytes of each token, so that a program without a tokenizer library can turn token ids into text.

The text of a list of ids, special tokens left out, is: the bytes of the tokens one after another; of a run of
byte-fallback tokens (whose bytes are no UTF-8 text together) each byte becomes U+FFFD; then at most `strip` spaces are
taken from the beginning; what is no UTF-8 in the whole becomes U+FFFD, as decoders for UTF-8 do it. That is what the
tokenizer's own decoding gives, for byte-level BPE and for SentencePiece with byte fallback.
"""

import dataclasses
import re

import numpy as np

from catdpo_analysis.errors import UserError
from catdpo_analysis.tokens.tokenizer import decoder_of

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
REPLACEMENT = "\ufffd".encode()


def byte_characters():
    """The printable character that stands for each byte in byte-level BPE -> the byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


@dataclasses.dataclass
class Vocabulary:
    """`offsets` [ids + 1] into `data`; `special` and `fallback` [ids] are 1 for tokens that are left out of a text and
    for byte-fallback tokens; `strip`: spaces that are taken from the beginning of a text."""

    data: np.ndarray
    offsets: np.ndarray
    special: np.ndarray
    fallback: np.ndarray
    strip: int

    def text(self, ids):
        """The text of a list of ids."""
        pieces, run = [], b""
        for i in [i for i in ids if not self.special[i]] + [None]:
            if i is not None and self.fallback[i]:
                run += self.bytes_of(i)
                continue
            pieces.append(run if _is_utf8(run) else REPLACEMENT * len(run))
            run = b""
            if i is not None:
                pieces.append(self.bytes_of(i))
        whole = b"".join(pieces)
        for _ in range(self.strip):
            whole = whole.removeprefix(b" ")
        return whole.decode("utf-8", "replace")

    def bytes_of(self, i):
        return self.data[self.offsets[i] : self.offsets[i + 1]].tobytes()


def _is_utf8(data):
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _steps(decoder):
    return decoder["decoders"] if decoder and decoder["type"] == "Sequence" else [decoder] if decoder else []


def _byte_level(steps):
    """token text -> (bytes, is it byte fallback?), or None if the decoder is another one."""
    if [step["type"] for step in steps if step["type"] != "Fuse"] != ["ByteLevel"]:
        return None
    table = byte_characters()

    def convert(token):
        known = all(character in table for character in token)
        return bytes(table[character] for character in token) if known else token.encode(), False

    return convert, 0


def _sentencepiece(steps):
    """The same for a sequence of replacements, byte fallback, and spaces taken off the beginning."""
    replaced, fallback, fused, strip = [], False, False, 0
    for step in steps:
        kind = step["type"]
        if kind == "Replace" and not fused and not fallback and "String" in step["pattern"]:
            replaced.append((step["pattern"]["String"], step["content"]))
        elif kind == "ByteFallback" and not fused:
            fallback = True
        elif kind == "Fuse":
            fused = True
        elif kind == "Strip" and fused and step["content"] == " " and step["stop"] == 0:
            strip += step["start"]
        else:
            return None
    if not replaced:
        return None

    def convert(token):
        for old, new in replaced:
            token = token.replace(old, new)
        byte = BYTE_TOKEN.fullmatch(token) if fallback else None
        return (bytes([int(byte[1], 16)]), True) if byte else (token.encode(), False)

    return convert, strip


def vocabulary_of(tokenizer, rows):
    """The Vocabulary of `rows` ids; ids without a token have no bytes and are left out of texts. UserError if the
    tokenizer decodes in a way that this format cannot express."""
    steps = _steps(decoder_of(tokenizer))
    found = _byte_level(steps) or _sentencepiece(steps)
    if not found:
        kinds = ", ".join(step["type"] for step in steps) or "none"
        raise UserError(f"the tokenizer's decoder ({kinds}) is neither that of byte-level BPE nor of SentencePiece BPE")
    convert, strip = found
    pieces, left_out, fallback = [b""] * rows, np.ones(rows, "u1"), np.zeros(rows, "u1")
    for token, i in tokenizer.get_vocab(with_added_tokens=True).items():
        (pieces[i], fallback[i]), left_out[i] = convert(token), 0
    for i, token in tokenizer.get_added_tokens_decoder().items():
        left_out[i] = token.special
    offsets = np.zeros(rows + 1, "<i8")
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return Vocabulary(np.frombuffer(b"".join(pieces), "u1"), offsets, left_out, fallback, strip)

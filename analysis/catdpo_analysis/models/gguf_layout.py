"""A GGUF file's counts, lengths and offsets compared with its size, before the gguf package follows them: it would read
on behind the end, for hours if a count says so.

Layout: magic, version, number of tensors, number of metadata; metadata (key, type, value); tensors (name, dimensions,
type, offset); values, aligned.
"""

import mmap
import os
import struct

import gguf

from catdpo_analysis.errors import UserError

WIDTH = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value by its type
STRING, ARRAY = 8, 9
DEEPEST, MOST_AXES, ALIGNMENT = 2, 4, 32


class _Cursor:
    def __init__(self, data, path):
        self.data, self.path, self.at, self.order = data, path, 0, "<"

    def refuse(self, what):
        raise UserError(f"{self.path} cannot be read as GGUF: {what}; it is damaged or cut short, download it again")

    def skip(self, size, what):
        if size > len(self.data) - self.at:
            self.refuse(f"{what} at byte {self.at} asks for {size} bytes, the file has {len(self.data)}")
        self.at += size

    def number(self, kind, what):
        start = self.at
        self.skip(struct.calcsize(kind), what)
        return struct.unpack_from(self.order + kind, self.data, start)[0]

    def string(self, what):
        start = self.at + 8
        self.skip(self.number("Q", what), what)
        return self.data[start : self.at]

    def value(self, kind, what, depth=0):
        """A string's or a number's bytes; None for an array."""
        start = self.at
        if kind in WIDTH:
            self.skip(WIDTH[kind], what)
        elif kind == STRING:
            return self.string(what)
        elif kind == ARRAY and depth < DEEPEST:
            kind, count = self.number("I", what), self.number("Q", what)
            if kind in WIDTH:
                self.skip(WIDTH[kind] * count, what)
            else:
                if count > (len(self.data) - self.at) // 8:
                    self.refuse(f"{what} at byte {start} claims {count} entries, the file has {len(self.data)} bytes")
                for _ in range(count):
                    self.value(kind, what, depth + 1)
            return None
        else:
            self.refuse(f"{what} at byte {start} has the unknown type {kind}")
        return self.data[start : self.at]


def _check_tensor(cursor, index):
    """One entry of the table; returns (name, offset, bytes)."""
    what = f"tensor {index}"
    name = cursor.string(what).decode("utf-8", "replace")
    what = f"tensor {name[:64]}"
    axes = cursor.number("I", what)
    if axes > MOST_AXES:
        cursor.refuse(f"{what} claims {axes} axes")
    elements = 1
    for _ in range(axes):
        elements *= cursor.number("Q", what)
    kind, offset = cursor.number("I", what), cursor.number("Q", what)
    try:
        block, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        cursor.refuse(f"{what} has the unknown type {kind}")
    if elements % block:
        cursor.refuse(f"{what} has {elements} elements, no multiple of the block of its type")
    return what, offset, elements // block * width


def _check(cursor):
    magic, cursor.at = bytes(cursor.data[:4]), 4
    version = cursor.number("I", "the version")
    if magic != b"GGUF":
        cursor.refuse("it does not begin with GGUF")
    if version & 0xFFFF == 0:  # written on a big-endian machine
        cursor.order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in (2, 3):
        raise UserError(f"{cursor.path} is GGUF of version {version}; versions 2 and 3 can be read: convert it again")
    tensors, metadata = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of metadata")
    for what, count in (("tensors", tensors), ("metadata", metadata)):
        if count > len(cursor.data) // 12:
            cursor.refuse(f"it claims {count} {what}, but has {len(cursor.data)} bytes")
    alignment, seen = ALIGNMENT, set()
    for index in range(metadata):
        key = cursor.string(f"key {index} of the metadata").decode("utf-8", "replace")
        what = f"metadata {key[:64]}"
        if key in seen:
            cursor.refuse(f"{what} is there twice")
        seen.add(key)
        kind = cursor.number("I", what)
        value = cursor.value(kind, what)
        if key == "general.alignment":
            alignment = int.from_bytes(value or b"", "little" if cursor.order == "<" else "big")
            if kind != 4 or not 1 <= alignment <= 1 << 20:
                cursor.refuse(f"{what} is no alignment")
    table = [_check_tensor(cursor, index) for index in range(tensors)]
    start = cursor.at + -cursor.at % alignment
    for what, offset, size in table:
        if offset % alignment or start + offset + size > len(cursor.data):
            cursor.refuse(f"{what} has {size} bytes at {start + offset}, the file has {len(cursor.data)}")


def check_layout(path, shown):
    """Refuses a file whose numbers do not fit its size; `shown` is its name in messages."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < 24:
            raise UserError(f"{shown} cannot be read as GGUF: it is shorter than a header; download it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check(_Cursor(data, shown))

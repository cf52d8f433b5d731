"""Tensors in safetensors files, one at a time: read as float32 whatever they are stored as, written as float32, bf16 or
f16.

The library reads a file's header and checks it against the file; the values are mapped, so that memory holds one
tensor. Its numpy side knows no bf16 and writes only whole files from memory, hence the few lines here.
"""

import json
import os

import numpy as np
from safetensors import SafetensorError, safe_open

from catdpo_analysis.errors import UserError, shorten

READABLE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
WRITABLE = {"f32": ("F32", 4), "bf16": ("BF16", 2), "f16": ("F16", 2)}


class SafetensorsFile:
    """The tensors of one file. `names` lists them; `read` gives one as a float32 array."""

    def __init__(self, path):
        self.path = path
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} cannot be read as safetensors (cut short, or a Git LFS pointer?): {shorten(error, 160)}"
            ) from None
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self.header = json.loads(file.read(size), object_pairs_hook=self._unique)
        self.header.pop("__metadata__", None)
        self.start = 8 + size
        self.names = list(self.header)

    def _unique(self, pairs):
        names = dict(pairs)
        if len(names) < len(pairs):
            twice = next(name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1)
            raise UserError(f"{self.path}: its header has two entries called {shorten(twice)}; the file is damaged")
        return names

    def shape(self, name):
        return tuple(self.header[name]["shape"])

    def read(self, name):
        entry = self.header[name]
        if entry["dtype"] not in READABLE:
            raise UserError(
                f"{self.path}: tensor {name} is stored as {entry['dtype']}; only F32, F16 and BF16 are supported, so "
                "import the "
                "model as its authors published it, not a quantised copy"
            )
        begin, end = entry["data_offsets"]
        dtype = np.dtype(READABLE[entry["dtype"]])
        stored = np.fromfile(self.path, dtype=dtype, count=(end - begin) // dtype.itemsize, offset=self.start + begin)
        if entry["dtype"] == "BF16":
            stored = (stored.astype(np.uint32) << np.uint32(16)).view("<f4")
        return stored.astype("<f4", copy=False).reshape(entry["shape"])


def to_bf16(values):
    """float32 -> the upper 16 bits, rounded to nearest even, as uint16. NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
    rounded = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype("<u2")


def write_safetensors(path, tensors, dtype, read):
    """Writes `tensors` (name -> shape) as `dtype`; `read(name)` gives each float32 array when its turn comes."""
    label, width = WRITABLE[dtype]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        size = int(np.prod(shape, dtype=np.int64)) * width
        header[name] = {"dtype": label, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in tensors:
            values = read(name)
            if dtype == "bf16":
                values = to_bf16(values)
            elif dtype == "f16":
                with np.errstate(over="ignore"):
                    values = values.astype("<f2")
                if not np.isfinite(values).all():
                    raise UserError(
                        f"tensor {name} has values beyond the range of f16; export with --dtype bf16 or f32"
                    )
            values.tofile(file)
        file.flush()
        os.fsync(file.fileno())

"""Checksums of tensors and digests of models and files, as the trainer computes them.

A tensor is taken as its row-major sequence of 32-bit words b_i. Each word is mixed with its place by splitmix64 and
the results are added modulo 2^64, so that the sum can be formed from any partition of the tensor in any order.
"""

import hashlib

import numpy as np

GOLDEN, MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
CHUNK = 1 << 18  # words at a time: the temporaries stay in the processor's cache
FNV_START, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


def words_checksum(words, first=0):
    """Checksum of a 1-D array of 32-bit words whose first one has the global index `first`. Returns an int in [0,
    2^64)."""
    words = np.ascontiguousarray(words).reshape(-1).view("<u4")
    total = 0
    for at in range(0, words.size, CHUNK):
        z = words[at : at + CHUNK].astype(np.uint64)
        place = np.arange(first + at + 1, first + at + 1 + z.size, dtype=np.uint64)
        z += place * GOLDEN
        z ^= z >> np.uint64(30)
        z *= MIX_1
        z ^= z >> np.uint64(27)
        z *= MIX_2
        z ^= z >> np.uint64(31)
        total += int(z.sum(dtype=np.uint64))
    return total & 0xFFFFFFFFFFFFFFFF


def tensor_checksum(tensor):
    """Checksum of a whole float32 or int32 array of any shape."""
    tensor = np.asarray(tensor)
    if tensor.dtype.itemsize != 4:
        raise TypeError(f"checksums are defined for 32-bit elements, not {tensor.dtype}")
    return words_checksum(tensor)


def bytes_checksum(data):
    """Checksum of bytes, each a word of its own."""
    return words_checksum(np.frombuffer(data, dtype=np.uint8).astype("<u4"))


def weights_digest(checksums):
    """Digest of a model: FNV-1a over "NAME=CHECKSUM\\n" in the order of the names. `checksums`: Hugging Face name ->
    checksum."""
    h = FNV_START
    for name in sorted(checksums):
        for byte in f"{name}={checksums[name]:016x}\n".encode():
            h = ((h ^ byte) * FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def sha256(data):
    """Hex digest of bytes or of a text's UTF-8 bytes."""
    return hashlib.sha256(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data).hexdigest()

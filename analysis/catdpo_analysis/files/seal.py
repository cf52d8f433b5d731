"""The seal behind the end of a file: checksums of all bytes that no dataset's own checksum covers. src/io/h5_seal.c
describes it; HDF5 ignores it, and cuts it off when a file is opened for writing."""

import os

import h5py
import numpy as np

from catdpo_analysis.files.digest import words_checksum

MARK = b"catdpo-seal 1\r\n\0"
BLOCK = 1 << 22  # bytes summed at once, a multiple of 4


def _covered(path):
    """[begin, end) of the datasets that have checksums, in the order of the file; neighbours are one."""
    found = []
    with h5py.File(path, "r", locking=False) as file:

        def visit(_, item):
            if isinstance(item, h5py.Dataset) and "checksum" in item.attrs and item.id.get_offset() is not None:
                found.append((item.id.get_offset(), item.id.get_offset() + item.id.get_storage_size()))

        file.visititems(visit)
    ranges = []
    for begin, end in sorted(found):
        if ranges and begin <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((begin, end))
    return ranges


def _rest_checksum(file, size, ranges):
    """Of the bytes of a file of `size` bytes that lie in no range, one after another in words of four, and of the
    size."""
    total, words, held = 0, 0, b""
    edges = [0, *(edge for begin_end in ranges for edge in begin_end), size]
    for begin, end in zip(edges[::2], edges[1::2]):
        file.seek(begin)
        while begin < end:
            data = file.read(min(end - begin, BLOCK))
            begin += len(data)
            held += data
            whole = len(held) // 4 * 4
            total += words_checksum(np.frombuffer(held[:whole], "<u4"), words)
            words += whole // 4
            held = held[whole:]
    if held:
        total += words_checksum(np.frombuffer(held.ljust(4, b"\0"), "<u4"), words)
        words += 1
    total += words_checksum(np.array([size], "<i8").view("<u4"), words)
    return total % 2**64


def seal(path):
    """Puts the seal behind a finished HDF5 file."""
    ranges, size = _covered(path), os.path.getsize(path)
    with open(path, "r+b") as file:
        numbers = np.array([edge for begin_end in ranges for edge in begin_end] + [size, len(ranges)], "<i8").tobytes()
        numbers += np.uint64(_rest_checksum(file, size, ranges)).tobytes()
        file.seek(size)
        file.write(numbers + np.uint64(words_checksum(np.frombuffer(numbers, "<u4"))).tobytes() + MARK)

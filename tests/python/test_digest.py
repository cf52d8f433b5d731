import glob
import os

import h5py
import numpy as np
import pytest

from catdpo_analysis.files import h5io
from catdpo_analysis.models.architecture import Architecture, dataset_name
from catdpo_analysis.files.digest import tensor_checksum, weights_digest, words_checksum

M = 0xFFFFFFFFFFFFFFFF


def by_hand(words):
    total = 0
    for i, word in enumerate(words):
        z = (int(word) + (i + 1) * 0x9E3779B97F4A7C15) & M
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
        total += z ^ (z >> 31)
    return total & M


def test_checksum_is_the_documented_formula():
    values = np.random.default_rng(0).standard_normal(1000).astype("<f4").reshape(10, 100)
    assert tensor_checksum(values) == by_hand(values.reshape(-1).view("<u4"))


def test_checksum_does_not_depend_on_how_a_tensor_is_cut():
    words = np.random.default_rng(1).integers(0, 2**32, 700000, dtype=np.uint64).astype("<u4")
    whole = words_checksum(words)
    cuts = [0, 5, 262144, 262145, 699999, 700000]
    assert sum(words_checksum(words[a:b], first=a) for a, b in zip(cuts, cuts[1:])) & M == whole


def test_checksum_notices_an_exchange_of_two_values():
    assert tensor_checksum(np.array([1, 2], "<f4")) != tensor_checksum(np.array([2, 1], "<f4"))


def test_weights_digest_is_fnv_over_names_in_order():
    h = 0xCBF29CE484222325
    for byte in b"a=0000000000000001\nb=00000000000000ff\n":
        h = ((h ^ byte) * 0x100000001B3) & M
    assert weights_digest({"b": 255, "a": 1}) == f"{h:016x}"


FIXTURES = sorted(
    path
    for path in glob.glob(os.path.join(os.path.dirname(__file__), "..", "reference", "tiny_*.h5"))
    if "pairs" not in path
)


@pytest.mark.parametrize("path", FIXTURES, ids=os.path.basename)
def test_digests_agree_with_the_trainers_fixtures(path):
    """The same file gives the same checksums here, in the trainer's tests and in the script that made it."""
    with h5py.File(path) as file:
        if h5io.text(file, "format") != "catdpo-model":
            pytest.skip("not a model")
        checksums = {}
        for name in Architecture.load(file["model"], path).tensors():
            dataset = file[dataset_name(name)]
            checksums[name] = tensor_checksum(dataset[...])
            assert int(dataset.attrs["checksum"]) == checksums[name]
        assert h5io.text(file["model"], "weights_digest") == weights_digest(checksums)

"""Who wrote the responses: kept by prepare, tabulated with the label, said where it gives the label away."""

import math

import h5py
import numpy as np
import pytest
from conftest import pku, trl

from catdpo_analysis.files import authors
from catdpo_analysis.files.authors import information, tabulate


def test_information_is_ln_2_and_0_where_it_must_be():
    """ln 2 if the author tells the label, 0 if each is chosen as often as rejected, and never more than ln 2."""
    assert information([[40, 0], [0, 40]]) == pytest.approx(math.log(2), abs=1e-12)
    assert information([[10, 0], [30, 0], [0, 40]]) == pytest.approx(math.log(2), abs=1e-12)
    assert information([[25, 25]]) == 0 and information([[7, 7], [3, 3]]) == pytest.approx(0, abs=1e-12)
    assert math.isnan(information([[0, 0]]))
    rng = np.random.default_rng(0)
    for _ in range(100):
        table = rng.multinomial(50, rng.dirichlet(np.ones(8))).reshape(4, 2)
        assert -1e-12 <= information(table) <= math.log(2) + 1e-12
    half = information([[30, 10], [10, 30]])  # by hand: ln 2 - H(1/4)
    assert half == pytest.approx(math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75))


def test_table_by_category():
    """Pairs of which one author is unknown do not count; a pair counts in each of its categories."""
    table = tabulate([("a", "b"), ("b", "a"), ("a", "b"), ("a", "")], [["x"], ["x"], ["x", "y"], ["y"]], ["x", "y"])
    assert table.authors == ["a", "b"] and table.pairs.tolist() == [3, 1, 3]
    assert table.counts[0].tolist() == [[2, 1], [1, 2]] and table.counts[1].tolist() == [[1, 0], [0, 1]]
    assert table.information[1] == pytest.approx(math.log(2)) and tabulate([("", "")], [["x"]], ["x"]) is None


ROWS = {
    "trl": lambda i, better, worse: trl(
        f"q {i}", f" good {i}", f" bad {i}", category="fraud", chosen_source=better, rejected_source=worse
    ),
    "model columns": lambda i, better, worse: trl(
        f"q {i}", f" good {i}", f" bad {i}", category="fraud", chosen_model=better, model_rejected=worse
    ),
    "pku, swapped by its flags": lambda i, better, worse: pku(
        f"q {i}",
        safe=(False, True),
        responses=(f"bad {i}", f"good {i}"),
        response_0_source=worse,
        response_1_source=better,
    ),
}


@pytest.mark.parametrize("form", ROWS)
def test_an_author_that_tells_the_label_is_warned_of(prepare, jsonl, form, tmp_path):
    """Every form of row; `source` follows the response, wherever the transformation puts it."""
    rows = [ROWS[form](i, "teacher", "own") for i in range(12)]
    done = prepare(jsonl(*rows), options=["--heldout", "0.25"])
    assert "warning: who wrote a response gives its label away in all pairs" in done.printed
    assert "author: chosen / rejected" in done.printed
    with h5py.File(tmp_path / "pairs.h5") as file:
        names = [name.decode() for name in file["sources/name"][...]]
        for part in ("train", "heldout"):
            found = file[f"{part}/source"][...]
            assert found.shape == (len(file[f"{part}/chosen_safe"]), 2)
            assert {tuple(names[i] for i in row) for row in found} == {("teacher", "own")}
    path = str(tmp_path / "pairs.h5")
    read = authors.read(path)
    assert read.information[-1] == pytest.approx(math.log(2)) and read.counts[-1].tolist() == [[0, 12], [12, 0]]
    assert authors.read(path, "another digest") is None


def test_authors_on_both_sides_are_not_warned_of(prepare, jsonl, tmp_path):
    rows = [ROWS["trl"](i, *(("a", "b") if i % 2 else ("b", "a"))) for i in range(12)]
    done = prepare(jsonl(*rows), options=["--heldout", "0"])
    assert "author: chosen / rejected" in done.printed and "gives its label away" not in done.printed
    assert authors.read(str(tmp_path / "pairs.h5")).information[-1] == pytest.approx(0, abs=1e-12)


def test_nobody_says_who_wrote_what(prepare, jsonl, tmp_path):
    done = prepare(jsonl(*[trl(f"q {i}") for i in range(3)]), options=["--heldout", "0"])
    assert "Who wrote" not in done.printed
    with h5py.File(tmp_path / "pairs.h5") as file:
        assert "sources" not in file and "source" not in file["train"]


def test_an_author_that_is_no_name_is_refused(prepare, jsonl):
    error = prepare(jsonl(trl("q", chosen_source={"a": 1})), status=2).err
    assert "pairs.jsonl:1: chosen_source must be the name of who wrote it" in error
    error = prepare(jsonl(trl("q", chosen_source="x" * 300)), status=2).err
    assert "at most 255 bytes" in error

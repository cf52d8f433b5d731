"""Promise: what Python writes is what the tables of the C program say: every row is there, with its type, its axes, its
unit and its description, and attributes within their bounds."""

import os
import subprocess
from typing import NamedTuple

import engine
import h5py
import pytest
from conftest import trl, write_model

PROGRAM = os.path.join(os.path.dirname(engine.BINARY), "tests", "unit", "print_formats")
pytestmark = pytest.mark.skipif(not os.path.exists(PROGRAM), reason=f"{PROGRAM} is not built")


class Row(NamedTuple):
    format: str
    object: str
    attribute: str
    type: str
    axes: str
    units: str
    optional: str
    least: str
    most: str
    description: str


def table(name):
    """Rows of a format."""
    said = subprocess.run([PROGRAM], check=True, capture_output=True, text=True).stdout
    rows = [Row(*line.split("\t")) for line in said.splitlines()]
    return [row for row in rows if row.format == name]


def check_attribute(item, row):
    if row.attribute not in item.attrs and row.optional:
        return
    value = item.attrs[row.attribute]
    if row.type == "text":
        assert isinstance(value, (bytes, str)), row
        return
    assert value.dtype == row.type, row
    least, most = float(row.least), float(row.most)
    assert (least == 0 and most == 0) or least <= value <= most, row


def check_dataset(item, row):
    if row.type == "text":
        assert item.dtype.kind == "S" and item.ndim == (1 if row.axes else 0), row
    else:
        assert item.dtype == row.type and item.attrs["units"].decode() == row.units, row
        assert item.attrs["description"].decode() == row.description, row
    for axis, label in enumerate(filter(None, row.axes.split(","))):
        if label != "-" and not item.is_scale:
            assert item.dims[axis].label == label, row


def check(path, rows, group=""):
    """All rows of a table in a file, "@" being the group."""
    assert rows
    with h5py.File(path) as file:
        for row in rows:
            item = file[row.object.replace("@", group)]
            (check_attribute if row.attribute else check_dataset)(item, row)


@pytest.fixture
def pairs(cli, tokenizer_dir, jsonl, tmp_path):
    """A pairs.h5 with pairs, segments and scores where options ask for them, and rows that are prompts only."""

    def make(*options):
        rows = [
            trl(
                f"the sky {i}",
                chosen=" I think</t> is blue",
                rejected=" green</t> is green",
                category="x",
                chosen_scores={"a": 1, "b": 2},
                rejected_scores={"a": 3, "b": i},
            )
            for i in range(6)
        ]
        out = tmp_path / "pairs.h5"
        rows.append({"prompt": "the grass", "category": "x"})
        cli("prepare", jsonl(*rows), "--tokenizer", tokenizer_dir, "--out", out, "--heldout", "0.5", *options)
        return out

    return make


@pytest.mark.parametrize("more", [False, True])
def test_pairs(pairs, more):
    path = pairs(*(["--segment-tag", "</t>", "--scores", "a,b"] if more else []))
    optional = ("@/segment", "@/score", "/scores")
    rows = [row for row in table("pairs") if more or not row.object.startswith(optional)]
    for group in ("train", "heldout"):
        check(path, rows, group)
        check(path, table("prompts"), f"{group}/prompts")
    check(path, table("prompts"), "prompts")


def test_model(cli, tmp_path):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "model.h5")
    check(tmp_path / "model.h5", table("model"))


def test_fixtures():
    """The files that tests/reference makes, in code of its own, keep to them too."""
    check(engine.fixture("tiny_gemma3"), table("model"))


def test_what_the_program_writes():
    """And so do those of the program itself."""
    run = engine.train(1, **{"schedule.steps": 2})
    check(run.path("reference.h5"), table("reference"), "train")
    check(run.path("checkpoints/final.h5"), table("checkpoint"))

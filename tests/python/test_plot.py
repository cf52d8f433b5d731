"""`plot`, `track` and the importable functions: a figure in the form that is asked for, the log's own numbers in event
files, arrays as they stand in metrics.h5."""

import json
import os

import h5py
import numpy as np
import pytest
from catdpo_analysis import cli
from catdpo_analysis.api import category, open_run, trajectory
from catdpo_analysis.errors import UserError
from make_run import write_log, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    write_run(folder)
    write_log(folder, 7)
    return str(folder)


def test_figures_in_each_form(run, tmp_path, capsys):
    """By its ending; every name that is listed can be drawn."""
    for form, begins in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
        out = tmp_path / f"margin.{form}"
        assert cli.main(["plot", run, "margin", "--out", str(out)]) == 0
        assert out.read_bytes().startswith(begins)
    capsys.readouterr()
    assert cli.main(["plot", run]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"margin", "violation_rate", "evaluation", "loss"} <= set(names)
    assert cli.main(["plot", run, "loss", "--narrow", "--out", str(tmp_path / "loss.svg")]) == 0


def test_wrong_names(run, tmp_path, capsys):
    assert cli.main(["plot", run, "margins"]) == 2
    assert "nothing called margins" in capsys.readouterr().err
    assert cli.main(["plot", run, "margin", "--out", "x.bmp"]) == 2
    assert "svg, pdf, png" in capsys.readouterr().err
    assert cli.main(["track", run]) == 2
    assert "--tensorboard" in capsys.readouterr().err
    assert cli.main(["track", str(tmp_path), "--tensorboard", str(tmp_path / "tb")]) == 2
    assert "no " in capsys.readouterr().err


def read_events(folder):
    """{tag: [(step, value)]} as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_event_files(run, tmp_path):
    """What TensorBoard reads is what the log has."""
    assert cli.main(["track", run, "--tensorboard", str(tmp_path / "tb")]) == 0
    found = read_events(tmp_path / "tb")
    with open(os.path.join(run, "log.jsonl")) as file:
        rows = [json.loads(line) for line in file]
    assert [step for step, _ in found["train/loss"]] == [row["step"] for row in rows]
    assert np.allclose([value for _, value in found["train/loss"]], [row["loss"] for row in rows], rtol=1e-6)
    name = next(iter(rows[0]["margins"]))
    assert np.allclose([v for _, v in found[f"margins/{name}"]], [row["margins"][name] for row in rows], rtol=1e-6)


def test_functions(run):
    """The arrays of metrics.h5 under their names; a wrong one is told with those that there are."""
    opened = open_run(run)
    with h5py.File(os.path.join(run, "metrics.h5")) as file:
        margins, loss = file["train/category/margin"][:], file["train/loss"][:]
    steps, values = trajectory(opened, "margin")
    assert np.array_equal(values, margins) and len(steps) == len(values)
    assert np.array_equal(trajectory(opened, "loss")[1], loss)
    first = opened.metrics.categories[0]
    assert np.array_equal(trajectory(opened, "margin", first)[1], margins[:, 0])
    assert np.array_equal(category(opened, first)["margin"], margins[:, 0])
    for call in (lambda: trajectory(opened, "nothing"), lambda: category(opened, "Nobody")):
        with pytest.raises(UserError, match="there are|the run has"):
            call()

"""catdpo eval --attack and --features: what eval.h5 has of them, on any grid."""

import os
import subprocess

import engine
import h5py
import numpy as np
import pytest

from catdpo_analysis.cli import main

pytestmark = engine.needs_binary

ATTACK = {"eval.radii": "0.05,0.2,0.8", "eval.steps": 6}
GRIDS = {"1x1": (1, {"parallel.grid": [1, 1]}), "2x1": (2, {"parallel.grid": [2, 1]}),
         "1x2": (2, {"parallel.grid": [1, 2]}), "2-replicas": (2, {"parallel.grid": [1, 1], "parallel.replicas": 2})}


def evaluate(grid, *options, **settings):
    ranks, more = GRIDS[grid]
    return engine.evaluate(ranks, options, **{**settings, **more})


def attacked(grid="1x1", kind="contrastive", **settings):
    return evaluate(grid, "--attack", kind, **{**ATTACK, **settings})


def test_radius_zero_is_the_evaluation_without_an_attack():
    """To the last bit, and everything else in the file is as without --attack."""
    plain, found = evaluate("1x1").read("eval.h5"), attacked().read("eval.h5")
    for path, values in plain.items():
        assert found[path].tobytes() == values.tobytes(), path
    for name in ("violations", "violation_rate", "violation_rate_low", "violation_rate_high"):
        assert found[f"eval/attack/{name}"][0].tobytes() == plain[f"eval/category/{name}"].tobytes(), name
    for name in ("logps_chosen", "logps_rejected"):
        assert found[f"eval/attack/{name}"][0].tobytes() == plain[f"eval/pairs/{name}"].tobytes(), name
    np.testing.assert_array_equal(found["eval/attack/radius"], [0, 0.05, 0.2, 0.8])


def test_loss_rises_with_the_radius_and_drawn_directions_hurt_less():
    """The sign of a gradient that is not masked."""
    found, drawn = attacked().read("eval.h5"), attacked(kind="random").read("eval.h5")

    def lead(file):
        return (file["eval/attack/logps_chosen"] - file["eval/attack/logps_rejected"]).mean(axis=1)

    assert (np.diff(lead(found)) < 0).all(), lead(found)
    fall = lead(found)[0] - lead(found)[1:]
    assert (fall > 2 * np.abs(lead(drawn)[1:] - lead(drawn)[0])).all(), (lead(found), lead(drawn))
    np.testing.assert_array_equal(
        drawn["eval/attack/violation_rate"], found["eval/attack/random_violation_rate"]
    )


def test_targeted_attack_makes_the_rejected_response_likely():
    found, other = attacked(kind="targeted").read("eval.h5"), attacked().read("eval.h5")
    rejected = found["eval/attack/logps_rejected"].mean(axis=1)
    assert (np.diff(rejected) > 0).all()
    assert rejected[-1] > other["eval/attack/logps_rejected"].mean(axis=1)[-1]


@pytest.mark.parametrize("grid", [name for name in GRIDS if name != "1x1"])
def test_same_curve_on_every_grid(grid):
    one, other = attacked().read("eval.h5"), attacked(grid).read("eval.h5")
    for name in ("logps_chosen", "logps_rejected"):
        np.testing.assert_allclose(other[f"eval/attack/{name}"][:3], one[f"eval/attack/{name}"][:3], rtol=1e-3)
    np.testing.assert_array_equal(other["eval/attack/violations"][0], one["eval/attack/violations"][0])


@pytest.mark.parametrize("grid", [name for name in GRIDS if name != "1x1"])
def test_features_are_those_of_one_rank(grid):
    """One row of hidden size for each completion, the same on every grid; the rest of the file is unchanged."""
    one, other = evaluate("1x1", "--features").read("eval.h5"), evaluate(grid, "--features").read("eval.h5")
    features = one["eval/pairs/features"]
    assert features.shape[:2] == (len(one["eval/pairs/index"]), 2) and features.dtype == np.float32
    assert (np.abs(features).max(axis=2) > 0).all() and not np.array_equal(features[:, 0], features[:, 1])
    np.testing.assert_allclose(other["eval/pairs/features"], features, rtol=1e-3, atol=1e-4)
    plain = evaluate("1x1").read("eval.h5")
    assert set(one) - set(plain) == {"eval/pairs/features", "eval/pairs/prompt"}
    with h5py.File(engine.PAIRS) as file:
        side = file["heldout/chosen"]
        prompts = [
            tuple(side["tokens"][start : start + length])
            for start, length in zip(side["offsets"][:-1], side["prompt_length"][...])
        ]
    keys = one["eval/pairs/prompt"]
    assert len(keys) == len(prompts)
    assert all((a == b) == (x == y) for a, x in zip(prompts, keys) for b, y in zip(prompts, keys))


def test_check_accepts_and_verifies_both(tmp_path):
    """`check` reads what was added, and notices a rate that does not follow from its counts."""
    run = evaluate("1x1", "--features", "--attack", **ATTACK)
    path = run.path("eval.h5")
    done = subprocess.run([engine.BINARY, "check", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = engine.copy(path, lambda file: file["eval/attack/violation_rate"].__setitem__((1, 0), 0.123), "eval.h5")
    done = subprocess.run([engine.BINARY, "check", wrong], capture_output=True, text=True)
    assert done.returncode != 0 and "eval.h5" in done.stdout + done.stderr
    assert os.path.exists(path)


def test_the_report_shows_the_curve(capsys, tmp_path):
    """Rates by radius on the terminal and on the page, with a figure."""
    run, page = attacked(), tmp_path / "page.html"
    options = ["--before", run.path("eval.h5"), "--out", str(page)]
    assert main(["report", os.path.dirname(run.path("eval.h5")), *options]) == 0
    printed, html = capsys.readouterr().out, page.read_text()
    assert "under attack (contrastive l2)" in printed and "radius 0.8" in printed and "drawn direction" in printed
    assert "Perturbed prompts" in html and "Held-out violation rate under attack" in html


@pytest.mark.parametrize("radii", ["", "0.1,", "0.2,0.1", "0,1", "x", "nan", "0.1;0.2"])
def test_radii_that_are_no_list_are_refused(radii):
    run = engine.launch("eval", 1, **{"eval.attack": "targeted", "eval.radii": radii})
    assert run.statuses == [2] and "eval.radii" in run.errors[0], repr(run)

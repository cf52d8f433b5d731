"""The linear probe: finds what is planted, and nothing in noise or in shuffled labels; in the report of a run."""

import os

import engine
import numpy as np
import pytest

from catdpo_analysis.cli import main
from catdpo_analysis.report.probe import RIDGE, auc, probe, ridge

PAIRS, SIZE = 120, 48


def noise(seed):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(0, 30, PAIRS)
    features = rng.normal(size=(PAIRS, 2, SIZE)) + rng.normal(size=(30, 1, SIZE))[prompts]
    return features, prompts


def test_auc_of_scores():
    scores, positive = np.array([3.0, 2, 1, 1]), np.array([True, False, True, False])
    assert auc(scores, positive) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert auc(-scores, positive) == pytest.approx(1 - auc(scores, positive)) and np.isnan(auc(scores, positive | True))


def test_both_systems_of_ridge_regression_have_one_solution():
    """With more rows than features, and with fewer: the weights are those where the gradient vanishes."""
    rng = np.random.default_rng(6)
    for shape in ((30, 7), (7, 30)):
        x, y = rng.normal(size=shape), rng.normal(size=(shape[0], 2))
        weights = ridge(x, y)
        penalty = RIDGE * (x * x).sum() / len(x)
        np.testing.assert_allclose(x.T @ (x @ weights - y) + penalty * weights, 0, atol=1e-9)


def test_nothing_is_found_in_noise():
    """0.5 lies in the interval, and the outcome in that of shuffled labels."""
    result = probe(*noise(0))
    assert result.interval[0] < 0.5 < result.interval[1] and abs(result.null - 0.5) < 0.03
    assert result.null_interval[0] - 0.02 < result.auc < result.null_interval[1] + 0.02


def test_prompts_alone_tell_nothing():
    """Pairs of a prompt share their features but for the label's side: with folds by prompt nothing is learned, though
    a prompt that is in both parts could be remembered."""
    features, prompts = noise(1)
    rng = np.random.default_rng(2)
    signs = rng.normal(size=(30, 1, SIZE))[prompts] * np.array([1, -1])[None, :, None] * 3
    result = probe(features + signs, prompts)
    assert result.auc < 0.75, result


def test_a_planted_direction_is_found():
    features, prompts = noise(3)
    features[:, 0, 5] += 12
    result = probe(features, prompts)
    assert result.auc > 0.99 and result.interval[0] > 0.97 and abs(result.null - 0.5) < 0.05


def test_too_few_prompts():
    features, _ = noise(4)
    assert probe(features, np.zeros(PAIRS)) is None and probe(features * np.nan, np.arange(PAIRS)) is None


# ---- a style phrase in the data, through a model ---------------------------------------------------------------------


def with_pairs(phrase):
    """A file of 120 held-out pairs of 40 prompts: random answers, the chosen ones beginning with `phrase`."""
    rng = np.random.default_rng(5)
    prompts = [rng.integers(5, 90, 6) for _ in range(40)]

    def change(file):
        group, count = file["heldout"], 120
        sides = {}
        for side in ("chosen", "rejected"):
            opening = np.array(phrase if side == "chosen" else [], dtype=int)
            sides[side] = [
                np.concatenate([prompts[i % 40], opening, rng.integers(5, 90, 10 - len(opening))]) for i in range(count)
            ]
        categories = group["category_mask"].shape[1]
        for side, rows in sides.items():
            for name, values in (
                ("tokens", np.concatenate(rows)),
                ("offsets", np.cumsum([0, *map(len, rows)])),
                ("prompt_length", np.full(count, 6)),
            ):
                kind = group[side][name].dtype
                del group[side][name]
                group[side][name] = values.astype(kind)
        for name, value in (("chosen_safe", 1), ("rejected_safe", 0), ("chosen_better", 1)):
            kind = group[name].dtype
            del group[name]
            group[name] = np.full(count, value, kind)
        del group["category_mask"]
        group["category_mask"] = np.eye(categories, dtype="u1")[np.zeros(count, int)]
        group.attrs["pairs"] = count
        engine.set_text(file, "data_digest", f"planted {phrase}")

    return engine.copy(engine.PAIRS, change, "pairs.h5")


@engine.needs_binary
def test_a_planted_style_phrase_goes_to_auc_1_and_shuffled_labels_to_one_half(capsys):
    """Through eval --features of a tiny model, and into the report of its run."""
    found = {}
    for name, phrase in (("planted", [7] * 8), ("none", [])):
        run = engine.evaluate(1, ("--features",), **{"data.path": with_pairs(phrase)})
        file = run.read("eval.h5")
        found[name] = probe(file["eval/pairs/features"], file["eval/pairs/prompt"])
        assert found[name].pairs == 120 and found[name].prompts == 40
        if name == "planted":
            assert main(["report", os.path.dirname(run.path("eval.h5")), "--before", run.path("eval.h5")]) == 0
            assert "A linear probe on hidden features" in capsys.readouterr().out
    assert found["planted"].auc > 0.95 and abs(found["planted"].null - 0.5) < 0.1, found
    assert found["none"].interval[0] < 0.55, found

"""The same run on any layout: grids, replicas and accumulation change how fast it goes and nothing else."""

import engine
import numpy as np
import pytest

pytestmark = engine.needs_binary

LAYOUTS = [
    (1, 1, 1),
    (1, 2, 1),
    (1, 1, 2),
    (1, 2, 2),
    (1, 3, 1),
    (1, 1, 3),
    (2, 1, 1),
    (2, 2, 1),
    (2, 1, 2),
    (2, 3, 1),
    (2, 1, 3),
]  # replicas, rows, columns: all that fit 6 ranks
CONSTANT = ("n", "violations", "pairs", "margin", "violation_rate")
RUNS = {
    # hidden 12, MLP 19, vocabulary 97, 6/3 heads; the last step has 4 pairs of 6
    "catdpo": {
        "objective.type": "catdpo",
        "margin.initial": 1.0,
        "margin.eta": 0.5,
        "margin.averaging": 0.2,
        "batch.sampling": "uniform",
    },
    # hidden 13, MLP 17, vocabulary 97, 9/3 heads: nothing divides by 2 or 3 but the heads
    "dpo": {"objective.type": "dpo", "batch.sampling": "balanced", "model.path": engine.fixture("tiny_qwen2_tied")},
}
CASES = [("catdpo", layout, 1) for layout in LAYOUTS[1:]] + [("dpo", layout, 4) for layout in LAYOUTS] + \
        [("catdpo", layout, 4) for layout in LAYOUTS[:7]]


def specification(name, layout, accumulation):
    replicas, rows, columns = layout
    return replicas * rows * columns, {**RUNS[name], "parallel.replicas": replicas, "parallel.grid": [rows, columns],
                                       "batch.accumulation": accumulation, "optimizer.learning_rate": 0.02}


@pytest.fixture(scope="module", autouse=True)
def started():
    engine.prefetch([specification(name, LAYOUTS[0], 1) for name in RUNS] + [specification(*case) for case in CASES])


def get(name, layout, accumulation):
    ranks, settings = specification(name, layout, accumulation)
    return engine.train(ranks, **settings)


@pytest.mark.parametrize("name", RUNS)
def test_the_run_that_others_are_compared_with_moves(name):
    """Losses, margins and weights change enough in 5 steps for a difference between layouts to show."""
    run = get(name, LAYOUTS[0], 1)
    metrics = run.metrics()
    assert np.ptp(metrics["train/loss"]) > 0.05
    if name == "catdpo":
        assert (
            np.all(np.ptp(metrics["train/category/margin"], axis=0)[:2] > 0.3)
            and metrics["train/category/violations"].sum() > 3
        )
    start = engine.below(engine.read(RUNS[name].get("model.path", engine.DEFAULTS["model.path"])), "model")
    assert max(np.abs(values - start[path]).max() for path, values in run.weights().items()) > 0.05


@pytest.mark.parametrize(
    "name, layout, accumulation",
    CASES,
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_same_run_on_every_layout(name, layout, accumulation):
    """Losses within 1e-4 relative over 5 steps; the pairs of each step, counts, violations and margins exactly equal;
    what the ranks counted apart adds up to the totals."""
    one, other = get(name, LAYOUTS[0], 1).metrics(), get(name, layout, accumulation).metrics()
    np.testing.assert_allclose(other["train/loss"], one["train/loss"], rtol=1e-4)
    np.testing.assert_array_equal(other["train/pairs"], one["train/pairs"])
    np.testing.assert_array_equal(other["train/num_tokens"], one["train/num_tokens"])
    for column in CONSTANT:
        np.testing.assert_array_equal(other[f"train/category/{column}"], one[f"train/category/{column}"], column)

    ranks = int(np.prod(layout))
    assert other["train/partial/n"].shape[0] == ranks  # of all steps: they were flushed at once
    np.testing.assert_array_equal(other["train/partial/n"].sum(axis=0), other["train/category/n"].sum(axis=0))
    np.testing.assert_array_equal(
        other["train/partial/violations"].sum(axis=0) * 0.5, other["train/category/violations"].sum(axis=0)
    )
    if ranks > 1:  # counting is shared out, not done by one rank
        assert (other["train/partial/n"].sum(axis=1) > 0).sum() > 1

    for column in (
        "rewards/margins",
        "rewards/chosen",
        "logps/rejected",
        "logits/chosen",
        "entropy",
        "grad_norm",
        "category/loss",
    ):
        np.testing.assert_allclose(
            other[f"train/{column}"], one[f"train/{column}"], rtol=2e-3, atol=2e-4, err_msg=column
        )


def test_token_budget_cuts_a_step_into_passes_only():
    """batch.max_tokens, small enough for several passes a step, changes no number."""
    one = get("catdpo", (1, 1, 1), 1).metrics()
    settings = {
        **specification("catdpo", (1, 1, 2), 1)[1],
        "batch.max_tokens": 60,
        "engine.logits_mb": 0.01,
        "engine.recompute": True,
    }
    other = engine.train(2, **settings).metrics()
    np.testing.assert_allclose(other["train/loss"], one["train/loss"], rtol=1e-4)
    for column in CONSTANT:
        np.testing.assert_array_equal(other[f"train/category/{column}"], one[f"train/category/{column}"], column)


def test_sharded_optimizer_is_the_same_optimizer():
    """optimizer.shard: replicas that share out AdamW's state arrive at the weights that each would have reached
    alone."""
    ranks, settings = specification("catdpo", (2, 1, 1), 1)
    whole, shared = engine.train(ranks, **settings), engine.train(ranks, **settings, **{"optimizer.shard": True})
    np.testing.assert_array_equal(shared.metrics()["train/loss"], whole.metrics()["train/loss"])
    for group in ("model", "optimizer/m", "optimizer/v"):
        expected = whole.weights(group)
        for path, values in shared.weights(group).items():
            np.testing.assert_array_equal(values, expected[path], f"{group}/{path}")


def test_more_rows_than_key_value_heads():
    """A grid with more process rows than the model has key/value heads is refused, and the grids that would do are
    listed."""
    run = engine.run("train", 4, **{"parallel.grid": [4, 1]})
    assert run.statuses == [2] * 4 and len(run.errors) == 1, repr(run)
    assert "4x1" in run.errors[0] and "3 key/value heads" in run.errors[0]
    for valid in ("1x1", "1x2", "1x4", "2x1", "2x2"):
        assert valid in run.errors[0].split(":", 2)[-1]
    assert "3x1" not in run.errors[0]  # 3 does not divide 4 ranks


def test_auto_grid_says_what_it_chose():
    """parallel.grid = "auto" chooses a layout of all ranks, names it and says why."""
    run = engine.train(2, **{"parallel.grid": "auto", "schedule.steps": 1})
    line = next(line for line in run.err.splitlines() if line.startswith("grid "))
    replicas, rows, columns = (
        int(word) for word in line.replace("replicas of", "").replace("replica of", "").replace("x", " ").split()[1:4]
    )
    assert replicas * rows * columns == 2 and "memory" in line
    assert engine.attributes(run.path("metrics.h5"))["grid"] == f"{replicas}x{rows}x{columns}"

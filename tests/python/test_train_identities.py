"""catdpo, safedpo and dpo are one objective with different margins, and a run is repeatable: to the last bit."""

import functools

import engine
import numpy as np
import pytest

pytestmark = engine.needs_binary

LAYOUT = (2, {"parallel.grid": [2, 1], "optimizer.learning_rate": 0.02})
STATE = ("model", "optimizer/m", "optimizer/v")


@functools.cache
def one_category():
    """The same pairs, all in one category."""
    def change(file):
        for split in ("train", "heldout"):
            count = len(file[f"{split}/category_mask"])
            del file[f"{split}/category_mask"]
            file[f"{split}/category_mask"] = np.ones((count, 1), "u1")
        del file["categories/name"], file["categories/harm"]
        engine.catdpo_h5.write_categories(file["categories"], ["all"], [1])
        engine.set_text(file, "data_digest", "one category")
    return engine.copy(engine.PAIRS, change, "pairs.h5")


def pairs_of_runs():
    one = {"data.path": one_category()}
    return {
        "margins-all-zero-is-dpo": (
            {"objective.type": "dpo"},
            {"objective.type": "catdpo", "margin.initial": 0.0, "margin.eta": 0.0},
        ),
        "fixed-scope-at-zero-is-dpo": (
            {"objective.type": "dpo"},
            {"objective.type": "catdpo", "margin.scope": "fixed", "margin.initial": 0.0},
        ),
        "one-fixed-category-is-safedpo": (
            {**one, "objective.type": "safedpo", "margin.initial": 2.0},
            {**one, "objective.type": "catdpo", "margin.scope": "fixed", "margin.initial": 2.0},
        ),
        "one-resting-category-is-safedpo": (
            {**one, "objective.type": "safedpo", "margin.initial": 2.0},
            {**one, "objective.type": "catdpo", "margin.initial": 2.0, "margin.eta": 0.0},
        ),
        "equal-margins-is-global": (
            {"objective.type": "catdpo", "margin.scope": "category", "margin.initial": 1.5, "margin.eta": 0.0},
            {"objective.type": "catdpo", "margin.scope": "global", "margin.initial": 1.5, "margin.eta": 0.0},
        ),
        "moving-margin-of-one-category-is-global": (
            {**one, "margin.scope": "category", "margin.eta": 0.7},
            {**one, "margin.scope": "global", "margin.eta": 0.7},
        ),
        "adversary-of-radius-zero-is-none": (
            {**one, "adversary.type": "none"},
            {**one, "adversary.type": "contrastive", "adversary.radius": 0.0},
        ),
        "adversary-of-no-steps-is-none": (
            {**one, "adversary.type": "none"},
            {**one, "adversary.type": "targeted", "adversary.steps": 0},
        ),
        "equal-margins-have-no-aggregation": (
            {"margin.initial": 1.5, "margin.eta": 0.0, "margin.aggregation": "max"},
            {"margin.initial": 1.5, "margin.eta": 0.0, "margin.aggregation": "mean"},
        ),
    }


@pytest.fixture(scope="module", autouse=True)
def started():
    engine.prefetch([(LAYOUT[0], {**LAYOUT[1], **settings}) for both in pairs_of_runs().values() for settings in both])


def assert_same(one, other, names):
    for name in names:
        assert one[name].tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("name", pairs_of_runs())
def test_objectives_are_one(name):
    """Margins all zero is DPO, one category with a fixed margin is SafeDPO, equal margins are the global one: losses,
    gradient norms, weights and optimiser state are the same bits."""
    first, second = (engine.train(LAYOUT[0], **LAYOUT[1], **settings) for settings in pairs_of_runs()[name])
    one, other = first.metrics(), second.metrics()
    assert_same(
        one,
        other,
        [
            f"train/{column}"
            for column in ("loss", "grad_norm", "rewards/margins", "category/loss", "category/margin", "pairs")
        ],
    )
    assert_same(
        first.checkpoint(), second.checkpoint(), [path for path in first.checkpoint() if path.startswith(STATE)]
    )
    if "moving" in name:
        assert np.ptp(one["train/category/margin"]) > 0.1


def test_margins_change_the_run():
    """The identities above would hold for an objective that ignored its margins: it does not."""
    dpo, fixed, safe = (
        engine.train(LAYOUT[0], **LAYOUT[1], **settings).metrics()["train/loss"]
        for settings in (
            {"objective.type": "dpo"},
            pairs_of_runs()["equal-margins-is-global"][0],
            pairs_of_runs()["one-fixed-category-is-safedpo"][0],
        )
    )
    assert (
        not np.allclose(dpo, fixed, rtol=0.05)
        and not np.allclose(dpo, safe, rtol=0.05)
        and not np.allclose(fixed, safe, rtol=0.05)
    )


@pytest.mark.parametrize(
    "ranks, more",
    [(4, {"parallel.grid": [2, 2]}), (4, {"parallel.grid": [1, 2], "parallel.replicas": 2})],
    ids=["2x2", "2-replicas-of-1x2"],
)
def test_same_layout_same_bits(ranks, more):
    """The same run twice on the same layout: metrics, checkpoint and reference are the same bits; only times differ."""
    settings = {"objective.type": "catdpo", "margin.eta": 0.5, "optimizer.learning_rate": 0.02, **more}
    first, second = engine.train(ranks, **settings), engine.succeed(engine.launch("train", ranks, **settings))
    assert first.directory != second.directory
    one, other = first.metrics(), second.metrics()
    assert one.keys() == other.keys()
    assert_same(one, other, [name for name in one if not name.startswith("timing/") and name != "config"])
    for name in ("reference.h5", "checkpoints/final.h5"):
        one, other = first.read(name), second.read(name)
        assert one.keys() == other.keys()
        assert_same(one, other, [path for path in one if path != "config" and one[path].dtype.kind != "O"])


def test_config_of_a_run_starts_the_same_run():
    """config.cfg in the run directory is a config: starting from it gives the same bits."""
    first = engine.train(LAYOUT[0], **LAYOUT[1], **{"objective.type": "dpo"})
    folder = engine.new_folder("again")
    directory = f"{folder}/run"
    again = engine.succeed(
        engine.start(
            ["train", first.path("config.cfg"), "--set", f"run.dir={directory}"], LAYOUT[0], folder, directory=directory
        )
    )
    assert_same(first.checkpoint(), again.checkpoint(), [path for path in first.checkpoint() if path.startswith(STATE)])
    assert_same(first.metrics(), again.metrics(), ["train/loss"])

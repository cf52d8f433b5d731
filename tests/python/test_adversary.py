"""Training against perturbed prompts: what is recorded of it, what it counts, and when it is refused."""

import engine
import numpy as np
import pytest

pytestmark = engine.needs_binary

RUN = {"parallel.grid": [1, 1], "optimizer.learning_rate": 0.02, "schedule.steps": 4}
ATTACK = {**RUN, "adversary.type": "contrastive", "adversary.radius": 0.2, "adversary.steps": 4}
RUNS = {
    "none": RUN,
    "attacked": ATTACK,
    "clean": {**ATTACK, "adversary.counts": "clean"},
    "targeted": {**ATTACK, "adversary.type": "targeted"},
    "random": {**ATTACK, "adversary.type": "random"},
    "absolute": {**ATTACK, "adversary.radius_unit": "absolute"},
}


@pytest.fixture(scope="module", autouse=True)
def started():
    engine.prefetch([(1, settings) for settings in RUNS.values()])


def metrics(name):
    return engine.train(1, **RUNS[name]).metrics()


@pytest.mark.parametrize("name", ["attacked", "clean", "targeted", "random"])
def test_clean_numbers_are_those_of_the_run_without_adversary(name):
    """At the first step the weights are the same: loss and violations of the prompts as they are equal those of the
    run without an adversary; those of the perturbed prompts do not."""
    plain, run = metrics("none"), metrics(name)
    assert np.isnan(plain["train/adversary/radius"]).all() and np.isnan(plain["train/adversary/clean_loss"]).all()
    np.testing.assert_allclose(run["train/adversary/clean_loss"][0], plain["train/loss"][0], rtol=1e-6)
    np.testing.assert_array_equal(
        run["train/category/clean_violations"][0], plain["train/category/violations"][0]
    )
    assert run["train/loss"][0] != pytest.approx(plain["train/loss"][0], rel=1e-4)
    counted = "clean" if name == "clean" else "attacked"
    np.testing.assert_array_equal(
        run["train/category/violations"], run[f"train/category/{counted}_violations"]
    )


def test_an_attack_hurts_more_than_noise():
    """Of the first step's loss: contrastive raises it most, a drawn direction of the same length least."""
    rise = {
        name: metrics(name)["train/loss"][0] - metrics(name)["train/adversary/clean_loss"][0]
        for name in ("attacked", "targeted", "random")
    }
    assert rise["attacked"] >= rise["targeted"] > 2 * abs(rise["random"]), rise


def test_margins_follow_the_violations_that_are_counted():
    """adversary.counts decides, and nothing else of the first step's update differs."""
    attacked, clean = metrics("attacked"), metrics("clean")
    rates = [run["train/category/violation_rate"][0] for run in (attacked, clean)]
    differ = attacked["train/category/attacked_violations"][0] != attacked["train/category/clean_violations"][0]
    assert differ.any(), "the attack flips no pair of the first step: the test shows nothing"
    np.testing.assert_array_equal(rates[0] != rates[1], differ)
    assert attacked["train/loss"][0] == clean["train/loss"][0]


def test_relative_radius_is_in_units_of_the_embeddings():
    """The mean length of the table's rows, as they are at each step."""
    table = next(v for path, v in engine.below(engine.read(engine.DEFAULTS["model.path"]), "model").items()
                 if "embed" in path)
    unit = np.linalg.norm(table.astype("f8"), axis=1).mean()
    np.testing.assert_allclose(metrics("attacked")["train/adversary/radius"][0], 0.2 * unit, rtol=1e-5)
    np.testing.assert_allclose(metrics("absolute")["train/adversary/radius"], 0.2)


def test_a_reference_trained_under_attack():
    """Two stages: the first with sft_weight, whose final checkpoint is the second's reference; it is evaluated on the
    prompts as they are, so that the log-probs kept of it are those that eval gives it."""
    first = engine.train(1, **ATTACK, **{"objective.sft_weight": 1.0})
    checkpoint = first.path("checkpoints/final.h5")
    second = engine.train(1, **ATTACK, **{"reference.model": checkpoint, "model.path": checkpoint})
    kept = second.read("reference.h5")
    clean = engine.train(1, **RUN, **{"reference.model": checkpoint, "model.path": checkpoint}).read("reference.h5")
    for side in ("chosen", "rejected"):
        np.testing.assert_array_equal(kept[f"train/{side}"], clean[f"train/{side}"])


def test_prompts_that_are_not_shared_are_refused():
    run = engine.launch("train", 1, **ATTACK, **{"batch.share_prompt": False})
    assert run.statuses == [2] and "batch.share_prompt" in run.errors[0] and "adversary" in run.errors[0], repr(run)

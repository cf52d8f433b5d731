"""Margins, counts and sampling: whole runs replayed in numpy from what they wrote, and the cases in which a rank or a
category has nothing.

With learning rate 0 and a reference that is not the policy, every log-prob of a run is known from `catdpo eval`: all
that a step reports can be worked out again from the indices of its pairs.
"""

import functools

import engine
import numpy as np
import pytest
import rounding
from replay import SAME, Margins

pytestmark = engine.needs_binary

BETA = 0.2
UNITS = 2.0**32          # of soft counts
STEPS = 10               # two epochs: 28 pairs, 6 a step, 4 in the last one of an epoch

BASE = {
    "objective.type": "catdpo",
    "objective.beta": BETA,
    "margin.tie": 0.3,
    "margin.initial": 0.5,
    "margin.eta": 0.8,
    "margin.target": 0.3,
    "margin.averaging": 0.15,
    "margin.initial_rate": 0.4,
    "margin.max": 2.0,
    "margin.min": 0.1,
    "schedule.steps": STEPS,
    "optimizer.learning_rate": 0.0,
}
REPLAYS = {
    "likelihood": {},
    "reward-mean": {"margin.signal": "reward", "margin.aggregation": "mean", "margin.interval": 3, "margin.tie": 2.0},
    "margin-sum": {"margin.signal": "margin", "margin.aggregation": "sum", "margin.warmup_steps": 4},
    "soft-likelihood-mean": {
        "margin.soft": True,
        "margin.temperature": 0.7,
        "margin.aggregation": "mean",
        "margin.target": 1.0,
    },
    "soft-reward-sum": {
        "margin.soft": True,
        "margin.signal": "reward",
        "margin.aggregation": "sum",
        "margin.temperature": 2.0,
    },
    "soft-margin": {"margin.soft": True, "margin.signal": "margin", "margin.eta": 5.0},
    "global": {"margin.scope": "global", "batch.sampling": "balanced"},
    "prior-mean": {"margin.prior": 3.0, "margin.target_form": "mean", "margin.target": 0.02, "margin.deadband": 0.2},
    "best": {"margin.target_form": "best", "margin.interval": 2, "margin.deadband": 0.5, "margin.prior": 0.5},
    "fixed": {"margin.scope": "fixed", "batch.sampling": "sequential"},
    "dpo": {"objective.type": "dpo", "margin.initial": 0.0},
    "safedpo": {"objective.type": "safedpo", "margin.initial": 1.5},
}


@functools.cache
def labelled():
    """The pairs with more of them in two or three categories, and one category without any training pair."""
    def change(file):
        mask = file["train/category_mask"][()]
        mask[1::7, 0] = mask[1::7, 1] = 1
        mask[4::9, :] = 1
        del file["train/category_mask"], file["heldout/category_mask"]
        file["train/category_mask"] = np.hstack([mask, np.zeros((len(mask), 1), "u1")])
        file["heldout/category_mask"] = np.eye(4, dtype="u1")[np.arange(12) % 4]
        del file["categories/name"], file["categories/harm"]
        engine.catdpo_h5.write_categories(file["categories"], ["privacy", "fraud", "benign", "never"], [1, 1, 0, 1])
        engine.set_text(file, "data_digest", "labelled")
    return engine.copy(engine.PAIRS, change, "pairs.h5")


def replay_settings(name):
    return {**BASE, "data.path": labelled(), "reference.model": engine.other_model(), **REPLAYS[name]}


RANKS = {
    "likelihood": (2, {"parallel.replicas": 2}),
    "global": (2, {"parallel.grid": [1, 2]}),
    "soft-margin": (2, {"parallel.grid": [2, 1]}),
}


def replay_run(name):
    ranks, more = RANKS.get(name, (1, {}))
    return ranks, {**replay_settings(name), **more}


@pytest.fixture(scope="module", autouse=True)
def started():
    engine.prefetch(
        [replay_run(name) for name in REPLAYS]
        + [(1, LONELY)]
        + [(ranks, {**LONELY, **more}) for ranks, more in LONELY_LAYOUTS]
    )


@functools.cache
def log_probs():
    """Of every training pair under policy and reference: what eval says."""
    run = engine.evaluate(options=("--split", "train"), **replay_settings("likelihood"))
    return engine.below(run.read("eval.h5"), "eval/pairs")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def violation(settings, difference, h, offset):
    """0, 0.5, 1, or what the soft signal makes of it, from the definitions of the settings; and the standard error that
    log-probs in float32 leave. Arguments are (value, error), the offset has none."""
    signal = settings.get("margin.signal", "likelihood")
    value, error = {"likelihood": difference, "reward": h, "margin": (h[0] - offset / BETA, h[1])}[signal]
    if settings.get("margin.soft"):
        scale = (1 if signal == "likelihood" else BETA) / settings.get("margin.temperature", 1.0)
        # a sigmoid's slope is at most 1/4; counts are whole units
        return np.round(sigmoid(-scale * value) * UNITS) / UNITS, rounding.total(scale * error / 4, 1 / UNITS)
    rounding.assert_clear(value, [-settings["margin.tie"], settings["margin.tie"]], error, "a violation's signal")
    return 0.5 if abs(value) < settings["margin.tie"] else float(value <= 0), 0


@pytest.mark.parametrize("name", REPLAYS)
def test_run_replayed_in_numpy(name):
    """Offsets by max, mean and sum over a pair's categories, violations by every signal, hard with ties and soft, the
    whole trajectory of rates and margins (category, global, fixed; interval, warm-up, bounds), and all means over the
    pairs of a step, also of a short one."""
    settings = replay_settings(name)
    ranks, asked = replay_run(name)
    metrics, p, data = engine.train(ranks, **asked).metrics(), log_probs(), engine.pairs_of(labelled())
    mask, applies = data["category_mask"].astype(bool), data["applies"]
    h = (p["logps_chosen"] - p["ref_logps_chosen"]) - (p["logps_rejected"] - p["ref_logps_rejected"])
    difference = p["logps_chosen"] / data["chosen_tokens"] - p["logps_rejected"] / data["rejected_tokens"]
    of = {name: rounding.log_probs(p[name], data[f"{name.rsplit('_')[-1]}_tokens"]) for name in p if "logps" in name}
    of_h = rounding.total(*of.values())
    of_difference = rounding.total(
        of["logps_chosen"] / data["chosen_tokens"], of["logps_rejected"] / data["rejected_tokens"]
    )
    reduce = {"max": np.max, "mean": np.mean, "sum": np.sum}[settings.get("margin.aggregation", "max")]
    replay = Margins(settings)
    seen = set()
    for step in range(1, STEPS + 1):
        row = {path[6:]: values[step - 1] for path, values in metrics.items()
               if path.startswith("train/") and "partial" not in path}
        pairs = row["pairs"][row["pairs"] >= 0]
        assert len(pairs) == (4 if step % 5 == 0 else 6)
        margins = replay.margin.copy()
        offset = np.array([reduce(margins[mask[i]]) if applies[i] else 0.0 for i in pairs])
        loss = np.logaddexp(0, offset - BETA * h[pairs])
        hits, of_hits = np.array(
            [violation(settings, (difference[i], of_difference[i]), (h[i], of_h[i]), o) for i, o in zip(pairs, offset)]
        ).T
        rounding.assert_clear(h[pairs], [-settings["margin.tie"], settings["margin.tie"]], of_h[pairs], "h")
        right = np.where(abs(h[pairs]) < settings["margin.tie"], 0.5, h[pairs] > 0)
        seen |= set(hits[applies[pairs]])

        near, exact, of_loss = (
            rounding.assert_near,
            functools.partial(np.testing.assert_allclose, rtol=1e-12),
            BETA * of_h[pairs],
        )
        # what a step counts enters the margins as it stands in its row, so that they are exact
        np.testing.assert_allclose(row["category/margin"], margins, **SAME)
        near(row["loss"], loss.mean(), rounding.mean(of_loss), "loss")
        exact(row["rewards/accuracies"], right.mean())
        near(row["rewards/margins"], BETA * h[pairs].mean(), rounding.mean(of_loss), "rewards/margins")
        near(
            row["logps/chosen"],
            p["logps_chosen"][pairs].mean(),
            rounding.mean(of["logps_chosen"][pairs]),
            "logps/chosen",
        )
        assert row["epoch"] == step / 5
        for k in range(4):
            of_k = mask[pairs, k]
            counted = of_k & applies[pairs]
            assert row["category/n"][k] == counted.sum() and row["category/pairs"][k] == of_k.sum()
            # soft counts are of log-probs in float32; the hard ones are exact
            near(row["category/violations"][k], hits[counted].sum(), rounding.total(0, *of_hits[counted]), "violations")
            exact(row["category/accuracy"][k], right[of_k].mean() if of_k.any() else np.nan)
            left = sigmoid(offset - BETA * h[pairs])
            for column, values in (("loss", loss), ("rewards_margins", BETA * h[pairs]), ("saturation", left)):
                near(
                    row[f"category/{column}"][k],
                    values[of_k].mean() if of_k.any() else np.nan,
                    rounding.mean(of_loss[of_k]),
                    column,
                )
            near(
                row["category/coefficient_share"][k],
                left[of_k].sum() / left.sum(),
                rounding.total(*of_loss) / left.sum(),
                "coefficient_share",
            )
        # from here on with the program's own counts, so that the rule is followed exactly
        replay.count(row["category/n"], row["category/violations"], step)
        np.testing.assert_allclose(row["category/violation_rate"], [rate.value for rate in replay.rates], **SAME)
        np.testing.assert_allclose(row["category/standard_error"], [rate.error for rate in replay.rates], **SAME)
    assert len(seen) > 1 and (settings.get("margin.soft") or 0.5 in seen)     # ties, too


def test_bounds_and_warm_up_show_in_the_replayed_runs():
    """What the replay covers is there: margins at both bounds, a warm-up without movement, one margin for all, several
    labels."""
    trajectory = {
        name: engine.train(replay_run(name)[0], **replay_run(name)[1]).metrics()["train/category/margin"]
        for name in REPLAYS
    }
    assert (
        trajectory["soft-margin"].max() == BASE["margin.max"]
        and trajectory["soft-likelihood-mean"].min() == BASE["margin.min"]
    )
    assert np.ptp(trajectory["margin-sum"][:5]) == 0 and np.ptp(trajectory["margin-sum"][5]) > 0
    assert np.ptp(trajectory["reward-mean"][:3]) == 0 and np.ptp(trajectory["reward-mean"][3]) > 0
    assert np.all(np.ptp(trajectory["global"], axis=1) == 0) and np.ptp(trajectory["global"]) > 0
    assert not np.ptp(trajectory["prior-mean"], axis=0).all() and np.ptp(trajectory["prior-mean"], axis=0).any()
    assert np.all(
        trajectory["likelihood"][:, 3] == BASE["margin.initial"]
    )  # a category that never comes keeps its margin
    assert np.ptp(trajectory["likelihood"][-1]) > 0.2                        # the others part
    assert (engine.pairs_of(labelled())["category_mask"].sum(axis=1) > 1).sum() > 5


# ---- sampling -------------------------------------------------------------------------------------------------------

def drawn(name, **more):
    ranks, settings = replay_run(name)
    return engine.train(ranks, **settings, **more).metrics()["train/pairs"]


def test_uniform_sampling_takes_each_pair_once_an_epoch():
    """uniform: every epoch is a permutation of all pairs, another one each time and for each seed; its last step is
    short."""
    pairs = drawn("likelihood")
    first, second = pairs[:5].reshape(-1), pairs[5:].reshape(-1)
    assert first[28:].tolist() == second[28:].tolist() == [-1, -1]
    assert sorted(first[:28]) == sorted(second[:28]) == list(range(28))
    assert first.tolist() != second.tolist() != sorted(second)
    again = drawn("reward-mean")
    assert np.array_equal(pairs, again)  # the seed alone decides
    other = engine.train(1, **{**replay_settings("likelihood"), "run.seed": 43, "schedule.steps": 5}).metrics()[
        "train/pairs"
    ]
    assert sorted(other.reshape(-1)[:28]) == list(range(28)) and not np.array_equal(other, pairs[:5])


def test_sequential_sampling_follows_the_file():
    """sequential: in the order of the file, again in every epoch."""
    row = list(range(28)) + [-1, -1]
    assert drawn("fixed").reshape(-1).tolist() == row + row


@functools.cache
def one_label():
    """The pairs with the first of their categories alone."""
    def change(file):
        mask = file["train/category_mask"]
        mask[...] = np.eye(3, dtype="u1")[np.argmax(mask[()], axis=1)]
        engine.set_text(file, "data_digest", "one label")
    return engine.copy(engine.PAIRS, change, "pairs.h5")


def test_balanced_sampling_gives_every_category_its_turn():
    """balanced: each round of draws has every category once, in a new order, the rare one as often as the common one;
    within a category all pairs have had their turn before one comes again. An epoch has as many draws as there are
    pairs."""
    pairs = engine.train(
        1,
        **{
            "data.path": one_label(),
            "batch.sampling": "balanced",
            "schedule.steps": 10,
            "optimizer.learning_rate": 0.0,
        },
    ).metrics()["train/pairs"]
    assert (pairs[[4, 9], 4:] == -1).all()
    draws = pairs[pairs >= 0]
    assert len(draws) == 56
    kind = engine.pairs_of(one_label())["category_mask"].argmax(axis=1)
    rounds = kind[draws[:54]].reshape(18, 3)
    assert np.array_equal(np.sort(rounds, axis=1), np.tile([0, 1, 2], (18, 1))) and len(np.unique(rounds, axis=0)) > 2
    for k in range(3):
        members, own = np.flatnonzero(kind == k), draws[kind[draws] == k]
        turns = [own[i:i + len(members)] for i in range(0, len(own), len(members))]
        assert all(np.array_equal(np.sort(turn), members) for turn in turns if len(turn) == len(members))
        assert len(np.unique(turns[-1])) == len(turns[-1])
    assert (kind == 1).sum() < 4 and (kind == 0).sum() > 12


# ---- nothing to do --------------------------------------------------------------------------------------------------

LONELY = {
    "objective.type": "catdpo",
    "batch.pairs": 1,
    "batch.sampling": "sequential",
    "margin.eta": 0.5,
    "margin.initial": 0.5,
    "margin.averaging": 0.3,
    "schedule.steps": 6,
}
LONELY_LAYOUTS = [(2, {"parallel.replicas": 2}), (3, {"parallel.grid": [1, 3]}), (3, {"parallel.grid": [3, 1]}),
                  (4, {"parallel.grid": [1, 2], "parallel.replicas": 2})]


@pytest.mark.parametrize("ranks, more", LONELY_LAYOUTS, ids=["2-replicas", "1x3", "3x1", "2-replicas-of-1x2"])
def test_ranks_without_a_pair(ranks, more):
    """Steps of a single pair on several replicas, process columns and rows: most ranks have nothing, and the run is the
    same."""
    one, other = engine.train(1, **LONELY).metrics(), engine.train(ranks, **LONELY, **more).metrics()
    np.testing.assert_allclose(other["train/loss"], one["train/loss"], rtol=1e-4)
    for column in ("n", "violations", "margin", "violation_rate"):
        np.testing.assert_array_equal(other[f"train/category/{column}"], one[f"train/category/{column}"])
    assert other["train/partial/n"].shape[0] == ranks
    np.testing.assert_array_equal(
        other["train/partial/n"].sum(axis=0), one["train/category/n"].sum(axis=0)
    )  # nothing twice
    np.testing.assert_array_equal(
        other["train/partial/violations"].sum(axis=0) * 0.5, one["train/category/violations"].sum(axis=0)
    )


def test_category_absent_from_a_step():
    """A category without a pair in the step keeps margin and rate to the last bit, and its means have no value."""
    metrics = engine.train(1, **LONELY).metrics()
    absent = metrics["train/category/n"] == 0
    assert absent[:, :2].any() and not absent[:, :2].all()
    margin, rate = metrics["train/category/margin"], metrics["train/category/violation_rate"]
    for step in range(5):
        for k in range(3):
            assert (margin[step + 1, k] == margin[step, k]) == absent[step, k]
            if step:
                assert (rate[step, k] == rate[step - 1, k]) == absent[step, k]
    assert np.array_equal(np.isnan(metrics["train/category/loss"]), metrics["train/category/pairs"] == 0)
    assert (metrics["train/category/pairs"][:, 2] > 0).any() and absent[:, 2].all()  # both-safe pairs are not counted


@pytest.mark.parametrize(
    "ranks, more", [(1, {}), (2, {"parallel.grid": [1, 2]}), (2, {"parallel.grid": [2, 1]})], ids=["1x1", "1x2", "2x1"]
)
def test_everything_is_a_tie_at_the_start(ranks, more):
    """Policy and reference agree up to rounding at the first step: by the reward signal every pair counts one half,
    also where the reference's log-probs were computed in another grouping of the pairs; so does each pair in the
    accuracy."""
    metrics = engine.train(
        ranks, **{"objective.type": "catdpo", "margin.signal": "reward", "schedule.steps": 2, "batch.pairs": 9, **more}
    ).metrics()
    n = metrics["train/category/n"]
    assert n[0].sum() > 4
    np.testing.assert_array_equal(metrics["train/category/violations"][0], n[0] / 2)
    assert metrics["train/rewards/accuracies"][0] == 0.5 and metrics["train/rewards/accuracies"][1] != 0.5
    assert not np.array_equal(metrics["train/category/violations"][1], n[1] / 2)
    pairs, data = metrics["train/pairs"][0], engine.pairs_of(engine.PAIRS)
    of = [
        rounding.log_probs(metrics[f"train/logps/{side}"][0], data[f"{side}_tokens"][pairs])
        for side in ("chosen", "rejected")
    ]
    of_h = rounding.total(*of, *of)  # policy and reference
    rounding.assert_near(
        metrics["train/loss"][0], np.log(2), rounding.mean(0.1 / 2 * of_h), "loss"
    )  # beta = 0.1, slope 1/2


# ---- pair by pair ---------------------------------------------------------------------------------------------------

MOVING = {
    "objective.type": "catdpo",
    "objective.beta": BETA,
    "margin.eta": 0.5,
    "optimizer.learning_rate": 0.02,
    "margin.tie": 1e-3,
    "schedule.steps": 6,
}


@pytest.mark.parametrize(
    "ranks, more",
    [(1, {}), (2, {"parallel.replicas": 2}), (4, {"parallel.grid": [2, 2]})],
    ids=["1", "2-replicas", "2x2"],
)
def test_a_step_follows_from_its_pairs(ranks, more):
    """metrics.h5 keeps each pair's log-probs under policy and reference while the policy moves: the step's means, and
    what each category counts as a violation, follow from them; a short step has no values where it has no pair."""
    metrics, data = engine.train(ranks, **MOVING, **more).metrics(), engine.pairs_of(engine.PAIRS)
    kept = engine.below(metrics, "train/pair")
    assert sorted(kept) == ["logps_chosen", "logps_rejected", "ref_logps_chosen", "ref_logps_rejected"]
    for step, pairs in enumerate(metrics["train/pairs"]):
        there = pairs >= 0
        values = {name: column[step] for name, column in kept.items()}
        assert all(np.array_equal(np.isfinite(column), there) for column in values.values())
        pairs, values = pairs[there], {name: column[there] for name, column in values.items()}
        chosen, rejected = (values[f"logps_{side}"] - values[f"ref_logps_{side}"] for side in ("chosen", "rejected"))
        for side, ratio in (("chosen", chosen), ("rejected", rejected)):
            np.testing.assert_allclose(metrics[f"train/logps/{side}"][step], values[f"logps_{side}"].mean(), rtol=1e-12)
            np.testing.assert_allclose(
                metrics[f"train/rewards/{side}"][step], BETA * ratio.mean(), rtol=1e-9, atol=1e-12
            )
        difference = (
            values["logps_chosen"] / data["chosen_tokens"][pairs]
            - values["logps_rejected"] / data["rejected_tokens"][pairs]
        )
        violates = np.where(np.abs(difference) < MOVING["margin.tie"], 0.5, difference <= 0) * data["applies"][pairs]
        for k in range(data["category_mask"].shape[1]):
            assert (
                metrics["train/category/violations"][step, k] == violates[data["category_mask"][pairs, k] == 1].sum()
            ), (step, k)

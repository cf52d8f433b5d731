"""Every objective that the program lists: the same run on any layout, resumed to the last bit, evaluated and checked.
A new one joins by itself."""

import functools
import os
import re
import subprocess

import engine
import interrupt
import numpy as np
import pytest

pytestmark = engine.needs_binary

LAYOUTS = {
    "1x1": (1, {"parallel.grid": [1, 1]}),
    "2x1": (2, {"parallel.grid": [2, 1]}),
    "1x2": (2, {"parallel.grid": [1, 2]}),
    "2x2": (4, {"parallel.grid": [2, 2]}),
    "2-replicas": (2, {"parallel.grid": [1, 1], "parallel.replicas": 2}),
    "accumulated": (1, {"parallel.grid": [1, 1], "batch.accumulation": 3}),
}
RUN = {"optimizer.learning_rate": 0.01, "schedule.steps": 5, "checkpoint.steps": 2, "checkpoint.keep": 9}
MARGINS = {"margin.eta": 0.5, "margin.averaging": 0.2}


@functools.cache
def segmented():
    """The same pairs, each completion cut into reasoning and answer at another place; some have only one of them."""

    def cut(file):
        for split in ("train", "heldout"):
            group = file[split]
            sides = [group[side] for side in ("chosen", "rejected")]
            tokens = [np.diff(side["offsets"][...]) - side["prompt_length"][...] for side in sides]
            count = len(tokens[0])
            share = np.array([0, 0.5, 0.3, 1, 0.7])[np.arange(count) % 5]
            group["segment_end"] = np.stack([np.floor(share * t).astype("i4") for t in tokens], axis=1)
            first = np.linspace(0, 1, count)
            group["segment_weight"] = np.stack([first, 1 - first], axis=1)
        engine.set_text(file, "data_digest", "in segments")

    return engine.copy(engine.PAIRS, cut, "pairs.h5")


ADVERSARY = {"adversary.radius": 0.1, "adversary.steps": 3}
@functools.cache
def scored():
    """The same pairs with two scores of each response, which agree, dissent and tie, and weights of them."""

    def score(file):
        engine.catdpo_h5.strings(file.create_group("scores"), "name", ["helpfulness", "harmlessness"])
        for split in ("train", "heldout"):
            group = file[split]
            count = len(group["chosen_safe"])
            place = np.arange(count)
            group["score_chosen"] = np.stack([place % 3, 2 - place % 2], axis=1).astype("f8")
            group["score_rejected"] = np.stack([np.ones(count), place % 5 / 2], axis=1)
            first = np.linspace(0, 1, count)
            group["score_weight"] = np.stack([first, 1 - first], axis=1)
        engine.set_text(file, "data_digest", "with scores")

    return engine.copy(engine.PAIRS, score, "pairs.h5")


NEEDS = {
    "safedpo": lambda: {"margin.initial": 2.0},  # what an objective cannot do without
    "modpo": lambda: {"objective.modpo_model": engine.other_model()},
    "gr-dpo": lambda: {"objective.group_step": 0.5},
    "awdpo": lambda: {"data.path": segmented()},
    "mo-odpo": lambda: {"data.path": scored()},
}
COUNTED = ("margin", "n", "violations", "pairs", "violation_rate")


def listed():
    """(name, does it read objective.margins) of every objective, as the program says."""
    if not os.access(engine.BINARY, os.X_OK):
        return []
    rows = subprocess.run(
        [engine.BINARY, "--help-config=markdown"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    row = {
        key: next(line for line in rows if line.startswith(f"| `{key}`")).split(" | ")
        for key in ("objective.type", "objective.margins")
    }
    readers = row["objective.margins"][3].split(":")[0].split(", ")
    return [(name, name in readers) for name in re.findall(r'"(\w[\w-]*)"', row["objective.type"][2])]


def runs():
    """name of a run -> its settings: each objective alone, and with margins where it leaves the choice."""
    found = {}
    for name, margins in listed():
        found[name] = {"objective.type": name, **NEEDS.get(name, dict)(), **(MARGINS if name == "catdpo" else {})}
        if margins and name not in ("catdpo", "safedpo"):
            found[f"{name}+margins"] = {**found[name], "objective.margins": True, **MARGINS}
    found["catdpo-as-weight"] = {**found.get("catdpo", {}), "margin.form": "weight"}
    found["catdpo+targeted"] = {**found.get("catdpo", {}), **ADVERSARY, "adversary.type": "targeted"}
    found["catdpo+contrastive"] = {
        **found.get("catdpo", {}), **ADVERSARY, "adversary.type": "contrastive", "adversary.counts": "clean"
    }
    found["catdpo+random"] = {**found.get("catdpo", {}), **ADVERSARY, "adversary.type": "random"}
    found["mo-odpo-terms"] = {**found.get("mo-odpo", {}), "objective.score_form": "terms"}
    found["catdpo+sft"] = {**found.get("catdpo", {}), "objective.sft_weight": 0.3}
    return found


RUNS = runs()


def specification(name, layout):
    ranks, more = LAYOUTS[layout]
    return ranks, {**RUN, **RUNS[name], **more}


def get(name, layout):
    ranks, settings = specification(name, layout)
    return engine.train(ranks, **settings)


@pytest.fixture(scope="module", autouse=True)
def started(request):
    """The runs that the tests of this session ask for."""
    asked = set()
    for item in request.session.items:
        parameters = getattr(item, "callspec", None) and item.callspec.params
        if item.fspath == request.fspath and parameters and "name" in parameters:
            asked |= {(parameters["name"], "1x1"), (parameters["name"], parameters.get("layout", "2x1"))}
    engine.prefetch([specification(*each) for each in sorted(asked)])


@pytest.mark.parametrize(
    "name, layout",
    [
        (name, layout)
        for name in RUNS
        for layout in LAYOUTS
        if layout != "1x1" and (name in dict(listed()) or layout in ("2x2", "2-replicas"))
    ],
)
def test_same_run_on_every_layout(name, layout):
    """Losses within 1e-4 over 5 steps that change them; the pairs of each step, counts, violations and margins
    exactly equal."""
    one, other = get(name, "1x1").metrics(), get(name, layout).metrics()
    np.testing.assert_allclose(other["train/loss"], one["train/loss"], rtol=1e-4, atol=1e-6)
    assert np.ptp(one["train/loss"]) > 1e-3 * np.abs(one["train/loss"]).max()
    np.testing.assert_array_equal(other["train/pairs"], one["train/pairs"])
    by_loss = RUNS[name]["objective.type"] == "gr-dpo"  # its weights follow losses, which are equal up to rounding
    for column in COUNTED[1:] if by_loss else COUNTED:
        np.testing.assert_array_equal(other[f"train/category/{column}"], one[f"train/category/{column}"], column)
    for column in ("rewards/margins", "rewards/chosen", "logps/rejected", "grad_norm", "category/margin"):
        np.testing.assert_allclose(
            other[f"train/{column}"], one[f"train/{column}"], rtol=2e-3, atol=2e-4, err_msg=column
        )


@pytest.mark.parametrize("name", RUNS)
def test_resumed_run_is_the_uninterrupted_one(name):
    """From the checkpoint after step 2 to step 5: weights, moments, margins and metrics are the same bits."""
    whole, (ranks, settings) = get(name, "2x1"), specification(name, "2x1")
    folder = interrupt.copy_run(whole.directory, "resumed")
    interrupt.finish(folder, ranks, (f"--resume={folder}/run/checkpoints/step-00000002.h5",), **settings)
    for file in ("checkpoints/final.h5", "metrics.h5"):
        expected, found = whole.read(file), engine.read(os.path.join(folder, "run", file))
        for path, values in expected.items():
            if not path.startswith(("timing", "config")) and values.dtype.kind != "O":
                assert found[path].tobytes() == values.tobytes(), path


@pytest.mark.parametrize("name", RUNS)
def test_files_of_the_run_are_complete(name):
    """Its held-out pairs can be evaluated, and `check` accepts every file."""
    run, (ranks, settings) = get(name, "2x1"), specification(name, "2x1")
    engine.evaluate(ranks, ("--model", run.path("checkpoints/final.h5")), **{**settings, "run.dir": run.directory})
    checked = subprocess.run([engine.BINARY, "check", run.directory], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("objective", ["simpo", "orpo"])
def test_nothing_is_computed_for_a_reference_that_is_not_there(objective):
    """No reference.h5, in the digest's place "none"; a reference.model is refused, not ignored."""
    run = get(objective, "2x1")
    assert not os.path.exists(run.path("reference.h5"))
    assert engine.attributes(run.path("checkpoints/final.h5"))["reference_digest"] == "none"
    refused = engine.launch(
        "train", 1, **{"objective.type": objective, "reference.model": engine.DEFAULTS["model.path"]}
    )
    assert refused.statuses == [2] and "reference.model" in refused.errors[0], repr(refused)


def test_second_model_is_read_once():
    """modpo's model has its log-probs in modpo_model.h5; another model in its place is refused on resume, not taken
    silently."""
    run, (ranks, settings) = get("modpo", "2x1"), specification("modpo", "2x1")
    values = run.read("modpo_model.h5")
    assert np.abs(values["train/chosen"] - run.read("reference.h5")["train/chosen"]).max() > 0.1
    folder = interrupt.copy_run(run.directory, "other-second-model")
    again = engine.start(
        [
            "train",
            interrupt.write_config(folder, **{**settings, "objective.modpo_model": engine.other_model(seed=8)}),
            "--resume",
        ],
        ranks,
        folder,
        directory=f"{folder}/run",
    )
    assert set(again.statuses) == {2} and len(again.errors) == 1, repr(again)
    assert "modpo_model" in again.errors[0], again.errors[0]


def mismatched(file):
    """Every prompt with the completions of the next pair that has another one: written here without the program."""
    group = file["train"]
    texts = {}
    for side in ("chosen", "rejected"):
        offsets, prompts = group[side]["offsets"][...], group[side]["prompt_length"][...]
        tokens = [group[side]["tokens"][a:b] for a, b in zip(offsets[:-1], offsets[1:])]
        texts[side] = [(row[:n].tolist(), row[n:].tolist()) for row, n in zip(tokens, prompts)]
    longest = max(len(prompt) + len(answer) for side in texts.values() for prompt, answer in side)
    count = len(texts["chosen"])
    partner = [
        next((i + k) % count for k in range(1, count) if texts["chosen"][(i + k) % count][0] != texts["chosen"][i][0])
        for i in range(count)
    ]
    for side, rows in texts.items():
        new = [(prompt, rows[j][1][: longest - len(prompt)]) for (prompt, _), j in zip(rows, partner)]
        for name, values in (
            ("tokens", sum((prompt + answer for prompt, answer in new), [])),
            ("offsets", np.cumsum([0] + [len(prompt) + len(answer) for prompt, answer in new])),
            ("prompt_length", [len(prompt) for prompt, _ in new]),
        ):
            kind = group[side][name].dtype
            del group[side][name]
            group[side][name] = np.asarray(values, kind)
    engine.set_text(file, "data_digest", "mismatched")


def test_kto_has_its_baseline_over_the_whole_step():
    """kl of a step is the mean log-ratio of its prompts with completions of others, as eval finds it under the
    weights before that step; the loss follows from it. One prompt alone has no such completions."""
    ranks, settings = specification("kto", "2x1")
    settings |= {"objective.sft_weight": 3.0}  # makes all answers likelier
    run = engine.train(ranks, **settings)
    metrics = run.metrics()
    assert abs(metrics["train/kl"][0]) < 1e-3 < metrics["train/kl"][2]
    pairs = engine.copy(engine.PAIRS, mismatched, "pairs.h5")
    found = engine.evaluate(
        ranks,
        ("--split", "train", "--model", run.path("checkpoints/step-00000002.h5")),
        **{**settings, "data.path": pairs, "objective.type": "dpo"},
    ).read("eval.h5")
    rows = metrics["train/pairs"][2]
    ratios = [
        found[f"eval/pairs/logps_{side}"][rows] - found[f"eval/pairs/ref_logps_{side}"][rows]
        for side in ("chosen", "rejected")
    ]
    np.testing.assert_allclose(metrics["train/kl"][2], np.mean(ratios), rtol=1e-3)
    ours = [
        metrics[f"train/pair/logps_{side}"][2] - metrics[f"train/pair/ref_logps_{side}"][2]
        for side in ("chosen", "rejected")
    ]
    sigmoid = [1 / (1 + np.exp(-0.1 * sign * (ratio - metrics["train/kl"][2]))) for sign, ratio in zip((1, -1), ours)]
    data = engine.pairs_of(engine.PAIRS)
    sft = -3.0 * metrics["train/pair/logps_chosen"][2] / data["chosen_tokens"][rows]
    np.testing.assert_allclose(metrics["train/loss"][2], np.mean(1 - np.array(sigmoid)) + np.mean(sft), rtol=1e-6)

    def one_prompt(file):
        for side in ("chosen", "rejected"):
            group = file["train"][side]
            tokens, offsets, prompts = group["tokens"][...], group["offsets"][...], group["prompt_length"][...]
            shortest = prompts.min()
            for start, length in zip(offsets[:-1], prompts):
                tokens[start : start + length] = 5
            group["tokens"][...], group["prompt_length"][...] = tokens, shortest

    refused = engine.launch(
        "train", 2, **{"objective.type": "kto", "data.path": engine.copy(engine.PAIRS, one_prompt, "pairs.h5")}
    )
    assert set(refused.statuses) == {2} and "same prompt" in refused.errors[0], repr(refused)


def test_segments_of_weight_one_are_dpo():
    """awdpo with the weights inside and both 1 is dpo on the same data, to the last bit: that two segments are told
    apart changes no sum. Weights and form change the run."""

    def equal(file):
        for split in ("train", "heldout"):
            file[split]["segment_weight"][...] = 1

    data = {"data.path": engine.copy(segmented(), equal, "pairs.h5"), "parallel.grid": [2, 1]}
    dpo = engine.train(2, **{**RUN, **data, "objective.type": "dpo"})
    inside = engine.train(2, **{**RUN, **data, "objective.type": "awdpo", "objective.segment_form": "inside"})
    same_weights_and_losses(inside, dpo)
    weighted = {**RUN, "data.path": segmented(), "parallel.grid": [2, 1], "objective.type": "awdpo"}
    losses = [
        engine.train(2, **{**weighted, "objective.segment_form": form}).metrics()["train/loss"]
        for form in ("inside", "outside")
    ]
    assert np.abs(losses[0] - losses[1]).max() > 1e-3
    assert np.abs(losses[1] - dpo.metrics()["train/loss"]).max() > 1e-3


def same_weights_and_losses(run, other):
    assert run.metrics()["train/loss"].tobytes() == other.metrics()["train/loss"].tobytes()
    for group in ("model", "optimizer/m", "optimizer/v"):
        for path, values in other.weights(group).items():
            assert run.weights(group)[path].tobytes() == values.tobytes(), path


def test_one_segment_is_dpo():
    """A completion that is all answer, with all of the weight, is dpo on data without segments, to the last bit."""

    def all_answer(file):
        for split in ("train", "heldout"):
            file[split]["segment_end"][...] = 0
            file[split]["segment_weight"][...] = [0, 1]

    settings = {**RUN, "parallel.grid": [2, 1]}
    pairs = engine.copy(segmented(), all_answer, "pairs.h5")
    awdpo = engine.train(2, **{**settings, "objective.type": "awdpo", "data.path": pairs})
    same_weights_and_losses(awdpo, engine.train(2, **{**settings, "objective.type": "dpo"}))


@pytest.mark.parametrize("form", ["scalarised", "terms"])
def test_one_score_is_dpo(form):
    """A single objective that agrees with the pairs is dpo on data without scores, to the last bit."""

    def single(file):
        engine.catdpo_h5.strings(file.create_group("scores"), "name", ["safety"])
        for split in ("train", "heldout"):
            count = len(file[split]["chosen_safe"])
            for name, value in (("chosen", 0.9), ("rejected", 0.2), ("weight", 1.0)):
                file[split][f"score_{name}"] = np.full((count, 1), value)

    settings = {**RUN, "parallel.grid": [2, 1]}
    pairs = {"data.path": engine.copy(engine.PAIRS, single, "pairs.h5"), "objective.score_form": form}
    several = engine.train(2, **{**settings, **pairs, "objective.type": "mo-odpo"})
    same_weights_and_losses(several, engine.train(2, **{**settings, "objective.type": "dpo"}))


@pytest.mark.parametrize("objective, option", [("awdpo", "--segment-tag"), ("mo-odpo", "--scores")])
def test_what_an_objective_reads_is_asked_for(objective, option):
    """Data without segments or scores is refused by train and eval, with the option that makes them."""
    for command in ("train", "eval"):
        run = engine.launch(command, 2, **{"objective.type": objective})
        assert set(run.statuses) == {2} and option in run.errors[0], repr(run)


@pytest.mark.parametrize("array, value, words", [("weight", 0.7, "add up to 1"), ("chosen", np.nan, "finite")])
def test_scores_are_verified(array, value, words):
    """By check: weights add up to 1, scores are numbers."""

    def spoil(file):
        file[f"train/score_{array}"][2, 0] = value

    path = engine.copy(scored(), spoil, "pairs.h5")
    checked = subprocess.run([engine.BINARY, "check", path], capture_output=True, text=True)
    assert checked.returncode == 2 and words in checked.stdout, checked.stdout


def test_flags_that_an_objective_reads_are_known():
    """bfpo's targets follow from safety flags: pairs without them are refused."""

    def unknown(file):
        file["train/rejected_safe"][1] = 255

    run = engine.launch(
        "train", 2, **{"objective.type": "bfpo", "data.path": engine.copy(engine.PAIRS, unknown, "pairs.h5")}
    )
    assert set(run.statuses) == {2} and "of 1 of 28 training pairs" in run.errors[0] and "bfpo" in run.errors[0], repr(
        run
    )


def test_groups_that_lose_more_weigh_more():
    """gr-dpo: after each step the weights follow the categories' losses; the category with the smallest logarithm is
    at 0."""
    metrics = get("gr-dpo", "1x1").metrics()
    margin, loss = metrics["train/category/margin"], metrics["train/category/loss"]
    assert (margin[0] == 0).all() and (margin[1:].min(axis=1) == 0).all() and np.ptp(margin[-1]) > 1e-3
    weights = metrics["train/category/pairs"][0] > 0
    step = 0.5 * np.where(weights, np.nan_to_num(loss[0]), 0)  # in the first step all weights are 1
    np.testing.assert_allclose(margin[1], step - step.min(), rtol=1e-6, atol=1e-8)


def test_weights_of_zero_margins_are_dpo():
    """margin.form = "weight" with margins that stay at 0 is dpo, and so are cdpo and robust without label smoothing,
    gr-dpo whose weights rest and modpo that gives the other objective no weight: to the last bit."""
    dpo = engine.train(2, **{**RUN, "objective.type": "dpo", "parallel.grid": [2, 1]})
    for settings in (
        {"objective.type": "catdpo", "margin.form": "weight", "margin.eta": 0.0},
        {"objective.type": "cdpo", "objective.label_smoothing": 0.0},
        {"objective.type": "robust", "objective.label_smoothing": 0.0},
        {"objective.type": "gr-dpo", "objective.group_step": 0.0},
        {"objective.type": "modpo", "objective.modpo_weight": 1.0, "objective.modpo_model": engine.other_model()},
    ):
        other = engine.train(2, **{**RUN, **settings, "parallel.grid": [2, 1]})
        assert other.metrics()["train/loss"].tobytes() == dpo.metrics()["train/loss"].tobytes(), settings
        for group in ("model", "optimizer/m", "optimizer/v"):
            for path, values in dpo.weights(group).items():
                assert other.weights(group)[path].tobytes() == values.tobytes(), (settings, path)


@pytest.mark.parametrize(
    "settings, words",
    [
        (
            {"objective.type": "ipo", "objective.label_smoothing": 0.2},
            ("ipo", "objective.label_smoothing", "cdpo", "robust"),
        ),
        ({"objective.type": "dpo", "objective.margins": True}, ("dpo", "objective.margins", "catdpo", "ipo")),
        ({"objective.type": "ipo", "margin.initial": 1.0}, ("margin.initial", "ipo", "objective.margins")),
        ({"objective.type": "ipo", "margin.form": "weight"}, ("margin.form", "ipo", "objective.margins")),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_settings_that_would_be_ignored(settings, words):
    """A setting that the chosen objective does not read is refused, with the ones that do."""
    run = engine.launch("train", 1, **settings)
    assert run.statuses == [2] and len(run.errors) == 1, repr(run)
    assert all(word in run.errors[0] for word in words), run.errors[0]

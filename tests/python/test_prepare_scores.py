"""Several objectives: scores and weights in pairs.h5, weights that are drawn, and the line in the prompt."""

import h5py
import numpy as np
import pytest
from conftest import pku, trl

from catdpo_analysis.prepare import scores

NAMES = "helpfulness,harmlessness"
HARM = {"is_chosen_safe": True, "is_rejected_safe": False, "category": "violence"}


def scored(help_chosen=1.0, harm_chosen=2.0, help_rejected=3.0, harm_rejected=0.5):
    return {
        "chosen_scores": {"helpfulness": help_chosen, "harmlessness": harm_chosen, "style": 9},
        "rejected_scores": {"harmlessness": harm_rejected, "helpfulness": help_rejected},
    }


def arrays(tmp_path, group="train"):
    with h5py.File(tmp_path / "pairs.h5") as file:
        return {name: file[group][f"score_{name}"][...] for name in ("chosen", "rejected", "weight")}


def test_scores_and_weights_of_each_pair(prepare, jsonl, tmp_path):
    """In the order of --scores, with the sides when they are swapped; a row's own weights go before; a response without
    a score of some objective gives no pair."""
    swapped = pku("p", safe=(False, True), better=0)
    swapped |= {f"response_{i}_scores": {"helpfulness": float(i), "harmlessness": -float(i)} for i in (0, 1)}
    own = {"score_weights": {"helpfulness": 0.9, "harmlessness": 0.1}}
    rows = [
        trl("q", **HARM, **scored()),
        swapped,
        trl("r", **HARM, **scored(), **own),
        trl("s", **HARM, chosen_scores={"helpfulness": 1}, rejected_scores={"helpfulness": 1, "harmlessness": 1}),
        trl("t", **HARM),
    ]
    file = prepare(jsonl(*rows), options=["--scores", NAMES, "--score-weights", "0.3,0.7"])
    found = arrays(tmp_path)
    np.testing.assert_array_equal(found["chosen"], [[1, 2], [1, -1], [1, 2]])
    np.testing.assert_array_equal(found["rejected"], [[3, 0.5], [0, 0], [3, 0.5]])
    np.testing.assert_allclose(found["weight"], [[0.3, 0.7], [0.3, 0.7], [0.9, 0.1]], rtol=1e-15)
    assert all("no score of some objective" in str(file.reason_of(i)) for i in (3, 4))
    with h5py.File(tmp_path / "pairs.h5") as opened:
        assert [name.decode() for name in opened["scores/name"][...]] == NAMES.split(",")


def test_weights_are_equal_unless_said(prepare, jsonl, tmp_path):
    prepare(jsonl(trl("q", **HARM, **scored())), options=["--scores", NAMES])
    np.testing.assert_array_equal(arrays(tmp_path)["weight"], [[0.5, 0.5]])


def test_weights_stand_in_the_prompt(prepare, jsonl, tmp_path):
    """Of texts before them, of conversations in the system message, of prompts to generate from too; the loss has the
    weights that the prompt says."""
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the sky"}]
    rows = [
        trl("the sky", **HARM, **scored()),
        trl(talk, *([{"role": "assistant", "content": text}] for text in ("is blue", "no")), **HARM, **scored()),
        pku("how do I bake", **{f"response_{i}_scores": {"helpfulness": 0, "harmlessness": i} for i in (0, 1)}),
        {"prompt": "what now?", "category": "violence"},
    ]
    weights = ["--score-weights", "0.3333,0.6667", "--score-weights-in-prompt"]
    prepare(jsonl(*rows), options=["--scores", NAMES, *weights])
    line = "helpfulness 0.33, harmlessness 0.67"
    np.testing.assert_array_equal(arrays(tmp_path)["weight"], [[0.33, 0.67]] * 3)
    with h5py.File(tmp_path / "pairs.h5") as file:
        texts = [text.decode() for text in file["train/text/prompt"][...]]
        to_answer = bytes(file["prompts/text"][...]).decode()
        assert file["prompts/score_weight"][...].tolist() == [[0.33, 0.67]]
        assert len(file["train/prompts/score_weight"]) == 3
    assert texts[0] == f"{line}\nthe sky"
    assert texts[1].startswith(f"system: Be brief.\n{line}\n") and texts[2].startswith(f"system: {line}\n")
    assert to_answer.startswith(f"system: {line}\n")


def test_draws_follow_seed_round_and_prompt(prepare, jsonl, tmp_path):
    """Not the order of the rows nor what else is there; and rows of one prompt have the same weights."""
    rows = [trl(f"question {i % 6}", f" a{i}", f" b{i}", **HARM, **scored()) for i in range(12)]

    def weights(*rows, options=()):
        prepare(jsonl(*rows), options=["--scores", NAMES, "--score-weights", "dirichlet:0.5", *options])
        found = {}
        with h5py.File(tmp_path / "pairs.h5") as file:
            prompts = file["train/text/prompt"][...]
        for prompt, weight in zip(prompts, arrays(tmp_path)["weight"]):
            found.setdefault(prompt, set()).add(tuple(weight))
        assert all(len(each) == 1 for each in found.values())
        return {prompt: each.pop() for prompt, each in found.items()}

    first = weights(*rows)
    assert len(set(first.values())) == 6
    assert weights(*rows[::-1]) == first
    assert weights(*rows[3:8]).items() <= first.items()
    for options in (["--round", "1"], ["--seed", "1"]):
        other = weights(*rows, options=options)
        assert other.keys() == first.keys() and not set(other.values()) & set(first.values())


@pytest.mark.parametrize("alpha, mean_largest", [(0.3, 0.87), (1.0, 0.75), (5.0, 0.62)])
def test_draws_have_dirichlets_distribution(alpha, mean_largest):
    """Of two weights: mean 1/2, variance 1 / (4 (2 alpha + 1)), and the known mean of the larger one."""
    draws = np.array([scores.draw(0, 0, str(i).encode(), alpha, 2) for i in range(4000)])
    np.testing.assert_allclose(draws.sum(axis=1), 1, rtol=1e-12)
    error = 4 / np.sqrt(len(draws))  # in standard deviations of a draw, which are below 1/2
    assert abs(draws[:, 0].mean() - 0.5) < error / 2
    assert abs(draws[:, 0].var() - 1 / (4 * (2 * alpha + 1))) < error / 4
    assert abs(draws.max(axis=1).mean() - mean_largest) < error / 4 + 0.005


@pytest.mark.parametrize("weights, decimals", [((1 / 3, 2 / 3), (0.33, 0.67)), ((0.125, 0.875), (0.13, 0.87))])
def test_decimals_add_up(weights, decimals):
    assert scores.in_decimals(weights) == decimals
    assert sum(scores.in_decimals((1 / 7,) * 7)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "options, row, words",
    [
        (["--score-weights", "1"], {}, "need --scores"),
        (["--scores", "a,a"], {}, "twice"),
        (["--scores", NAMES, "--score-weights", "0.5"], {}, "one number for each"),
        (["--scores", NAMES, "--score-weights", "0.5,0.6"], {}, "add up to 1"),
        (["--scores", NAMES, "--score-weights", "dirichlet:0"], {}, "0.01"),
        (["--scores", NAMES, "--round", "2"], {}, "--round"),
        (["--scores", NAMES], {"chosen_scores": 0.7}, "chosen_scores"),
        (["--scores", NAMES], {"chosen_scores": {"helpfulness": "good", "harmlessness": 1}}, "not a number"),
        (["--scores", NAMES], scored() | {"score_weights": {"helpfulness": 2, "harmlessness": -1}}, "negative"),
    ],
)
def test_what_cannot_be_meant_is_refused(prepare, jsonl, options, row, words):
    assert words in prepare(jsonl(trl("q", **row)), options=options, status=2).err


def test_scores_that_nobody_asked_for_are_named(prepare, jsonl):
    file = prepare(jsonl(trl("q", **HARM, **scored())))
    assert "not used without --scores" in file.printed

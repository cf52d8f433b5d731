"""Reasoning and answer: where a completion is cut, what a judge's scores make of it, and what is left out."""

import h5py
import numpy as np
import pytest
from conftest import pku, trl

TAG = "</think>"
HARM = {"is_chosen_safe": True, "is_rejected_safe": False, "category": "violence"}


def segments(tmp_path, split="train"):
    with h5py.File(tmp_path / "pairs.h5") as file:
        return file[split]["segment_end"][...], file[split]["segment_weight"][...]


def text_of(tokenizer, pair, side, first, last=None):
    tokens = pair[side][pair["prompt_length"] :]
    return tokenizer.decode(tokens[first:last], skip_special_tokens=False)


@pytest.fixture
def tokenizer(tokenizer_dir):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))


def test_answer_begins_behind_the_tag(prepare, jsonl, tmp_path, tokenizer):
    """In the tokens, for texts and for messages; a token across the boundary belongs to the reasoning."""
    rows = [
        trl("the sky", f" hello{TAG} is blue", f" a polite refusal{TAG}is green", **HARM),
        pku("how do I bake", responses=(f"hello{TAG}I am sorry", f"here is{TAG} a step by step answer")),
    ]
    file = prepare(jsonl(*rows), options=["--segment-tag", TAG])
    ends, weights = segments(tmp_path)
    for pair, both in zip(file.pairs, ends):
        for side, end in zip(("chosen", "rejected"), both):
            reasoning, answer = (text_of(tokenizer, pair, side, *cut) for cut in ((0, end), (end, None)))
            whole = reasoning + answer
            assert TAG in reasoning and TAG not in answer and answer.strip(), (reasoning, answer)
            before = text_of(tokenizer, pair, side, 0, end - 1)
            assert TAG not in before  # not a token more than the tag needs
            assert whole.count(TAG) == 1
    np.testing.assert_array_equal(weights, 0.5)


@pytest.mark.parametrize(
    "chosen, rejected, options, expected",
    [
        ([0.1, 0.1], [0.9, 0.1], [], (0.85 / 0.9, 0.05 / 0.9)),  # only the reasoning differs
        ([0.0, 0.2], [0.4, 0.6], [], (0.5, 0.5)),
        ([0.0, 0.8], [0.6, 0.2], [], (0.65 / 0.7, 0.05 / 0.7)),  # the answers are the other way round
        ([0.0, 0.8], [0.6, 0.2], ["--segment-opposed", "flip"], (0.65 / 1.3, -0.65 / 1.3)),
        ([0.3, 0.3], [0.3, 0.3], [], (0.5, 0.5)),
        ([0.3, 0.3], [0.3, 0.3], ["--segment-scale", "2"], (1, 1)),
        ([0.9, 0.9], [0.1, 0.1], [], (0.5, 0.5)),  # worse in both: no weights to prefer
        (None, [0.1, 0.1], [], (0.5, 0.5)),
    ],
)
def test_weights_follow_the_judges_scores(prepare, jsonl, tmp_path, chosen, rejected, options, expected):
    """Each segment counts as much as the rejected side is worse in it, plus a floor; never a division by zero."""
    row = trl("q", f"a{TAG}b", f"c{TAG}d", chosen_segment_scores=chosen, rejected_segment_scores=rejected, **HARM)
    prepare(jsonl(row), options=["--segment-tag", TAG, *options])
    np.testing.assert_allclose(segments(tmp_path)[1][0], expected, rtol=1e-12)


def test_scores_follow_the_responses_when_they_are_swapped(prepare, jsonl, tmp_path):
    """SafeDPO's swap, and PKU-SafeRLHF's columns."""
    row = pku(
        "q",
        safe=(False, True),
        better=0,
        responses=(f"a{TAG}b", f"c{TAG}d"),
        response_0_segment_scores={"reasoning": 0.9, "answer": 0.5},
        response_1_segment_scores=[0.1, 0.5],
    )
    prepare(jsonl(row), options=["--segment-tag", TAG])
    np.testing.assert_allclose(segments(tmp_path)[1][0], (0.85 / 0.9, 0.05 / 0.9), rtol=1e-12)


def test_completions_without_the_tag_are_all_answer(prepare, jsonl, tmp_path):
    file = prepare(
        jsonl(trl("q", "a b", "c d", **HARM), trl("r", f"a{TAG}b", "c d", **HARM)), options=["--segment-tag", TAG]
    )
    ends, weights = segments(tmp_path)
    assert ends[0].tolist() == [0, 0] and weights[0].tolist() == [0, 1]
    assert ends[1][0] > 0 and ends[1][1] == 0 and weights[1].tolist() == [0.5, 0.5]
    assert "2 rows" in file.printed and "lacks the segment tag" in file.printed


def test_pairs_without_an_answer_are_left_out(prepare, jsonl):
    """A completion that ends with its reasoning, and one of which the maximum length leaves only that."""
    long = "the sky is blue and the grass is green " * 8
    rows = [
        trl("q", f"a{TAG}", f"c{TAG}d", **HARM),
        trl("r", f"{long}{TAG}b", f"c{TAG}d", **HARM),
        trl("s", f"a{TAG}b", f"c{TAG}d", **HARM),
    ]
    file = prepare(jsonl(*rows), options=["--segment-tag", TAG, "--max-length", "40"])
    assert [pair["source_row"] for pair in file.pairs] == [0, 2]  # of the first one the end token is the answer
    assert "the maximum length leaves nothing of the answer" in file.reason_of(1)


@pytest.mark.parametrize(
    "options, row, words",
    [
        (["--segment-tag", " "], {}, "--segment-tag is empty"),
        (["--segment-scale", "2"], {}, "need --segment-tag"),
        (["--segment-tag", TAG, "--segment-floor", "0"], {}, "--segment-floor"),
        (["--segment-tag", TAG], {"chosen_segment_scores": [0.1, 1.5]}, "chosen_segment_scores"),
        (["--segment-tag", TAG], {"rejected_segment_scores": 0.4}, "rejected_segment_scores"),
    ],
)
def test_what_cannot_be_meant_is_refused(prepare, jsonl, options, row, words):
    assert words in prepare(jsonl(trl("q", **row)), options=options, status=2).err


def test_scores_without_a_tag_are_named(prepare, jsonl):
    """Columns that are there for nothing are not passed over in silence."""
    file = prepare(jsonl(trl("q", chosen_segment_scores=[0, 0], rejected_segment_scores=[1, 1], **HARM)))
    assert "not used without --segment-tag" in file.printed

"""SafeDPO's transformation, helpfulness labels and where categories come from."""

import json

import pytest
from conftest import pku, trl

SAFE, UNSAFE = "I cannot help with that", "here is a step by step answer"


@pytest.mark.parametrize(
    "safe, better, safer, chosen, swapped, chosen_better",
    [
        ((True, False), 0, 0, 0, 0, 1),  # preferred safe, other unsafe: keep
        ((False, True), 1, 1, 1, 0, 1),
        ((True, False), 1, 0, 0, 1, 0),  # preferred unsafe, other safe: swap
        ((False, True), 0, 1, 1, 1, 0),
        ((True, False), None, None, 0, 0, -1),  # exactly one safe, no helpfulness: the safe one
        ((False, True), None, None, 1, 0, -1),
        ((True, True), 0, None, 0, 0, 1),  # both safe: the more helpful one
        ((True, True), 1, 0, 1, 0, 1),
        ((True, True), None, 1, 1, 0, -1),  # ... or, where nobody judged that, the safer one
        ((True, True), None, None, None, None, None),
        ((False, False), 0, 1, None, None, None),
    ],
)
def test_keep_swap_drop(prepare, jsonl, safe, better, safer, chosen, swapped, chosen_better):
    responses = ("response zero", "response one")
    file = prepare(
        jsonl(pku("q", safe=safe, better=better, safer_response_id=safer, responses=responses), pku("another"))
    )
    pairs = [pair for pair in file.pairs if pair["source_row"] == 0]
    if chosen is None:
        assert not pairs
        assert file.reason_of(0) == [
            "both responses unsafe"
            if safe == (False, False)
            else "no preference (better_response_id and safer_response_id are null)"
        ]
        return
    (pair,) = pairs
    assert (pair["chosen_text"], pair["rejected_text"]) == (responses[chosen], responses[1 - chosen])
    assert (pair["chosen_safe"], pair["rejected_safe"]) == (int(safe[chosen]), int(safe[1 - chosen]))
    assert (pair["swapped"], pair["chosen_better"]) == (swapped, chosen_better)


def test_counts_of_the_transformation_are_printed_and_stored(prepare, jsonl):
    file = prepare(
        jsonl(pku("a"), pku("b", better=1), pku("c", safe=(False, False)), pku("d", safe=(True, True)), trl("e"))
    )
    counts = json.loads(file.attributes["transform_counts"])
    assert (
        sorted(counts.values()) == [1] * 5
        and any(name.startswith("swapped") for name in counts)
        and any("both responses unsafe" in name for name in counts)
    )
    assert all(name in file.printed for name in counts)


def test_without_the_transformation_pairs_stay_as_preferred(prepare, jsonl):
    file = prepare(jsonl(pku("a", better=1), pku("b", safe=(False, False), better=0)), options=["--transform", "none"])
    a, b = file.pairs
    assert (a["chosen_text"], a["chosen_safe"], a["rejected_safe"], a["swapped"]) == (UNSAFE, 0, 1, 0) and (
        b["chosen_safe"],
        b["rejected_safe"],
    ) == (0, 0)
    assert file.attributes["transform"] == "none" and file.harm == [0]


def test_categories_are_those_of_the_unsafe_response(prepare, jsonl):
    row = pku("a", harm=("fraud", "violence"))
    row["response_0_harm_category"]["privacy"] = True  # of the safe response: not the pair's
    file = prepare(jsonl(row, pku("b", harm=("fraud",), prompt_category=["other thing"])))
    assert [pair["categories"] for pair in file.pairs] == [["fraud", "violence"], ["fraud"]]
    assert file.categories == ["fraud", "violence"] and file.harm == [1, 1]


def test_fallbacks_for_categories_in_order(prepare, jsonl):
    none = {"harm": ()}
    file = prepare(
        jsonl(
            pku("a", **none, prompt_category=["p", "q"], category="c"),
            pku("b", **none, category="c"),
            pku("c", **none),
            pku("d", safe=(True, True), prompt_category=["p"]),
            pku("e", harm=("v",), response_1_harm_category=["x", "y"]),
        )
    )
    assert [pair["categories"] for pair in file.pairs] == [["p", "q"], ["c"], ["uncategorised"], ["benign"], ["x", "y"]]
    assert "prompt_category (1 pairs)" in file.printed and "benign (1 pairs)" in file.printed
    assert file.categories[-1] == "benign" and file.harm[-1] == 0  # harm categories come first


def test_safe_pairs_can_take_the_category_of_their_prompt(prepare, jsonl):
    file = prepare(
        jsonl(pku("a", safe=(True, True), prompt_category=["p"]), pku("b", safe=(True, True))),
        options=["--safe-pairs", "prompt", "--benign-name", "ok"],
    )
    assert [pair["categories"] for pair in file.pairs] == [["p"], ["ok"]] and file.harm == [0, 0]


@pytest.mark.parametrize(
    "row, options, categories, flags",
    [
        (trl("a"), [], ["uncategorised"], (255, 255)),
        (trl("a"), ["--assume-unsafe-rejected"], ["uncategorised"], (1, 0)),
        (trl("a", category="fraud"), [], ["fraud"], (1, 0)),
        (trl("a", category=["fraud", "drugs"]), [], ["fraud", "drugs"], (1, 0)),
        (trl("a", category="fraud", is_rejected_safe=True), [], ["fraud"], (1, 1)),
        (trl("a", is_chosen_safe=True, is_rejected_safe=True), [], ["benign"], (1, 1)),
        (trl("a", is_chosen_safe=1, is_rejected_safe=0), [], ["uncategorised"], (1, 0)),
        (trl("a", category={"fraud": True, "drugs": False}), [], ["fraud"], (1, 0)),
        (trl("a", category=None, is_chosen_safe=None), [], ["uncategorised"], (255, 255)),
    ],
    ids=str,
)
def test_trl_rows_with_and_without_category_and_flags(prepare, jsonl, row, options, categories, flags):
    (pair,) = prepare(jsonl(row), options=options).pairs
    assert sorted(pair["categories"]) == sorted(categories) and (pair["chosen_safe"], pair["rejected_safe"]) == flags


def test_trl_rows_with_flags_are_swapped_and_dropped_too(prepare, jsonl):
    file = prepare(
        jsonl(
            trl("a", " bad", " good", is_chosen_safe=False, is_rejected_safe=True),
            trl("b", is_chosen_safe=False, is_rejected_safe=False),
        )
    )
    (pair,) = file.pairs
    assert (pair["chosen_text"], pair["chosen_safe"], pair["rejected_safe"], pair["swapped"]) == (" good", 1, 0, 1)
    assert file.reason_of(1) == ["both responses unsafe"]


def test_only_the_chosen_categories_are_used(prepare, jsonl):
    file = prepare(
        jsonl(pku("a", harm=("x", "y")), pku("b", harm=("y",)), pku("c", harm=("z",))),
        options=["--categories", "x", "z"],
    )
    assert [pair["categories"] for pair in file.pairs] == [["x"], ["z"]] and file.categories == ["x", "z"]
    assert file.reason_of(1) == ["category not selected"]
    result = prepare(jsonl(pku("a", harm=("x,1",))), options=["--categories", "w"], status=2)
    assert '"w"' in result.err and "x,1" in result.err


def test_harm_is_said_only_of_categories_with_a_safe_and_an_unsafe_response(prepare, jsonl):
    file = prepare(jsonl(pku("a", harm=("x",)), trl("b", category="calm", is_rejected_safe=True), trl("c")))
    assert dict(zip(file.categories, file.harm)) == {"x": 1, "calm": 0, "uncategorised": 0}


LABELS = {  # (safe, better, safer) -> chosen by each of the baselines' rules; None: dropped
    ((True, True), 0, 1): {"helpful": 0, "harmless": 1, "safe-better": 0, "none": 0},
    ((True, False), 0, 0): {"helpful": 0, "harmless": 0, "safe-better": 0, "none": 0},
    ((True, False), 1, 0): {"helpful": 1, "harmless": 0, "safe-better": None, "none": 1},
    ((False, False), 1, 0): {"helpful": 1, "harmless": 0, "safe-better": None, "none": 1},
    ((True, False), None, 0): {"helpful": None, "harmless": 0, "safe-better": None, "none": 0},
    ((True, True), 1, None): {"helpful": 1, "harmless": None, "safe-better": 1, "none": 1},
}


@pytest.mark.parametrize("transform", ["helpful", "harmless", "safe-better", "none"])
def test_baselines_choose_by_one_label(prepare, jsonl, transform):
    """DPO-helpful, DPO-harmless and DPO-safe-better: which response is chosen, what is dropped, and why."""
    rows = [
        pku(f"question {i}", safe=safe, better=better, safer_response_id=safer, responses=("zero", "one"))
        for i, (safe, better, safer) in enumerate(LABELS)
    ]
    file = prepare(jsonl(*rows), options=["--transform", transform])
    found = {pair["source_row"]: pair for pair in file.pairs}
    for i, ((safe, better, _), chosen) in enumerate(LABELS.items()):
        wanted = chosen[transform]
        if wanted is None:
            assert i not in found
            missing = transform != "safe-better" or better is None
            reason = file.reason_of(i)[0]
            assert reason.startswith("no preference") if missing else reason == "the chosen response is unsafe"
            continue
        pair = found[i]
        assert pair["chosen_text"] == ("zero", "one")[wanted]
        assert (pair["chosen_safe"], pair["rejected_safe"]) == (int(safe[wanted]), int(safe[1 - wanted]))
        assert pair["chosen_better"] == (-1 if better is None else int(better == wanted))


def test_baselines_on_pairs_that_are_made(prepare, jsonl):
    """TRL's rows have one preference: helpful takes it, safe-better drops what is unsafe, harmless has no label to
    choose by."""
    rows = [
        trl("a", is_chosen_safe=True, is_rejected_safe=False),
        trl("b", is_chosen_safe=False, is_rejected_safe=True),
        trl("c"),
    ]
    kept = lambda transform: [p["source_row"] for p in prepare(jsonl(*rows), options=["--transform", transform]).pairs]
    assert kept("helpful") == [0, 1, 2] and kept("safe-better") == [0, 2]
    refused = prepare(jsonl(*rows), options=["--transform", "harmless"], status=2)
    assert "safer_response_id" in refused.err and "--transform none" in refused.err

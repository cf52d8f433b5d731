"""Lengths, duplicates, empty completions: nothing is cut or dropped without an entry in the ledger."""

import json

import pytest
from conftest import pku, trl

LONG = " ".join(["green"] * 40)


@pytest.fixture
def rows(jsonl):
    return jsonl(
        trl("the sky", " is blue", " is green"),
        trl("the sky", " is " + LONG, " is green"),
        trl("grass", " is " + LONG, " " + LONG),
        trl(LONG, " a", " b"),
        trl("grass", " " + LONG + " a", " " + LONG + " b"),
    )


def test_truncation_keeps_the_start_of_each_sequence(prepare, rows):
    whole = {pair["source_row"]: pair for pair in prepare(rows, options=["--max-length", "0"]).pairs}
    file = prepare(rows, options=["--max-length", "20"])
    cut = {pair["source_row"]: pair for pair in file.pairs}
    assert sorted(whole) == [0, 1, 2, 3, 4] and sorted(cut) == [0, 1, 2]
    for row, pair in cut.items():
        for side in ("chosen", "rejected"):
            assert pair[side] == whole[row][side][:20]
    assert (
        file.reason_of(0) == []
        and file.reason_of(1) == ["chosen truncated"]
        and file.reason_of(2) == ["chosen truncated", "rejected truncated"]
    )
    assert file.reason_of(3) == ["prompt alone fills the maximum length"] and file.reason_of(4) == [
        "chosen and rejected are the same after truncation"
    ]
    entry = next(entry for entry in file.ledger if entry["reason"] == "chosen truncated" and entry["row"] == 1)
    assert (entry["tokens_before"], entry["tokens_after"], entry["split"]) == (len(whole[1]["chosen"]), 20, "train")
    assert file.attributes["over_length"] == "truncate" and int(file.attributes["max_length"]) == 20


def test_a_pair_of_exactly_the_maximum_is_left_alone(prepare, rows):
    longest = max(
        len(pair[side])
        for pair in prepare(rows, options=["--max-length", "0"]).pairs
        for side in ("chosen", "rejected")
    )
    assert prepare(rows, options=["--max-length", str(longest), "--over-length", "refuse"]).ledger == []
    assert prepare(rows, options=["--max-length", str(longest - 1), "--over-length", "drop"]).ledger != []


def test_dropping_and_refusing(prepare, rows):
    file = prepare(rows, options=["--max-length", "20", "--over-length", "drop"])
    assert [pair["source_row"] for pair in file.pairs] == [0]
    assert file.reason_of(1) == ["longer than the maximum length"] and file.reason_of(3) == [
        "prompt alone fills the maximum length"
    ]
    error = prepare(rows, options=["--max-length", "20", "--over-length", "refuse"], status=2).err
    assert "pairs.jsonl:2" in error and "--over-length" in error


def test_a_prompt_one_token_short_of_the_maximum_keeps_one_completion_token(prepare, jsonl):
    row = jsonl(trl("the sky is", " blue and so on", " green and so on"))
    length = prepare(row, options=["--max-length", "0"]).pairs[0]["prompt_length"]
    (pair,) = prepare(row, options=["--max-length", str(length + 1)]).pairs
    assert len(pair["chosen"]) == len(pair["rejected"]) == length + 1
    assert (
        "no pair is left: prompt alone fills the maximum length (1)"
        in prepare(row, options=["--max-length", str(length)], status=2).err
    )


def test_what_says_nothing_is_dropped(prepare, jsonl):
    message = lambda text: [{"role": "assistant", "content": text}]
    rows = jsonl(
        trl("a", " x", ""),
        trl("a", "  \n", " y"),
        trl("a", " x", " x"),
        trl("", "x", "y"),
        {"chosen": "p q", "rejected": "x"},
        pku("b", responses=("fine", "")),
        {"prompt": [{"role": "user", "content": "c"}], "chosen": message("x"), "rejected": []},
        trl("good"),
    )
    file = prepare(rows)
    assert [pair["source_row"] for pair in file.pairs] == [7]
    same, none, empty = (
        "chosen and rejected are the same",
        "no prompt (chosen and rejected have no common start)",
        "empty completion",
    )
    assert [file.reason_of(row)[0] for row in range(7)] == [empty, empty, same, none, none, empty, empty]


def test_exact_duplicates_are_dropped_unless_kept(prepare, jsonl):
    first = jsonl(pku("a"), pku("a", better=1), pku("a", responses=("no", "yes")), pku("A"))
    second = jsonl(pku("a"), name="b.jsonl")
    file = prepare(first, second)
    assert [(pair["source_file"], pair["source_row"]) for pair in file.pairs] == [(0, 0), (0, 2), (0, 3)]
    assert file.reason_of(1) == ["duplicate"] and file.reason_of(0, file=1) == [
        "duplicate"
    ]  # after the swap the second row says the same
    assert len(prepare(first, second, options=["--keep-duplicates"]).pairs) == 5


def test_limit_takes_the_first_usable_pairs(prepare, jsonl):
    file = prepare(
        jsonl(pku("a"), pku("b", safe=(False, False)), pku("c"), pku("d"), pku("e")), options=["--limit", "3"]
    )
    assert [pair["source_row"] for pair in file.pairs] == [0, 2, 3] and file.reason_of(4) == ["beyond --limit"]


def test_ledger_counts_and_the_printed_table_agree_with_the_entries(prepare, jsonl):
    file = prepare(
        jsonl(
            pku("a", harm=("x", "y")),
            pku("a", harm=("x", "y")),
            pku("b", harm=("x",), responses=("fine", "")),
            pku("c", harm=("z",), safe=(False, False)),
        )
    )
    assert file.categories == ["x", "y"]
    table = {reason: row.tolist() for reason, row in zip(file.reasons, file.counts)}
    assert table == {"both responses unsafe": [0, 0, 1], "empty completion": [1, 0, 0], "duplicate": [1, 1, 0]}
    assert all(reason in file.printed for reason in table)
    assert [entry["category"] for entry in file.ledger if entry["reason"] == "duplicate"] == ["x + y"]


def test_the_data_digest_follows_inputs_and_settings(prepare, jsonl):
    rows = [pku("a"), pku("b")]
    digest = lambda *inputs, options=(): prepare(*inputs, options=options).attributes["data_digest"]
    first = digest(jsonl(*rows))
    assert digest(jsonl(*rows, name="renamed.jsonl")) == first == digest(jsonl(*rows))
    others = {
        digest(jsonl(*rows, pku("c"))),
        digest(jsonl(*rows), options=["--max-length", "100"]),
        digest(jsonl(*rows), options=["--seed", "1"]),
    }
    assert first not in others and len(others) == 3 and len(first) == 64
    settings = json.loads(prepare(jsonl(*rows)).attributes["settings"])
    assert settings["max_length"] == 512 and settings["seed"] == 0 and settings["transform"] == "safedpo"


def test_texts_with_nul_and_emoji_are_kept_readable(prepare, jsonl):
    (pair,) = prepare(jsonl(pku("a\x00b \U0001f642", responses=("x", "y")))).pairs
    assert pair["prompt_text"] == "a\u2400b \U0001f642"

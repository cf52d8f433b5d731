"""Real preference data: every row is accounted for, prompts stay whole, categories are in both parts. Skipped where
the data is not there."""

import gzip
import itertools
import json
import os

import pytest
from conftest import PairsFile


def rows_of(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        return [json.loads(line) for line in file if line.strip()]


def prompt_of(row):
    """The prompt as the row itself says it, so that the split is checked against the source."""
    if "prompt" in row:
        return " ".join(row["prompt"].casefold().split())
    start = os.path.commonprefix([row["chosen"], row["rejected"]])
    return " ".join(start[: start.rindex("\n\nAssistant:")].casefold().split())


@pytest.mark.parametrize(
    "names, mode",
    [
        (["jbb_pairs.jsonl"], "drop"),
        (["xstest_pairs.jsonl"], "truncate"),
        (["hh_harmless_base_test.jsonl.gz"], "drop"),
        (["jbb_pairs.jsonl", "pku_trl_pairs.jsonl"], "truncate"),
    ],
    ids=["jbb", "xstest", "hh", "jbb+pku"],
)
def test_every_row_is_in_one_part_or_in_the_ledger(cli, shared, tokenizer_dir, tmp_path, names, mode):
    paths = []
    for name in names:  # the start of each set is enough for the property, and quick
        packed = name.endswith(".gz")
        with (
            (gzip.open if packed else open)(os.path.join(shared, name), "rb") as source,
            (gzip.open if packed else open)(tmp_path / name, "wb") as part,
        ):
            part.writelines(itertools.islice(source, 700))
        paths.append(str(tmp_path / name))
    cli(
        "prepare",
        *paths,
        "--tokenizer",
        tokenizer_dir,
        "--out",
        tmp_path / "p.h5",
        "--max-length",
        "600",
        "--over-length",
        mode,
    )
    file = PairsFile(tmp_path / "p.h5")
    rows = [rows_of(path) for path in paths]
    places = [(pair["source_file"], pair["source_row"]) for pair in file.pairs]
    places += [(entry["file"], entry["row"]) for entry in file.ledger if entry["tokens_after"] == 0]
    assert sorted(places) == [(f, r) for f, part in enumerate(rows) for r in range(len(part))]
    prompts = [
        {prompt_of(rows[pair["source_file"]][pair["source_row"]]) for pair in file.parts[part]}
        for part in ("train", "heldout")
    ]
    assert not prompts[0] & prompts[1]
    assert 0.15 < len(prompts[1]) / len(prompts[0] | prompts[1]) < 0.3
    for part in file.parts.values():
        assert {name for pair in part for name in pair["categories"]} == set(file.categories)
    assert all(max(len(pair["chosen"]), len(pair["rejected"])) <= 600 for pair in file.pairs)


def test_labels_are_those_of_the_rows(cli, shared, tokenizer_dir, tmp_path):
    for name, categories in (("jbb_pairs.jsonl", 10), ("xstest_pairs.jsonl", 9)):
        path = os.path.join(shared, name)
        cli(
            "prepare",
            path,
            "--tokenizer",
            tokenizer_dir,
            "--out",
            tmp_path / "p.h5",
            "--max-length",
            "0",
            "--keep-duplicates",
        )
        rows = rows_of(path)
        file = PairsFile(tmp_path / "p.h5")
        assert len(file.categories) == categories
        for pair in file.pairs:
            row = rows[pair["source_row"]]
            texts = [row["response_0"], row["response_1"]]
            chosen, rejected = texts.index(pair["chosen_text"]), texts.index(pair["rejected_text"])
            assert chosen == 1 - rejected
            assert (
                bool(pair["chosen_safe"]) == row[f"is_response_{chosen}_safe"]
                and bool(pair["rejected_safe"]) == row[f"is_response_{rejected}_safe"]
            )
            if not pair["rejected_safe"]:
                named = {name for name, on in row[f"response_{rejected}_harm_category"].items() if on}
                assert set(pair["categories"]) == (named or set(row.get("prompt_category", ())) or {"uncategorised"})
            else:
                assert pair["categories"] == ["benign"] and chosen == row["better_response_id"]

"""The held-out part: whole prompts, from every category, repeatable."""

import random

import h5py
import pytest
from conftest import PairsFile, pku, trl

from catdpo_analysis.prepare.formats import Pair
from catdpo_analysis.prepare.split import prompt_key, prompts_by_category, split_prompts


def make(prompt, categories, margin=True):
    pair = Pair(
        prompt=prompt,
        chosen="a",
        rejected="b",
        chat=False,
        categories=list(categories),
        rule="category",
        chosen_safe=1,
        rejected_safe=0 if margin else 1,
    )
    pair.key = prompt_key(pair)
    return pair


def parts_of(pairs, held):
    return [pair for pair in pairs if pair.key not in held], [pair for pair in pairs if pair.key in held]


@pytest.mark.parametrize("seed", range(60))
def test_no_category_is_missing_from_either_part_and_shares_are_near(seed):
    """Random data: prompts with several rows, rows with several labels."""
    rng = random.Random(seed)
    names = [f"c{i}" for i in range(rng.randint(1, 12))]
    pairs = []
    for i in range(rng.randint(4 * len(names), 200)):
        labels = rng.sample(names, rng.choice((1, 1, 1, 2, 3)) if len(names) > 2 else 1)
        pairs += [make(f"prompt {i}", labels, rng.random() < 0.7) for _ in range(rng.randint(1, 5))]
    prompts = prompts_by_category(pairs)
    if min(map(len, prompts.values())) < 2:
        pytest.skip("a category with one prompt: refused before the split")
    held = split_prompts(pairs, 0.2, seed)
    train, heldout = parts_of(pairs, held)
    assert not {pair.key for pair in train} & {pair.key for pair in heldout}
    for keys in prompts.values():
        share = len(keys & held) / len(keys)
        assert 0 < share < 1 and abs(share - 0.2) <= max(0.25, 1.5 / len(keys))


def test_margin_pairs_of_a_mixed_category_are_in_both_parts():
    """Two prompts with a margin among 40 without: chance alone would often leave one part without any."""
    for seed in range(20):
        pairs = [make(f"p{i}", ["c"], margin=i < 2) for i in range(42)]
        train, heldout = parts_of(pairs, split_prompts(pairs, 0.2, seed))
        assert any(pair.margin_applies for pair in train) and any(pair.margin_applies for pair in heldout)


def test_a_category_nested_in_another_is_in_both_parts():
    for seed in range(20):
        pairs = [make(f"p{i}", ["all"] + ["part"] * (i < 2) + ["twin"] * (i < 2)) for i in range(10)]
        train, heldout = parts_of(pairs, split_prompts(pairs, 0.5, seed))
        for part in (train, heldout):
            assert {name for pair in part for name in pair.categories} == {"all", "part", "twin"}


def test_order_of_rows_does_not_matter_and_seeds_do():
    pairs = [make(f"p{i}", [f"c{i % 3}"]) for i in range(60)]
    held = split_prompts(pairs, 0.2, 0)
    assert split_prompts(pairs[::-1], 0.2, 0) == held and split_prompts(pairs, 0.2, 1) != held


@pytest.mark.parametrize(
    "a, b, equal",
    [
        (trl("The  sky\n is"), trl(" the SKY is "), True),
        (pku("How do I?"), trl("how do i?"), True),
        (trl("caf\u00e9"), trl("cafe\u0301"), True),
        (trl("one"), trl("two"), False),
        (
            {
                "prompt": [{"role": "user", "content": "How do I?"}],
                "chosen": [{"role": "assistant", "content": "x"}],
                "rejected": [{"role": "assistant", "content": "y"}],
            },
            pku("how do I?"),
            True,
        ),
        (
            {"chosen": "\n\nHuman: hi\n\nAssistant: I am", "rejected": "\n\nHuman: hi\n\nAssistant: I can"},
            {"chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
            True,
        ),
    ],
)
def test_the_same_prompt_in_other_clothes_is_one_prompt(a, b, equal):
    from catdpo_analysis.prepare.formats import Options, read_pair

    keys = [prompt_key(read_pair(row, "here", Options())) for row in (a, b)]
    assert (keys[0] == keys[1]) is equal


def prompts_in(part):
    return {" ".join(pair["prompt_text"].lower().split()) for pair in part}


def test_prompts_shared_by_files_stay_together(cli, tokenizer_dir, jsonl, tmp_path):
    first = jsonl(*[pku(f"question {i}", harm=("x",)) for i in range(20)])
    second = jsonl(*[trl(f"QUESTION  {i}", category="y") for i in range(20)], name="b.jsonl")
    cli(
        "prepare",
        first,
        second,
        "--tokenizer",
        tokenizer_dir,
        "--out",
        tmp_path / "p.h5",
        "--heldout",
        "0.3",
        "--seed",
        "7",
    )
    file = PairsFile(tmp_path / "p.h5")
    assert (
        not prompts_in(file.parts["train"]) & prompts_in(file.parts["heldout"])
        and len(prompts_in(file.parts["heldout"])) == 6
    )
    for part in file.parts.values():
        assert {name for pair in part for name in pair["categories"]} == {"x", "y"}
    assert int(file.attributes["seed"]) == 7


RARE = [
    *[pku(f"q{i}", harm=("x",)) for i in range(10)],
    pku("only", harm=("y",)),
    pku("only", harm=("y",), responses=("no", "other")),
    pku("single", harm=("z", "x")),
]


def run(cli, tokenizer_dir, tmp_path, rows, *options, status=0):
    result = cli("prepare", rows, "--tokenizer", tokenizer_dir, "--out", tmp_path / "p.h5", *options, status=status)
    return result if status else PairsFile(tmp_path / "p.h5")


def test_a_category_with_one_prompt_is_refused_by_default(cli, tokenizer_dir, jsonl, tmp_path):
    error = run(cli, tokenizer_dir, tmp_path, jsonl(*RARE), status=2).err
    assert '"y": 2 pairs, 1 prompts' in error and '"z": 1 pairs, 1 prompts' in error and "--rare" in error
    assert not (tmp_path / "p.h5").exists()


def test_rare_categories_are_pooled_dropped_or_kept_in_train_as_asked(cli, tokenizer_dir, jsonl, tmp_path):
    pooled = run(cli, tokenizer_dir, tmp_path, jsonl(*RARE), "--rare", "pool")
    assert set(pooled.categories) == {"x", "other"} and len(pooled.pairs) == 13
    for part in pooled.parts.values():
        assert {name for pair in part for name in pair["categories"]} == {"x", "other"}
    assert pooled.reason_of(10) == ['category pooled into "other"'] and all(
        entry["tokens_after"] > 0 for entry in pooled.ledger
    )

    dropped = run(cli, tokenizer_dir, tmp_path, jsonl(*RARE), "--rare", "drop")
    assert dropped.categories == ["x"] and len(dropped.pairs) == 11
    assert dropped.reason_of(10) == dropped.reason_of(11) == ["category too rare"]
    assert [entry["tokens_after"] > 0 for entry in dropped.ledger if entry["row"] == 12] == [
        True
    ]  # it lost a label, not its place

    kept = run(cli, tokenizer_dir, tmp_path, jsonl(*RARE), "--rare", "keep-train")
    assert set(kept.categories) == {"x", "y", "z"} and len(kept.pairs) == 13
    assert {name for pair in kept.parts["heldout"] for name in pair["categories"]} == {"x"}

    assert (
        "other" in run(cli, tokenizer_dir, tmp_path, jsonl(*RARE[:11]), "--rare", "pool", status=2).err
    )  # alone in "other" it is still one prompt


def test_min_pairs_makes_a_category_rare(cli, tokenizer_dir, jsonl, tmp_path):
    rows = jsonl(*[pku(f"q{i}", harm=("x",)) for i in range(10)], *[pku(f"r{i}", harm=("y",)) for i in range(4)])
    assert '"y": 4 pairs' in run(cli, tokenizer_dir, tmp_path, rows, "--min-pairs", "5", status=2).err
    assert run(cli, tokenizer_dir, tmp_path, rows, "--min-pairs", "5", "--rare", "drop").categories == ["x"]
    assert '"y": 4 pairs' in run(cli, tokenizer_dir, tmp_path, rows, "--min-pairs", "5", "--heldout", "0", status=2).err


def test_no_split_exists_and_it_is_said(cli, tokenizer_dir, jsonl, tmp_path):
    """Each two of three prompts share a category: whichever side has one prompt lacks the category of the other two."""
    rows = jsonl(pku("a", harm=("x", "y")), pku("b", harm=("x", "z")), pku("c", harm=("y", "z")))
    error = run(cli, tokenizer_dir, tmp_path, rows, status=2).err
    assert "shares its prompts" in error and "--heldout 0" in error


def test_nothing_held_out(cli, tokenizer_dir, jsonl, tmp_path):
    file = run(cli, tokenizer_dir, tmp_path, jsonl(pku("a"), pku("b")), "--heldout", "0")
    assert len(file.parts["train"]) == 2 and file.parts["heldout"] == []


def test_split_like_holds_out_the_prompts_of_another_file(prepare, jsonl, cli, tmp_path, tokenizer_dir):
    """Whatever each file chooses, drops and shares out: what one holds out the other does not train on; prompts that
    the other does not know are trained on."""
    rows = [
        pku(f"question {i} on {('bread', 'locks')[i % 2]}", (True, i % 3 == 0), better=i % 2, safer_response_id=0)
        for i in range(40)
    ]
    rows += [trl(f"  Question {i} ON locks", category="other", is_rejected_safe=True) for i in range(1, 9, 2)]
    first = tmp_path / "first.h5"
    options = ("--tokenizer", tokenizer_dir, "--heldout", "0.3", "--probe", "0.2")
    cli("prepare", jsonl(*rows[:30]), "--out", first, "--transform", "harmless", *options)
    out = tmp_path / "second.h5"
    cli("prepare", jsonl(*rows), "--out", out, "--tokenizer", tokenizer_dir, "--split-like", first)
    normal = lambda text: " ".join(text.decode().casefold().split())
    known, found = (
        {split: {normal(text) for text in file[f"{split}/text/prompt"][...]} for split in ("train", "heldout", "probe")}
        for file in (h5py.File(first), h5py.File(out))
    )
    for split in ("heldout", "probe"):
        assert found[split] and found[split] <= known[split]
        assert not found["train"] & known[split]
    assert found["train"] > known["train"] & found["train"]
    refused = cli("prepare", jsonl(*rows), "--out", out, *options, "--split-like", first, status=2)
    assert "leave out --heldout" in refused.err
    wrong = ("--tokenizer", tokenizer_dir, "--split-like", tmp_path / "pairs.jsonl")
    assert "HDF5" in cli("prepare", jsonl(*rows), "--out", tmp_path / "third.h5", *wrong, status=2).err

"""Prompts to generate from, of prompts-only files and of each part; the probe group, apart from the other parts."""

import json
import subprocess

import engine
import h5py
import pytest
from conftest import pku, trl

USER = {"role": "user", "content": "how do I bake bread"}
GENERATION = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def prompts_of(tokenizer_dir, tmp_path):
    """The prompts of a group of the file that prepare wrote: [(text with template, categories, benign, file, row)]."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))

    def read(group):
        with h5py.File(tmp_path / "pairs.h5") as file:
            names, item = file["categories/name"].asstr()[...], file[group]
            offsets, n = item["offsets"][...], int(item.attrs["prompts"])
            assert offsets[0] == 0 and offsets[-1] == len(item["tokens"]) and len(offsets) == n + 1
            bounds, text = item["text_offsets"][...], item["text"][...].tobytes()
            assert item["tokens"].dtype == "<i4" and bounds[0] == 0 and len(bounds) == n + 1 and bounds[-1] == len(text)
            return [
                (
                    tokenizer.decode(item["tokens"][offsets[i] : offsets[i + 1]], skip_special_tokens=False),
                    names[item["category_mask"][i].astype(bool)].tolist(),
                    int(item["benign"][i]),
                    int(item["source_file"][i]),
                    int(item["source_row"][i]),
                    text[bounds[i] : bounds[i + 1]].decode(),
                )
                for i in range(n)
            ]

    return read


def test_a_file_of_prompts(prepare, jsonl, prompts_of):
    rows = jsonl(
        {"prompt": "a", "category": "fraud", "subcategory": "phone", "source": "here"},
        {"prompt": [{"role": "system", "content": "s"}, USER], "category": ["fraud", "theft"]},
        {"question": "\u00e9\u0000", "category": "safe"},
        {"prompt": "d"},
        {"prompt": "e", "category": "fraud", "is_prompt_safe": True},
        {"prompt": "a", "category": "theft"},
    )
    file = prepare(rows, options=["--heldout", "0.2", "--probe", "0.1"])
    assert file.pairs == [] and file.categories == ["benign", "fraud", "theft", "uncategorised"] and not any(file.harm)
    assert prompts_of("prompts") == [
        (GENERATION.format("a"), ["fraud", "theft"], 0, 0, 0, "a"),
        (
            "<|im_start|>system\ns<|im_end|>\n" + GENERATION.format(USER["content"]),
            ["fraud", "theft"],
            0,
            0,
            1,
            "system: s\n\nuser: how do I bake bread",
        ),
        (GENERATION.format("\u00e9\u0000"), ["benign"], 1, 0, 2, "\u00e9\u2400"),
        (GENERATION.format("d"), ["uncategorised"], 255, 0, 3, "d"),
        (GENERATION.format("e"), ["fraud"], 1, 0, 4, "e"),
    ]
    assert file.reason_of(5) == ["duplicate"] and "subcategory (1 row): describes the row" in file.printed
    assert "6  prompts only, to generate from" in file.printed and "5 prompts to generate from" in file.printed


def test_prompts_are_plain_where_asked_or_without_a_template(prepare, jsonl, prompts_of):
    prepare(jsonl({"prompt": "the sky", "system": "s"}), options=["--chat", "never"])
    assert prompts_of("prompts")[0][0] == "s\n\nthe sky"
    rendered = jsonl({"prompt": "<|im_start|>user\na<|im_end|>\n"})
    assert "holds the special token" in prepare(rendered, status=2).err
    prepare(rendered, options=["--chat", "never"])


def test_prompts_that_are_none_are_refused_or_left_out(prepare, jsonl):
    answered = {"messages": [USER, {"role": "assistant", "content": "x"}]}
    assert "ends with an answer" in prepare(jsonl(answered), status=2).err
    file = prepare(jsonl({"prompt": "a"}, {"prompt": "word " * 50}), options=["--max-length", "20"])
    assert file.reason_of(1) == ["prompt alone fills the maximum length"]


def test_pairs_and_prompts_in_one_set(prepare, jsonl, prompts_of):
    file = prepare(jsonl(pku("a", harm=("x",)), {"prompt": "A ", "category": "x"}, {"prompt": "b", "category": "y"}))
    assert len(file.pairs) == 1 and file.categories == ["x", "y"] and file.harm == [1, 0]
    assert [entry[1] for entry in prompts_of("prompts")] == [["x"], ["y"]]
    assert "note: 1 row with a prompt to generate from that is among the training pairs as well" in file.printed


def test_each_part_has_its_prompts_once(prepare, jsonl, prompts_of):
    rows = jsonl(
        pku("a", harm=("x",)),
        pku("a", harm=("y",), responses=("no", "yes")),
        pku("b", safe=(True, True)),
        trl("c", category="x"),
        trl("d"),
        trl("the gr", "een", "ass", category="x"),  # the pair's prompt ends before the letters that merge
        trl("e", category="x", is_prompt_safe=True),
    )
    prepare(rows)
    assert [entry[:3] for entry in prompts_of("train/prompts")] == [
        (GENERATION.format("a"), ["x", "y"], 0),
        (GENERATION.format("b"), ["benign"], 1),
        ("c", ["x"], 0),
        ("d", ["uncategorised"], 255),
        ("the gr", ["x"], 0),
        ("e", ["x"], 1),
    ]
    assert prompts_of("heldout/prompts") == []


def test_a_system_message_for_rows_without_one(prepare, jsonl, prompts_of):
    """--system goes before prompts that have none; a column's and a conversation's own stay."""
    own = {"role": "system", "content": "own"}
    rows = jsonl({"prompt": "a"}, {"prompt": "b", "system": "own"}, {"prompt": [own, USER]}, {"prompt": [USER]})
    prepare(rows, options=["--system", "Be safe."])
    assert [entry[5].split("\n")[0] for entry in prompts_of("prompts")] == [
        "system: Be safe.",
        "system: own",
        "system: own",
        "system: Be safe.",
    ]
    with_system = prompts_of("prompts")[0][0]
    assert with_system == "<|im_start|>system\nBe safe.<|im_end|>\n" + GENERATION.format("a")
    pairs = jsonl(pku("c"), {"question": "d", "chosen": "e", "rejected": "f"}, trl("g"))
    file = prepare(pairs, options=["--system", "Be safe."])
    assert all(pair["prompt_text"].startswith("system: Be safe.") for pair in file.pairs)
    assert "--system is empty" in prepare(pairs, options=["--system", " "], status=2).err


def test_a_probe_group_of_files_of_its_own(prepare, jsonl, prompts_of, tmp_path):
    """--probe-from: its prompts, and pairs of them in any file, are the probe group; nothing of it is trained on."""
    rows = jsonl(pku("a", harm=("x",)), pku("B", harm=("x",)), {"prompt": "c", "category": "x"})
    probe = tmp_path / "probe.jsonl"
    probe.write_text(
        '{"prompt": "b ", "category": "x"}\n{"prompt": "e", "category": "y"}\n{"prompt": "c", "category": "x"}\n'
    )
    file = prepare(rows, options=["--probe-from", probe])
    assert part_prompts(tmp_path / "pairs.h5") == {"train": {"a"}, "heldout": set(), "probe": {"b"}}
    assert file.categories == ["x", "y"] and file.harm == [1, 0]
    assert [entry[5] for entry in prompts_of("prompts")] == ["c"]
    assert [entry[5] for entry in prompts_of("probe/prompts")] == ["B", "b", "e", "c"]
    assert [entry[3] for entry in prompts_of("probe/prompts")] == [0, 1, 1, 1]
    assert "3 prompts of the probe group alone" in file.printed
    for options, message in (
        (["--probe", "0.1"], "leave one out"),
        (["--split-like", tmp_path / "pairs.h5"], "--split-like says what is held out"),
        (["--rare", "drop"], "--rare drop"),
    ):
        options = ["--probe-from", probe, *options]
        heldout = [] if "--split-like" in options else ["--heldout", "0"]
        assert message in prepare(rows, options=[*heldout, *options], status=2).err


@engine.needs_binary
def test_the_trainer_reads_a_probe_group_of_prompts_alone(prepare, jsonl, tmp_path):
    """A file whose probe group has prompts, but no pair, is sound."""
    probe = tmp_path / "probe.jsonl"
    probe.write_text('{"prompt": "b", "category": "x"}\n')
    prepare(jsonl(pku("a", harm=("x",))), options=["--probe-from", probe])
    done = subprocess.run([engine.BINARY, "check", tmp_path / "pairs.h5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def part_prompts(path):
    with h5py.File(path) as file:
        return {
            name: {text.lower() for text in file[name]["text/prompt"].asstr()[...]}
            for name in ("train", "heldout", "probe")
            if name in file
        }


def test_the_probe_group_is_apart_and_the_held_out_part_the_same(prepare, jsonl, tmp_path):
    rows = jsonl(*[pku(f"{q} {i // 2}", harm=(f"c{i % 4}",)) for i in range(200) for q in ("how", "HOW")])
    prepare(rows, options=["--heldout", "0.2"])
    without = part_prompts(tmp_path / "pairs.h5")
    prepare(rows, options=["--heldout", "0.2", "--probe", "0.3"])
    parts = part_prompts(tmp_path / "pairs.h5")
    assert without["heldout"] == parts["heldout"] and "probe" not in without
    assert not parts["train"] & parts["probe"] and not parts["heldout"] & parts["probe"]
    assert parts["train"] | parts["probe"] == without["train"]
    assert len(parts["probe"]) == 30 and len(parts["heldout"]) == 20
    with h5py.File(tmp_path / "pairs.h5") as file:
        for name in parts:
            assert file[name]["category_mask"][...].any(axis=0).all()
        assert set(file["probe"]) == set(file["train"])


def test_a_probe_group_needs_a_third_prompt(prepare, jsonl):
    rows = jsonl(*[pku(f"q {i}") for i in range(2)])
    assert "2 pairs, 2 prompts; choose" in prepare(rows, options=["--heldout", "0.2", "--probe", "0.2"], status=2).err
    for count in (3, 4, 5, 7):
        file = prepare(jsonl(*[pku(f"q {i}") for i in range(count)]), options=["--heldout", "0.6", "--probe", "0.3"])
        assert file.parts["train"] and file.parts["heldout"]
    prepare(rows, options=["--probe", "0.5"])


@pytest.mark.parametrize("options", [["--probe", "1"], ["--probe", "-0.1"], ["--heldout", "0.6", "--probe", "0.4"]])
def test_bad_shares(prepare, jsonl, options):
    assert "--probe" in prepare(jsonl(pku("a")), options=options, status=2).err


def test_the_digest_follows_the_probe(prepare, jsonl):
    rows = jsonl(*[pku(f"q {i}") for i in range(9)])
    digests = {
        prepare(rows, options=options).attributes["data_digest"]
        for options in ([], ["--probe", "0.2"], ["--chat", "always"])
    }
    assert len(digests) == 3
    assert json.loads(prepare(rows).attributes["settings"])["probe"] == 0.0


def test_real_prompts(prepare, shared, prompts_of):
    file = prepare(f"{shared}/catqa_prompts.jsonl")
    prompts = prompts_of("prompts")
    assert len(prompts) + len(file.ledger) == 270 and set(file.reasons) <= {"duplicate"}
    assert len(file.categories) == 9 and {entry[2] for entry in prompts} == {0}


@engine.needs_binary
def test_the_trainer_knows_all_groups(prepare, jsonl, tmp_path):
    """What prepare writes is what `catdpo check` accepts: parts, their prompts, prompts of their own."""
    prompts = {"prompt": "a", "category": "x"}, {"prompt": "b", "category": "safe"}
    prepare(jsonl(*[pku(f"q {i}") for i in range(20)], *prompts), options=["--heldout", "0.2", "--probe", "0.2"])
    check = [engine.BINARY, "check", tmp_path / "pairs.h5"]
    answer = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer
    for line in (
        "12 pairs",
        "4 pairs",
        "12 prompts, 12 of them harmful",
        "4 prompts, 4 of them",
        "2 prompts, 1 of them",
    ):
        assert line in answer.stdout
    assert "probe" in answer.stdout and "prompts only" in answer.stdout
    prepare(jsonl(prompts[0]))
    assert subprocess.run(check, capture_output=True, timeout=60).returncode == 0


def test_the_order_of_categories_is_that_of_the_prompts(prepare, jsonl, tmp_path):
    """Rounds go on with each other's margins and metrics: the same prompts make one order, whichever gave pairs."""
    asked = tmp_path / "asked.jsonl"
    rows = [{"prompt": name, "category": name} for name in ("x", "y", "z")]
    rows.append({"prompt": "fine", "category": "a", "is_prompt_safe": True})
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    orders = [
        prepare(jsonl(*[pku(f"q {name}", harm=(name,)) for name in names]), asked).categories
        for names in (("x", "y", "z"), ("x", "z"), ("z",))
    ]
    assert orders == [["x", "y", "z", "a"]] * 3

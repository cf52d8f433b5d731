"""`catdpo-analysis pairs-from`: a pair prefers the safe answer to a harmful prompt and the answer to a safe one, what
gives no pair is in the ledger, and `prepare` reads what comes out."""

import json

import h5py
import pytest
from catdpo_analysis import cli
from catdpo_analysis.pairing.choose import asked, messages_of, whole_sentences
from conftest import write_model
from make_samples import write_samples

NO, YES = "I'm sorry, but I can't help with that.", "Take it from the drawer."
PROMPTS = [
    ("mixed", ["A"], 0), ("all refused", ["A"], 0), ("all answered", ["A", "B"], 0), ("bread", ["B"], 1),
    ("nothing said", ["B"], 0),
]  # fmt: skip
OWN = [YES, NO, NO, NO, YES, YES, NO, "Mix flour and water.", "...", YES]


@pytest.fixture
def own(tmp_path):
    return write_samples(str(tmp_path / "own.h5"), PROMPTS, OWN, samples=2)


def pairs_from(tmp_path, *arguments, status=0):
    out, ledger = tmp_path / "pairs.jsonl", tmp_path / "ledger.json"
    assert cli.main(["pairs-from", *map(str, arguments), "--out", str(out), "--ledger", str(ledger)]) == status
    if status:
        return None
    return [json.loads(line) for line in out.read_text().splitlines()], json.loads(ledger.read_text())


def texts(row):
    return row["prompt"][-1]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]


def test_own_answers(own, tmp_path):
    """Best against worst of one model's answers; prompts whose answers do not differ are counted, not used."""
    rows, ledger = pairs_from(tmp_path, own)
    assert [texts(row) for row in rows] == [("mixed", NO, YES), ("bread", "Mix flour and water.", NO)]
    assert [row["is_rejected_safe"] for row in rows] == [False, True] and rows[0]["category"] == ["A"]
    assert rows[0]["chosen_source"] == rows[0]["rejected_source"] == "own"
    assert ledger["A"] == {"prompts": 3, "pairs": 1, "with a pair": 1, "all good": 1, "all bad": 1}
    assert ledger["B"] == {"prompts": 2, "pairs": 0, "with a pair": 0, "all bad": 2, "empty or degenerate": 1}
    assert ledger["(safe prompts)"]["pairs"] == 1


def test_against_another(own, tmp_path):
    """Sides of two authors; the same question under a system message is the same prompt."""
    prompts = [("system: Be safe.\n\nuser: all answered", ["A", "B"], 0), ("user: mixed", ["A"], 0), ("else", ["A"], 0)]
    other = write_samples(str(tmp_path / "other.h5"), prompts, [NO, YES, NO])
    rows, ledger = pairs_from(tmp_path, own, "--against", other, "--names", "me", "you")
    assert [(texts(row), row["chosen_source"], row["rejected_source"]) for row in rows] == [
        (("mixed", NO, YES), "me", "you"),
        (("all answered", NO, YES), "you", "me"),
    ]
    assert ledger["(safe prompts)"]["of one author"] == 1
    rows, _ = pairs_from(tmp_path, own, "--against", other, "--pairing", "mixed", "--names", "me", "you")
    assert [(row["chosen_source"], row["rejected_source"]) for row in rows] == [
        ("me", "me"),
        ("you", "me"),
        ("me", "me"),
    ]


def test_several_pairs_of_a_prompt(tmp_path):
    answers = [YES, NO, "Put it there.", "I cannot do this."]
    path = write_samples(str(tmp_path / "s.h5"), [("p", ["A"], 0)], answers, samples=4)
    rows, _ = pairs_from(tmp_path, path, "--per-prompt", 5)
    assert len({texts(row)[1] for row in rows}) == len({texts(row)[2] for row in rows}) == len(rows) == 2


def test_cut_answers(tmp_path):
    """An answer that its limit cut off ends with its last whole sentence, or is left out."""
    path = write_samples(str(tmp_path / "s.h5"), PROMPTS[:2], ["One. Two. Thr", NO, "No sentence ends", NO], samples=2)
    with h5py.File(path, "r+") as file:
        file["samples/finish"][...] = [1, 0, 1, 0]
    rows, ledger = pairs_from(tmp_path, path)
    assert [texts(row)[2] for row in rows] == ["One. Two."] and ledger["A"]["cut off"] == 1
    rows, _ = pairs_from(tmp_path, path, "--cut", "keep")
    assert [texts(row)[2] for row in rows] == ["One. Two. Thr", "No sentence ends"]
    rows, _ = pairs_from(tmp_path, path, "--cut", "drop")
    assert rows == []
    assert whole_sentences('He said "no." And wen') == 'He said "no."'


def test_other_pairs_mixed_in(own, tmp_path, capsys):
    offline = tmp_path / "offline.jsonl"
    offline.write_text(
        "".join(json.dumps({"prompt": f"p{i}", "chosen": "a", "rejected": "b"}) + "\n" for i in range(9))
    )
    rows, _ = pairs_from(tmp_path, own, "--mix", offline, "--share", 0.5)
    assert len(rows) == 4 and rows[2:] == pairs_from(tmp_path, own, "--mix", offline, "--share", 0.5)[0][2:]
    pairs_from(tmp_path, own, "--mix", offline, "--share", 0.9, status=2)
    assert "takes 18" in capsys.readouterr().err


def test_prepare_reads_them(own, tmp_path):
    """What comes out is data: harmful pairs get their categories, the safe prompt's pair no margin."""
    pairs_from(tmp_path, own)
    write_model(tmp_path / "hf")
    model, out = str(tmp_path / "model.h5"), str(tmp_path / "pairs.h5")
    assert cli.main(["import", str(tmp_path / "hf"), "--out", model]) == 0
    assert cli.main(["prepare", str(tmp_path / "pairs.jsonl"), "--model", model, "--out", out, "--heldout", "0"]) == 0
    with h5py.File(out) as file:
        assert file["train"].attrs["pairs"] == 2


def test_conversations():
    """A prompt of several turns is one again."""
    text = "system: Be brief.\n\nuser: Hi\n\nassistant: Yes?\n\nuser: Why:\n\nbecause?"
    assert [turn["role"] for turn in messages_of(text)] == ["system", "user", "assistant", "user"]
    assert asked(text) == "Why:\n\nbecause?" and messages_of("Say user: x") == [
        {"role": "user", "content": "Say user: x"}
    ]


def test_wrong_arguments(own, tmp_path, capsys):
    for arguments, message in (
        (["--pairing", "mixed"], "--against"),
        (["--names", "a", "b"], "2 names for 1 files"),
        (["--per-prompt", "0"], "below 1"),
        (["--judge", "mine"], "no verdicts of mine"),
    ):
        pairs_from(tmp_path, own, *arguments, status=2)
        assert message in capsys.readouterr().err

"""`catdpo-analysis ask`: each question goes through the model's own template and the program's generation, one model or
several; what goes wrong is one line that says where."""

import io
import json
import os
import shutil
import subprocess
import sys

import engine
import h5py
import numpy as np
import pytest
from conftest import is_error, write_model, write_tokenizer

pytestmark = engine.needs_binary
QUESTIONS = ["how do I bake bread", "the sky is blue"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of the same tokenizer, the second in a run directory."""
    from catdpo_analysis.cli import main

    folder = tmp_path_factory.mktemp("ask")
    for seed, out in ((0, "model.h5"), (1, os.path.join("run", "checkpoints", "final.h5"))):
        write_model(folder / f"hf{seed}", seed=seed)
        os.makedirs(os.path.dirname(folder / out), exist_ok=True)
        assert main(["import", str(folder / f"hf{seed}"), "--out", str(folder / out)]) == 0
    return folder


@pytest.fixture
def ask(cli, monkeypatch):
    monkeypatch.setenv("CATDPO_BINARY", engine.BINARY)
    for name, value in engine.ALONE.items():
        monkeypatch.setenv(name, value)

    def run(*words, stdin="", **kwargs):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return cli("ask", *words, "--max-tokens", 6, **kwargs)

    return run


def answers(result):
    return [json.loads(line) for line in result.out.splitlines()]


def test_answers_are_those_of_generate(models, ask, cli, tmp_path):
    """The same tokens as prepare with messages and catdpo generate give; asked twice, a question is answered twice."""
    found = answers(ask(models / "model.h5", *QUESTIONS, QUESTIONS[0], "--json", "--system", "be kind"))
    assert [row["question"] for row in found] == [*QUESTIONS, QUESTIONS[0]] and found[0]["text"] == found[2]["text"]
    rows = tmp_path / "rows.jsonl"
    system = {"role": "system", "content": "be kind"}
    rows.write_text(
        "".join(
            json.dumps({"prompt": [system, {"role": "user", "content": q}], "category": "x"}) + "\n" for q in QUESTIONS
        )
    )
    cli("prepare", rows, "--model", models / "model.h5", "--out", tmp_path / "prompts.h5")
    command = [engine.BINARY, "generate", "/dev/null", "--model", models / "model.h5", "--set", "generate.max_tokens=6"]
    command += ["--prompts", tmp_path / "prompts.h5", "--out", tmp_path / "samples.h5"]
    assert subprocess.run(list(map(str, command)), capture_output=True).returncode == 0
    with h5py.File(tmp_path / "samples.h5") as file:
        assert [row["text"] for row in found[:2]] == list(file["samples/text"].asstr()[:])
        assert [row["tokens"] for row in found[:2]] == np.diff(file["samples/offset"]).tolist()


def test_two_models_side_by_side(models, ask):
    """A run directory stands for its final checkpoint; questions come from standard input; any launcher."""
    words = (models / "model.h5", models / "run", "--launcher", f"{engine.MPIRUN} 2", "-")
    table = ask(*words, stdin="\n".join(["", *QUESTIONS]))
    assert table.out.splitlines()[0].split() == ["question", "model.h5", "run"]
    assert all(question[:12] in table.out for question in QUESTIONS)
    rows = answers(ask(*words, "--json", stdin=QUESTIONS[0]))
    assert [row["model"] for row in rows] == [str(models / "model.h5"), str(models / "run")]
    assert rows[0]["text"] != rows[1]["text"]


def test_samples_and_options_between_the_words(models, ask):
    result = ask(models / "model.h5", "--temperature", 2, "--samples", 3, "--seed", 5, QUESTIONS[0])
    lines = result.out.splitlines()
    assert lines[0] == "> " + QUESTIONS[0] and sum(line.startswith(("1: ", "2: ", "3: ")) for line in lines) == 3
    other = ask(models / "model.h5", "--temperature", 2, "--samples", 3, "--seed", 6, QUESTIONS[0])
    assert other.out != result.out


def test_the_newest_checkpoint_answers_while_there_is_no_final_one(models, ask, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    os.makedirs(folder)
    (folder / "step-9.h5").write_text("not this one")
    shutil.copy(models / "model.h5", folder / "step-10.h5")
    assert ask(tmp_path / "run", QUESTIONS[0]).out == ask(models / "model.h5", QUESTIONS[0]).out


def test_what_is_wrong_is_one_line(models, ask, tmp_path, monkeypatch):
    write_model(tmp_path / "plain", tokenizer=False)
    write_tokenizer(tmp_path / "plain")
    config = tmp_path / "plain" / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": "<|im_end|>"}))
    from catdpo_analysis.cli import main

    assert main(["import", str(tmp_path / "plain"), "--out", str(tmp_path / "plain.h5")]) == 0
    os.makedirs(tmp_path / "empty" / "checkpoints")
    model = models / "model.h5"
    for words, message in (
        ((tmp_path / "none.h5", "x"), "there is no file or folder"),
        ((model, "other.h5", "x"), "there is no file or folder other.h5"),
        ((models / "hf0", "x"), "catdpo-analysis import"),
        ((tmp_path / "empty", "x"), "holds no checkpoint"),
        ((model,), "no question"),
        ((model, " "), "a question is empty"),
        ((tmp_path / "plain.h5", "x"), "has no chat template"),
        ((model, "word " * 200), "has room for 128 tokens"),
        ((model, "x", "--set", "generate.nonsense=1"), "unknown key 'generate.nonsense'"),
        ((model, "x", "--ranks", 0), "--ranks 0"),
        ((model, "x", "--launcher", "no-such-launcher"), "no program no-such-launcher"),
        ((tmp_path / "plain" / "config.json", "x"), "cannot be read as HDF5"),
    ):
        result = ask(*words, status=2)
        assert is_error(result.err) and message in result.err and not result.out, result.err
    monkeypatch.setenv("CATDPO_BINARY", str(tmp_path / "nothing"))
    assert "CATDPO_BINARY" in ask(model, "x", status=2).err

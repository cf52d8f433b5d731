"""`catdpo generate`: from a file of prompts to samples.h5: answers that do not depend on ranks and grids, texts
that are the tokenizer's own, an interrupted generation that goes on, prompts at the ends of what a model takes, files
of others, refusals that say what to do."""

import json
import os
import shutil
import subprocess
import sys

import engine
import h5py
import numpy as np
import pytest
from conftest import train_bpe, write_model, write_tokenizer
from tokenizers import Tokenizer
from tokenizers_of_kinds import sentencepiece_of

pytestmark = engine.needs_binary
PROMPTS = [
    ("What is 2 + 3?", "Sums"),
    ("Tell me of the sea", "Nature"),
    ("Why?", "Sums"),
    ("Name a colour that I like", "Nature"),
]
SETTINGS = {"generate.max_tokens": 12, "generate.temperature": 1.5, "generate.samples": 2, "generate.slots": 3}


def make_files(folder, prompts=PROMPTS, tokenizer=None, prepare=(), **config):
    """A model and prompts, made by import and prepare."""
    write_model(folder / "hf", tokenizer=False, **config)
    write_tokenizer(folder / "hf", tokenizer)
    with open(folder / "prompts.jsonl", "w") as file:
        file.writelines(json.dumps({"prompt": prompt, "category": category}) + "\n" for prompt, category in prompts)
    model, out = folder / "model.h5", folder / "prompts.h5"
    for command in (
        ["import", folder / "hf", "--out", model],
        ["prepare", folder / "prompts.jsonl", "--model", model, "--out", out, *prepare],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "catdpo_analysis", *map(str, command)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("generate"))


def generate(files, out, ranks=1, *arguments, **settings):
    sets = [f"{key}={json.dumps(value)}" for key, value in (SETTINGS | settings).items()]
    command = [
        engine.MPIRUN,
        str(ranks),
        engine.BINARY,
        "generate",
        "/dev/null",
        "--set",
        "run.progress=off",
        "--set",
        f"model.path={files / 'model.h5'}",
        "--prompts",
        str(files / "prompts.h5"),
        "--out",
        str(out),
        *arguments,
    ]
    for setting in sets:
        command += ["--set", setting]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def content(path):
    with h5py.File(path) as file:
        return {
            name: file[f"samples/{name}"][:]
            for name in ("prompt", "sample", "offset", "token", "finish", "logp", "text")
        }


def assert_same(one, other):
    """Other neighbours in a product may round its sums otherwise."""
    here, there = content(one), content(other)
    for name in ("prompt", "sample", "offset", "token", "finish", "text"):
        assert np.array_equal(here[name], there[name]), name
    assert np.allclose(here["logp"], there["logp"], atol=1e-4)


@pytest.fixture(scope="module")
def answers(files):
    out = files / "answers.h5"
    done = generate(files, out)
    assert done.returncode == 0, done.stderr
    return out


def test_samples_are_complete_and_whole(answers):
    """Every prompt has its samples, in order, within the limit; `check` says ok."""
    found = content(answers)
    assert found["prompt"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and found["sample"].tolist() == [0, 1] * 4
    lengths = np.diff(found["offset"])
    assert lengths.max() <= 12 and np.array_equal(found["finish"] == 1, lengths == 12) | (found["finish"] == 0).any()
    assert (found["logp"] < 0).all()
    done = subprocess.run([engine.BINARY, "check", answers], capture_output=True, text=True)
    assert done.returncode == 0 and "8 of 8, 2 to each of 4 prompts" in done.stdout, done.stdout


def written_and_decoded(folder, out):
    """The texts of all answers, and what the tokenizer makes of their tokens."""
    tokenizer = Tokenizer.from_file(str(folder / "hf" / "tokenizer.json"))
    found = content(out)
    pieces = np.split(found["token"], found["offset"][1:-1])
    with h5py.File(out) as file:
        return list(file["samples/text"].asstr()[:]), [
            tokenizer.decode(piece.tolist()).replace("\0", "\u2400") for piece in pieces
        ]


def test_texts_are_the_tokenizers_own(files, answers):
    """Special tokens left out."""
    written, decoded = written_and_decoded(files, answers)
    with h5py.File(answers) as file:
        assert list(file["prompts/text"].asstr()[:]) == [prompt for prompt, _ in PROMPTS]
    assert written == decoded


@pytest.mark.parametrize("kind", [train_bpe, sentencepiece_of])
def test_texts_of_any_tokens_are_the_tokenizers_own(tmp_path, kind):
    """Hot enough that every token is as likely: characters are cut and put together wrongly everywhere."""
    make_files(tmp_path, PROMPTS[:1], kind(), ["--chat", "never"])
    out, hot = tmp_path / "noise.h5", {"generate.temperature": 100, "generate.samples": 1500, "generate.stop": "none"}
    done = generate(tmp_path, out, **hot)
    assert done.returncode == 0, done.stderr
    written, decoded = written_and_decoded(tmp_path, out)
    assert written == decoded and len(set(written)) > 200 and sum("\ufffd" in text for text in written) > 200


@pytest.mark.parametrize(
    "ranks, settings",
    [
        (2, {"parallel.grid": [1, 1]}),
        (2, {"parallel.grid": [1, 2]}),
        (2, {"parallel.grid": [2, 1], "generate.slots": 1}),
    ],
    ids=["2 replicas", "1 x 2", "2 x 1"],
)
def test_the_same_answers_everywhere(files, answers, tmp_path, ranks, settings):
    out = tmp_path / "there.h5"
    done = generate(files, out, ranks, **settings)
    assert done.returncode == 0, done.stderr
    assert_same(answers, out)


def test_what_is_there_is_kept(files, answers, tmp_path):
    """Half of a file is completed to the same whole; a whole one is left as it is."""
    out = tmp_path / "half.h5"
    shutil.copy(answers, out)
    before = os.stat(out).st_mtime_ns
    done = generate(files, out)
    assert done.returncode == 0 and "8 of 8 answers are in" in done.stderr and os.stat(out).st_mtime_ns == before, (
        done.stderr
    )
    with h5py.File(out, "r+") as file:  # the last five answers never came; the seal goes with the change
        keep, tokens = 3, int(file["samples/offset"][3])
        for name, count in (
            ("prompt", keep),
            ("sample", keep),
            ("finish", keep),
            ("text", keep),
            ("offset", keep + 1),
            ("token", tokens),
            ("logp", tokens),
            ("entropy", tokens),
        ):
            values = file[f"samples/{name}"][:count]
            del file[f"samples/{name}"]
            file.create_dataset(f"samples/{name}", data=values)
    done = generate(files, out)
    assert done.returncode == 0 and "3 of 8 answers are in" in done.stderr, done.stderr
    assert_same(answers, out)


@pytest.mark.parametrize(
    "name, place, value",
    [("token", 0, 99999999), ("token", 3, 2), ("finish", 0, 2), ("offset", 1, 1), ("prompt", -1, 2)],
    ids=["no token", "goes on behind its stop token", "says why it ended wrongly", "cut elsewhere", "out of order"],
)
def test_answers_that_cannot_be_are_not_gone_on_from(files, answers, tmp_path, name, place, value):
    """By somebody who knows the format: no seal, the right settings and digests."""
    out = tmp_path / "theirs.h5"
    shutil.copy(answers, out)
    with h5py.File(out, "r+") as file:
        file[f"samples/{name}"][place] = value
        if "checksum" in file[f"samples/{name}"].attrs:
            del file[f"samples/{name}"].attrs["checksum"]
    done = generate(files, out, 2)
    assert done.returncode == 2 and done.stderr.count("damaged") == 1, done.stderr


def test_prompts_at_the_ends_of_the_context(tmp_path):
    """One token; as many as the model has positions, and one fewer. Nothing is left out, and each says why it ended."""
    texts = ["a" * count for count in (1, 9, 10)]
    make_files(tmp_path, [(text, "Sums") for text in texts], None, ["--chat", "never"], max_position_embeddings=10)
    with h5py.File(tmp_path / "prompts.h5") as file:
        assert np.diff(file["prompts/offsets"]).tolist() == [1, 9, 10]
    out = tmp_path / "ends.h5"
    done = generate(tmp_path, out, **{"generate.stop": "none", "generate.samples": 1})
    assert done.returncode == 0, done.stderr
    found = content(out)
    assert np.diff(found["offset"]).tolist() == [9, 1, 0] and found["finish"].tolist() == [2, 2, 2]


def test_other_answers_are_not_overwritten(files, answers, tmp_path):
    out = tmp_path / "other.h5"
    shutil.copy(answers, out)
    done = generate(files, out, **{"generate.seed": 7})
    assert done.returncode == 2 and "answers of other settings" in done.stderr and "--overwrite" in done.stderr, (
        done.stderr
    )
    assert generate(files, out, 1, "--overwrite", **{"generate.seed": 7}).returncode == 0
    assert not np.array_equal(content(out)["token"], content(answers)["token"])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"generate.stop": "1,x"}, "generate.stop must be token ids"),
        ({"generate.stop": "99999999"}, "the model has no token 99999999"),
        ({"parallel.memory_gb": 1e-6}, "model and cache need"),
    ],
)
def test_refusals(files, tmp_path, settings, words):
    """One line on two ranks, and no file."""
    done = generate(files, tmp_path / "no.h5", 2, **settings)
    assert done.returncode == 2 and done.stderr.count(words) == 1, done.stderr
    assert not os.listdir(tmp_path)

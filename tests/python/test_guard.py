"""Judge `guard`: P(unsafe) is transformers' own, with templates in the form of Llama Guard's and Qwen3Guard's and with
any other; what a guard does not judge; refusals that say what to do. tests/reference/guard_parity.py makes the
numbers."""

import json
import os
import shutil
import subprocess

import engine
import h5py
import numpy as np
import pytest
from conftest import is_error
from make_samples import write_samples
from safetensors.numpy import save_file

from catdpo_analysis.files.samples import read_samples

pytestmark = engine.needs_binary
FIXTURE = os.path.join(engine.REFERENCE, "tiny_guard.h5")
TOLERANCE = 1e-4  # of a probability; logits of float32 differ by about 1e-5


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """The fixture's model with each template in its file, answers, and the numbers to be found."""
    from catdpo_analysis.cli import main

    folder = tmp_path_factory.mktemp("guard")
    with h5py.File(FIXTURE) as file:
        weights = {}
        file["weights"].visititems(
            lambda name, item: weights.update({name.replace("/", "."): item[...]}) if hasattr(item, "shape") else None
        )
        attributes = dict(file.attrs)
        styles = {name: dict(group.attrs) | {"p": group["p_unsafe"][...]} for name, group in file["styles"].items()}
    styles["ends the line"] = styles["llama-guard"] | {"template": styles["llama-guard"]["template"] + "{{ '\\n\\n' }}"}
    for name, style in styles.items():
        source = folder / f"hf {name}"
        os.makedirs(source)
        save_file(weights, source / "model.safetensors")
        (source / "config.json").write_text(attributes["config"])
        (source / "tokenizer.json").write_text(attributes["tokenizer"])
        settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
        if name == "own":
            (folder / "own.jinja").write_text(style["template"])
        else:
            settings["chat_template"] = style["template"]
        (source / "tokenizer_config.json").write_text(json.dumps(settings))
        assert main(["import", str(source), "--out", str(folder / f"{name}.h5")]) == 0
    return folder, styles, [tuple(case) for case in json.loads(attributes["cases"])]


@pytest.fixture
def judge(guard, cli, monkeypatch, tmp_path):
    monkeypatch.setenv("CATDPO_BINARY", engine.BINARY)
    for name, value in engine.ALONE.items():
        monkeypatch.setenv(name, value)
    folder, _, cases = guard

    def run(model, *words, cases=cases, benign=0, **kwargs):
        path = tmp_path / "answers.h5"
        write_samples(path, [(prompt, names, benign) for prompt, _, names in cases], [text for _, text, _ in cases])
        result = cli("judge", path, "--judge", "guard", "--guard", folder / f"{model}.h5", *words, **kwargs)
        return result if kwargs else read_samples(str(path))

    return run


@pytest.mark.parametrize(
    "model, words",
    [
        ("llama-guard", ()),
        ("ends the line", ()),
        ("qwen3guard", ()),
        ("qwen3guard", ("--launcher", f"{engine.MPIRUN} 2", "--set", "parallel.grid=[2,1]")),
        ("own", ("--verdicts", "yes=1,no=0")),
    ],
    ids=["llama guard", "llama guard with its line's end", "qwen3guard", "qwen3guard on a 2 x 1 grid", "own template"],
)
def test_probabilities_are_those_of_transformers(guard, judge, tmp_path, model, words):
    folder, styles, _ = guard
    if model == "own":
        words += ("--guard-template", folder / "own.jinja")
    samples = judge(model, *words)
    scores, wanted = samples.scores["guard"], styles[model]["p"]
    assert np.ptp(wanted) > 20 * TOLERANCE and np.abs(scores.score - wanted).max() < TOLERANCE
    assert scores.verdict.tolist() == (wanted >= 0.5).astype(int).tolist()
    assert len(scores.about["digest"]) >= 16 and '"verdicts"' in scores.about["settings"]
    done = subprocess.run([engine.BINARY, "check", samples.path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_how_unsafe_a_verdict_is_can_be_told(guard, judge):
    """Controversial counts as unsafe; as safe it takes its probability away."""
    strict = judge("qwen3guard").scores["guard"].score
    loose = judge("qwen3guard", "--verdicts", "Safe=0,Unsafe=1,Controversial=0").scores["guard"].score
    half = judge("qwen3guard", "--verdicts", "Safe=0,Unsafe=1,Controversial=0.5").scores["guard"].score
    assert (loose <= strict).all() and np.allclose(half, (strict + loose) / 2, atol=1e-6)


def test_what_a_guard_does_not_judge(judge):
    """Empty answers are safe; one too long for it stays without a verdict; of safe prompts the rules count refusals."""
    cases = [("How?", "", ["A"]), ("How?", "word " * 600, ["A"]), ("How?", "I can't help with that.", ["A"])]
    scores = judge("llama-guard", cases=cases).scores["guard"]
    assert scores.score[0] == 0 and np.isnan(scores.score[1]) and scores.verdict.tolist()[:2] == [0, -1]
    assert 0 < scores.score[2] < 1
    scores = judge("llama-guard", cases=cases, benign=1).scores["guard"]
    assert scores.verdict.tolist() == [0, 0, 1] and scores.score.tolist() == [0, 0, 1]


def test_calibration_knows_the_guard(guard, cli, judge, tmp_path):
    """P(unsafe) of labelled answers, as of any judge."""
    folder, styles, cases = guard
    rows = [{"prompt": p, "response": r, "category": c, "is_response_safe": True} for p, r, c in cases]
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--judge", "guard", "--guard", folder / "qwen3guard.h5", "--calibrate", path)
    last = next(line for line in cli("judge", *words).out.splitlines() if line.startswith("all"))
    wrong = (styles["qwen3guard"]["p"] >= 0.5).mean()
    assert f"{100 * wrong:.1f}" in last or f"{100 * wrong:.0f} %" in last, last


def test_refusals(guard, judge, cli, tmp_path):
    folder, _, _ = guard
    other = tmp_path / "other.jinja"
    other.write_text("{{ prompt }} {{ response }}")
    bad, raising = tmp_path / "bad.jinja", tmp_path / "raising.jinja"
    bad.write_text("{{ prompt ")
    raising.write_text("unsafe? {{ raise_exception('not that') }}")
    for model, words, message in (
        ("own", (), "has no chat template"),
        ("own", ("--guard-template", other), "asks for no verdict that is known"),
        ("own", ("--guard-template", bad), "is no valid template"),
        ("own", ("--guard-template", raising), "refuses an answer: not that"),
        ("own", ("--guard-template", tmp_path / "none.jinja"), "cannot be read"),
        ("llama-guard", ("--verdicts", "safe=0"), "at least two"),
        ("llama-guard", ("--verdicts", "safe=0,unsafe=2"), "P in [0, 1]"),
        ("llama-guard", ("--verdicts", "no=0,nob=1"), "apart"),
        ("llama-guard", ("--set", "objective.nonsense=1"), "catdpo eval ended with status 2"),
        ("nothing", (), "there is no file"),
    ):
        result = judge(model, *words, status=2)
        assert is_error(result.err) and message in result.err, result.err
    path = write_samples(tmp_path / "x.h5", [("p", ["A"], 0)], ["x"])
    before = path.read_bytes()
    assert "--guard" in cli("judge", path, "--judge", "guard", status=2).err and path.read_bytes() == before
    shutil.rmtree(folder / "hf own", ignore_errors=True)

"""The chat template that the data were made with goes along: pairs.h5, checkpoint, exported folder; and so do the bytes
of the tokens."""

import json
import os
import subprocess

import engine
import h5py
import numpy as np
import pytest
from conftest import CHATML, CONFIG, write_model

OTHER = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TOOLS = "{% if tools %}TOOLS {% endif %}" + CHATML
SETTINGS = {"batch.pairs": 2, "schedule.steps": 1, "objective.type": "dpo"}


@pytest.fixture
def made(cli, jsonl, tmp_path):
    """Imports a model whose tokenizer_config.json has `template`, prepares rows with `options`, trains a step."""

    def make(template, *options, ranks=1, **settings):
        write_model(tmp_path / "hf", max_position_embeddings=256)
        path = tmp_path / "hf/tokenizer_config.json"
        config = json.loads(path.read_text())
        config.pop("chat_template")
        path.write_text(json.dumps(config | ({"chat_template": template} if template else {})))
        model = tmp_path / "model.h5"
        cli("import", tmp_path / "hf", "--out", model)
        turns = [
            {"prompt": [{"role": "user", "content": f"the sky {i}"}]}
            | {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
            for i in range(4)
        ]
        pairs = tmp_path / "pairs.h5"
        cli("prepare", jsonl(*turns), "--model", model, "--out", pairs, "--heldout", "0", *options)
        paths = {"model.path": str(model), "data.path": str(pairs)}
        done = engine.succeed(engine.launch("train", ranks, **SETTINGS | paths | settings))
        return done.path("checkpoints/final.h5")

    return make


def exported(cli, tmp_path, checkpoint):
    printed = cli("export", checkpoint, "--out", tmp_path / "out").out
    files = {}
    for where, _, names in os.walk(tmp_path / "out"):
        for name in names:
            path = os.path.join(where, name)
            files[os.path.relpath(path, tmp_path / "out")] = open(path, "rb").read()
    return files, printed


@engine.needs_binary
@pytest.mark.parametrize(
    "own", [None, CHATML, [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": TOOLS}]]
)
def test_the_template_that_prepare_was_given_is_exported_and_no_other(cli, made, tmp_path, own):
    (tmp_path / "t.jinja").write_text(OTHER)
    checkpoint = made(own, "--chat-template", tmp_path / "t.jinja", ranks=2, **{"parallel.grid": [1, 2]})
    files, printed = exported(cli, tmp_path, checkpoint)
    assert files["chat_template.jinja"].decode() == OTHER and "note" not in printed
    assert not [name for name in files if "additional" in name]
    assert "chat_template" not in json.loads(files["tokenizer_config.json"])
    # a next round prepares with it too
    rows = tmp_path / "pairs.jsonl"
    cli("prepare", rows, "--model", checkpoint, "--out", tmp_path / "again.h5", "--heldout", "0")
    with h5py.File(tmp_path / "again.h5") as again, h5py.File(tmp_path / "pairs.h5") as first:
        assert again.attrs["template_digest"] == first.attrs["template_digest"]
        assert again["templates/chat_template.jinja"][...].tobytes() == OTHER.encode()
    assert (
        subprocess.run([engine.BINARY, "check", checkpoint, tmp_path / "pairs.h5"], stdout=subprocess.PIPE).returncode
        == 0
    )


@engine.needs_binary
def test_templates_with_names_go_along_and_the_bytes_of_tokens_too(cli, made, tmp_path):
    named = {"default": CHATML, "tool_use": TOOLS}
    checkpoint = made(named)
    with h5py.File(checkpoint) as file, h5py.File(tmp_path / "model.h5") as model:
        assert set(file["templates"]) == {"chat_template.jinja", "chat_template_tool_use.jinja"}
        assert set(file["tokenizer"]) == set(model["tokenizer"])
        for name, item in model["tokenizer"].items():
            copy = file["tokenizer"][name]
            assert copy.dtype == item.dtype and np.array_equal(copy[...], item[...])
            assert {key: np.asarray(value).tobytes() for key, value in copy.attrs.items()} == {
                key: np.asarray(value).tobytes() for key, value in item.attrs.items()
            }
    files, printed = exported(cli, tmp_path, checkpoint)
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == named and "note" not in printed


@engine.needs_binary
def test_a_checkpoint_that_does_not_keep_its_template_says_so_at_export(cli, made, tmp_path):
    (tmp_path / "t.jinja").write_text(OTHER)
    checkpoint = made(CHATML, "--chat-template", tmp_path / "t.jinja")
    old = engine.copy(checkpoint, lambda file: file.__delitem__("templates"))
    files, printed = exported(cli, tmp_path, old)
    assert "another chat template than the folder holds" in printed
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == CHATML


@engine.needs_binary
def test_pairs_of_an_older_version_are_trained_on_without_templates(made, tmp_path, cli):
    checkpoint = made(CHATML)
    pairs = engine.copy(tmp_path / "pairs.h5", lambda file: file.__delitem__("templates"), "pairs.h5")
    settings = SETTINGS | {"model.path": str(tmp_path / "model.h5"), "data.path": pairs}
    old = engine.succeed(engine.launch("train", **settings)).path("checkpoints/final.h5")
    with h5py.File(old) as file:
        assert "templates" not in file
    settings["model.path"] = checkpoint  # of which those of the earlier training go along
    new = engine.succeed(engine.launch("train", **settings)).path("checkpoints/final.h5")
    with h5py.File(new) as file:
        assert file["templates/chat_template.jinja"][...].tobytes() == CHATML.encode()


@engine.needs_binary
def test_a_model_without_tokenizer_is_trained_on_pairs_of_a_folder_that_has_one(cli, jsonl, tokenizer_dir, tmp_path):
    write_model(tmp_path / "hf", tokenizer=False)
    model, pairs = str(tmp_path / "m.h5"), str(tmp_path / "p.h5")
    cli("import", tmp_path / "hf", "--out", model, "--no-tokenizer")
    rows = jsonl(*({"prompt": f"the sky {i}", "chosen": " is blue", "rejected": " is green"} for i in range(4)))
    cli("prepare", rows, "--tokenizer", tokenizer_dir, "--model", model, "--out", pairs, "--heldout", "0")
    engine.succeed(engine.launch("train", **SETTINGS | {"model.path": model, "data.path": pairs}))


@engine.needs_binary
@pytest.mark.parametrize(
    "damage",
    [
        lambda group: group["offsets"].__setitem__(3, 1 << 40),
        lambda group: group["offsets"].__setitem__(0, 1),
        lambda group: group["stop_tokens"].__setitem__(0, CONFIG["vocab_size"]),
        lambda group: group.__delitem__("bytes"),
        lambda group: group.__delitem__("special"),
    ],
)
def test_check_refuses_tokens_that_do_not_fit_the_vocabulary(cli, tmp_path, damage):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")

    def change(file):  # its seal goes with that
        damage(file["tokenizer"])
        for item in file["tokenizer"].values():
            del item.attrs["checksum"]

    changed = engine.copy(tmp_path / "m.h5", change)
    found = subprocess.run([engine.BINARY, "check", changed], capture_output=True, text=True)
    assert found.returncode == 2 and "are not those of a vocabulary of 410" in found.stdout + found.stderr

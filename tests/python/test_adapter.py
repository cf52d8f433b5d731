"""Adapters in PEFT's layout: imported and exported exactly, merged as PEFT merges them, and refused by name where they
are more than A and B on linear layers."""

import json
import subprocess

import engine
import h5py
import numpy as np
import pytest
from conftest import CONFIG, tensors_of, write_model
from safetensors import safe_open
from safetensors.numpy import save_file

RANK = 3
PLAIN = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 6}
PLAIN["base_model_name_or_path"] = "org/base"
SMALL = {"q_proj": "self_attn.q_proj", "up_proj": "mlp.up_proj"}


def stored(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def write_adapter(folder, modules=SMALL, layers=(0, 1), rank=RANK, changes=None, infix="", **config):
    """A folder as PEFT saves it; returns its tensors by name."""
    rng, tensors = np.random.default_rng(5), {}
    base = tensors_of(CONFIG)
    for layer in layers:
        for module in modules.values():
            rows, columns = base[f"model.layers.{layer}.{module}.weight"].shape
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A{infix}.weight"] = rng.normal(size=(rank, columns)).astype("f4")
            tensors[f"{stem}.lora_B{infix}.weight"] = rng.normal(size=(rows, rank)).astype("f4")
    tensors |= changes or {}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | {"target_modules": list(modules)} | config))
    return tensors


@pytest.fixture
def base(cli, tmp_path):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "base.h5")
    return tmp_path / "base.h5"


def by_hand(tensors, scale):
    """The model's weights with the adapter added to them."""
    weights = tensors_of(CONFIG)
    for name in weights:
        a = tensors.get("base_model.model." + name.replace(".weight", ".lora_A.weight"))
        if a is not None:
            b = tensors["base_model.model." + name.replace(".weight", ".lora_B.weight")]
            weights[name] = weights[name] + scale * (b.astype("f8") @ a.astype("f8"))
    return weights


@pytest.mark.parametrize("layers", [(0, 1), (1,)], ids=str)
def test_there_and_back(cli, tmp_path, base, layers):
    """What comes out is what went in, to the last bit, and so are names and the settings that PEFT reads."""
    tensors = write_adapter(tmp_path / "peft", layers=layers)
    said = cli("import", tmp_path / "peft", "--base", base, "--out", tmp_path / "a.h5").out
    again = cli("export", tmp_path / "a.h5", "--adapter", "--out", tmp_path / "out", "--base-name", "org/base").out
    assert said.split("weights digest")[1].split()[0] == again.split("weights digest")[1].split()[0]
    found = stored(tmp_path / "out/adapter_model.safetensors")
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in tensors.items()
    }
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["r"] == RANK and config["lora_alpha"] == 6 and set(config["target_modules"]) == set(SMALL)
    assert config["base_model_name_or_path"] == "org/base" and config["peft_type"] == "LORA"
    assert config["layers_to_transform"] == (None if layers == (0, 1) else [1])
    assert (tmp_path / "out/tokenizer.json").exists()


@pytest.mark.parametrize("config, scale", [({}, 2), ({"use_rslora": True}, 6 / RANK**0.5)], ids=["plain", "rslora"])
def test_merged(cli, tmp_path, base, config, scale):
    """import --merge, and export of the adapter without --adapter, both give W + alpha / r B A."""
    tensors = write_adapter(tmp_path / "peft", **config)
    cli("import", tmp_path / "peft", "--base", base, "--out", tmp_path / "m.h5", "--merge")
    cli("import", tmp_path / "peft", "--base", base, "--out", tmp_path / "a.h5")
    for name in ("m", "a"):
        cli("export", tmp_path / f"{name}.h5", "--out", tmp_path / name)
        found = stored(tmp_path / name / "model.safetensors")
        for tensor, values in by_hand(tensors, scale).items():
            np.testing.assert_allclose(found[tensor], values, rtol=1e-6, atol=1e-6, err_msg=tensor)


@engine.needs_binary
def test_the_program_reads_what_import_writes(cli, tmp_path, base):
    """Digest, checksums, seal and base, as check has them."""
    write_adapter(tmp_path / "peft", infix=".default")
    cli("import", tmp_path / "peft", "--base", base, "--out", tmp_path / "a.h5")
    said = subprocess.run([engine.BINARY, "check", tmp_path / "a.h5"], capture_output=True, text=True)
    assert said.returncode == 0 and f"rank {RANK}, alpha 6, q_proj,up_proj; layers: all" in said.stdout, said.stdout
    assert str(base) in said.stdout


@engine.needs_binary
def test_a_checkpoint_of_adapters_is_exported(cli, tmp_path):
    """Merged it is base and adapter; in PEFT's layout it has the checkpoint's own tensors, and import takes them."""
    run = engine.train(1, **{"lora.rank": 2, "lora.alpha": 6.0, "lora.layers": "1", "schedule.steps": 2})
    path = run.path("checkpoints/final.h5")
    cli("export", path, "--out", tmp_path / "merged")
    cli("export", path, "--adapter", "--out", tmp_path / "peft")
    adapter = run.weights("adapter")
    found = stored(tmp_path / "peft/adapter_model.safetensors")
    assert len(found) == len(adapter) == 14
    for name, values in found.items():
        np.testing.assert_array_equal(
            values, adapter[name.removeprefix("base_model.model.model.").replace(".", "/")], name
        )
    weights = stored(tmp_path / "merged/model.safetensors")
    start = engine.below(engine.read(engine.DEFAULTS["model.path"]), "model")
    for name, values in weights.items():
        here = name.removeprefix("model.").replace(".", "/")
        stem, expected = here.rsplit("/", 1)[0], start[here]
        if f"{stem}/lora_A/weight" in adapter:
            expected = expected + 3 * adapter[f"{stem}/lora_B/weight"] @ adapter[f"{stem}/lora_A/weight"]
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    cli("import", tmp_path / "peft", "--base", engine.DEFAULTS["model.path"], "--out", tmp_path / "back.h5")
    with h5py.File(tmp_path / "back.h5") as back, h5py.File(path) as first:
        assert back["model"].attrs["weights_digest"] == first["model"].attrs["weights_digest"]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"peft_type": "LOHA"}, "peft_type = LOHA"),
        ({"bias": "all"}, "bias = all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"something_new": 3}, "something_new = 3 is not supported"),
        ({"r": 0}, "r = 0 is no rank"),
        ({"r": 4}, "has shape"),
        ({"lora_alpha": None}, "lora_alpha"),
    ],
    ids=str,
)
def test_settings_refused(cli, tmp_path, base, changes, said):
    """What would compute otherwise is refused in one line, and nothing is left behind."""
    write_adapter(tmp_path / "peft")
    config = tmp_path / "peft/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    assert said in cli("import", tmp_path / "peft", "--base", base, "--out", tmp_path / "a.h5", status=2).err
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    "name, columns, said",
    [
        ("lm_head.lora_A.weight", 4, "lm_head"),
        ("model.layers.0.mlp.down_proj.lora_A.weight", 20, "lora_B.weight is missing"),
        ("model.layers.7.mlp.down_proj.lora_A.weight", 20, "adapts layer 7"),
        ("model.layers.0.mlp.down_proj.lora_magnitude_vector", 20, "lora_magnitude_vector"),
    ],
)
def test_tensors_refused(cli, tmp_path, base, name, columns, said):
    """Likewise tensors that are none of A and B, or not all of them."""
    write_adapter(tmp_path / "peft", changes={f"base_model.model.{name}": np.zeros((RANK, columns), "f4")})
    assert said in cli("import", tmp_path / "peft", "--base", base, "--out", tmp_path / "a.h5", status=2).err
    assert not (tmp_path / "a.h5").exists()


def test_options_that_go_together(cli, tmp_path, base):
    write_adapter(tmp_path / "peft")
    out = tmp_path / "a.h5"
    assert "--base" in cli("import", tmp_path / "peft", "--out", out, status=2).err
    assert "--base" in cli("import", tmp_path / "hf", "--merge", "--out", out, status=2).err
    assert "adapter_config.json" in cli("import", tmp_path / "hf", "--base", base, "--out", out, status=2).err
    assert "whole model" in cli("export", base, "--adapter", "--out", tmp_path / "o", status=2).err
    assert "--adapter" in cli("export", base, "--base-name", "x", "--out", tmp_path / "o", status=2).err
    cli("import", tmp_path / "peft", "--base", base, "--out", out)
    assert "adapter itself" in cli("import", tmp_path / "peft", "--base", out, "--out", tmp_path / "b.h5", status=2).err
    base.rename(tmp_path / "elsewhere.h5")
    assert "neither" in cli("export", out, "--out", tmp_path / "o", status=2).err
    write_model(tmp_path / "other", seed=9)
    cli("import", tmp_path / "other", "--out", base)
    assert "not the base" in cli("export", out, "--out", tmp_path / "o", status=2).err

"""Export: back to a Hugging Face folder, exactly, and never from a damaged file."""

import json
import os

import h5py
import numpy as np
import pytest
from conftest import CONFIG, tensors_of, write_model
from safetensors import safe_open
from test_import import GEMMA, SEES_ALL, SLIDES, same, weights

from catdpo_analysis.files import h5io
from catdpo_analysis.cli import main
from catdpo_analysis.files.digest import tensor_checksum, weights_digest
from catdpo_analysis.models.safetensors_io import to_bf16

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


LINEAR = {"rope_type": "linear", "factor": 2.0}


def stored(folder):
    """Name -> (dtype, array where numpy has the type) of all safetensors files of a folder, read by the library."""
    result = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():
                dtype = file.get_slice(name).get_dtype()
                result[name] = (dtype, file.get_tensor(name) if dtype != "BF16" else None)
    return result


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"model_type": "qwen2"},
        {"model_type": "qwen2", "tie_word_embeddings": True},
        {"model_type": "qwen3", "head_dim": 8},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "mistral", "sliding_window": 16},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        {"model_type": "olmo2"},
        GEMMA | {"sliding_window": 16},
        GEMMA | {"sliding_window": 16, "layer_types": [SEES_ALL, SLIDES], "query_pre_attn_scalar": 24},
        GEMMA
        | {
            "rope_theta": None,
            "rope_parameters": {SEES_ALL: LINEAR | {"rope_theta": 5e5}, SLIDES: {"rope_theta": 2e4}},
        },
        {"rope_scaling": LLAMA3},
        {"rope_scaling": LINEAR},
    ],
    ids=str,
)
@pytest.mark.parametrize("config_kept", [True, False], ids=["its config", "config from attributes"])
def test_export_and_import_give_the_same_model(cli, tmp_path, changes, config_kept):
    tensors = tensors_of(CONFIG | changes)
    write_model(tmp_path / "hf", tensors, **changes)
    first = cli("import", tmp_path / "hf", "--out", tmp_path / "a.h5").out
    if not config_kept:
        with h5py.File(tmp_path / "a.h5", "a") as file:
            del file["model"].attrs["hf_config"]
    cli("export", tmp_path / "a.h5", "--out", tmp_path / "out")
    assert {name: value.tobytes() for name, (_, value) in stored(tmp_path / "out").items()} == {
        name: value.tobytes() for name, value in tensors.items()
    }
    second = cli("import", tmp_path / "out", "--out", tmp_path / "b.h5").out
    assert first.split("weights digest")[1].split()[0] == second.split("weights digest")[1].split()[0]
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        skip = {"hf_config", "source"}
        assert {name: value for name, value in a["model"].attrs.items() if name not in skip} == {
            name: value for name, value in b["model"].attrs.items() if name not in skip
        }
        assert {name: a["tokenizer"][name][...].tobytes() for name in a["tokenizer"]} == {
            name: b["tokenizer"][name][...].tobytes() for name in b["tokenizer"]
        }
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["torch_dtype"] == "float32" and config["architectures"]


def test_large_models_are_cut_into_files_with_an_index(cli, tmp_path):
    tensors = tensors_of(CONFIG)
    write_model(tmp_path / "hf", tensors)
    cli("import", tmp_path / "hf", "--out", tmp_path / "a.h5")
    cli("export", tmp_path / "a.h5", "--out", tmp_path / "out", "--shard-size", "0.00001")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert (
        len(files) > 2
        and sorted(set(index["weight_map"].values())) == files
        and set(index["weight_map"]) == set(tensors)
    )
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    cli("import", tmp_path / "out", "--out", tmp_path / "b.h5")
    assert same(weights(tmp_path / "b.h5"), tensors)


def test_narrow_types_are_rounded_to_nearest(cli, tmp_path):
    tensors = tensors_of(CONFIG)
    write_model(tmp_path / "hf", tensors)
    cli("import", tmp_path / "hf", "--out", tmp_path / "a.h5")
    for dtype, label in (("bf16", "BF16"), ("f16", "F16")):
        cli("export", tmp_path / "a.h5", "--out", tmp_path / dtype, "--dtype", dtype)
        assert all(found == label for found, _ in stored(tmp_path / dtype).values())
        cli("import", tmp_path / dtype, "--out", tmp_path / "b.h5")
        for name, value in weights(tmp_path / "b.h5").items():
            assert (
                np.abs(value - tensors[name])
                <= np.abs(tensors[name]) * 2.0 ** (-8 if dtype == "bf16" else -11) + 2.0**-25
            ).all()
    with h5py.File(tmp_path / "a.h5", "a") as file:
        norm = file["model/norm/weight"]
        norm[0] = 1e6
        norm.attrs["checksum"] = np.uint64(tensor_checksum(norm[...]))
        file["model"].attrs["weights_digest"] = digest_of(file)
    assert (
        "--dtype bf16" in cli("export", tmp_path / "a.h5", "--out", tmp_path / "over", "--dtype", "f16", status=2).err
    )
    assert not (tmp_path / "over").exists()


def digest_of(file):
    sums = {}
    file["model"].visititems(
        lambda name, item: (
            sums.update(
                {("" if name.startswith("lm_head") else "model.") + name.replace("/", "."): int(item.attrs["checksum"])}
            )
            if isinstance(item, h5py.Dataset)
            else None
        )
    )
    return weights_digest(sums)


def test_bf16_ties_go_to_even():
    values = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F800000, 0xBF80FFFF], dtype="<u4").view("<f4")
    assert [hex(int(v)) for v in to_bf16(values)] == ["0x3f80", "0x3f82", "0x3f81", "0x7f80", "0xbf81"]
    assert int(to_bf16(np.array([np.nan], "<f4"))[0]) & 0x7F80 == 0x7F80


def test_a_checkpoint_is_a_model(cli, tmp_path):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        h5io.set_text(file, "format", "catdpo-checkpoint")
        file.create_group("optimizer")
    cli("export", tmp_path / "a.h5", "--out", tmp_path / "out")
    cli("prepare", os.devnull, "--model", tmp_path / "a.h5", "--out", tmp_path / "p.h5", status=2)


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda file: file["model/norm/weight"].__setitem__(0, 3.0), "does not match its checksum"),
        (lambda file: file["model"].attrs.__setitem__("weights_digest", np.bytes_(b"0" * 16)), "weights_digest"),
        (
            lambda file: file.__delitem__("model/layers/1/mlp/up_proj/weight"),
            "/model/layers/1/mlp/up_proj/weight is missing",
        ),
        (lambda file: file["model"].attrs.__delitem__("rope_theta"), "rope_theta"),
        (lambda file: file.attrs.__setitem__("format_version", 2), "format version 2"),
        (lambda file: file.attrs.__setitem__("format", "other"), "other"),
    ],
    ids=["value", "digest", "missing", "attribute", "version", "format"],
)
def test_a_damaged_or_foreign_file_is_refused_and_no_folder_appears(cli, tmp_path, damage, named):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        damage(file)
    assert named in cli("export", tmp_path / "a.h5", "--out", tmp_path / "out", status=2).err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.tmp"))


def test_a_file_of_an_older_version_means_what_it_meant(cli, tmp_path):
    """It lacks the attributes that came with sliding windows."""
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        for name in ("sliding_window", "layer_types", "rope_local_base_freq", "query_pre_attn_scalar"):
            del file["model"].attrs[name]
    cli("export", tmp_path / "a.h5", "--out", tmp_path / "out")
    cli("import", tmp_path / "out", "--out", tmp_path / "b.h5")
    assert same(weights(tmp_path / "a.h5"), weights(tmp_path / "b.h5"))


def test_weights_that_diverged_are_refused(cli, tmp_path):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        norm = file["model/norm/weight"]
        norm[0] = np.nan
        norm.attrs["checksum"] = np.uint64(tensor_checksum(norm[...]))
    assert "diverged" in cli("export", tmp_path / "a.h5", "--out", tmp_path / "out", status=2).err


def test_an_existing_folder_is_never_overwritten(cli, tmp_path):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "a.h5")
    assert "exists already" in cli("export", tmp_path / "a.h5", "--out", tmp_path / "hf", status=2).err
    (tmp_path / "empty").mkdir()
    cli("export", tmp_path / "a.h5", "--out", tmp_path / "empty")
    assert (tmp_path / "empty/config.json").exists()
    assert "there is no file" in cli("export", tmp_path / "none.h5", "--out", tmp_path / "x", status=2).err
    run = tmp_path / "run/checkpoints"
    run.mkdir(parents=True)
    assert "is a folder, not a file\n" in cli("export", run.parent, "--out", tmp_path / "x", status=2).err
    (run / "final.h5").touch()
    assert f"such as {run / 'final.h5'}" in cli("export", run.parent, "--out", tmp_path / "x", status=2).err
    (tmp_path / "text.h5").write_text("hello")
    assert "HDF5" in cli("export", tmp_path / "text.h5", "--out", tmp_path / "x", status=2).err


def test_a_file_with_damage_inside_is_one_message_too(cli, capsys, tmp_path):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "a.h5")
    data = (tmp_path / "a.h5").read_bytes()
    for where in range(100, 4000, 97):  # in HDF5's own structures and in attributes
        (tmp_path / "b.h5").write_bytes(data[:where] + b"\xff\x07\xc1" + data[where + 3 :])
        assert main(["export", str(tmp_path / "b.h5"), "--out", str(tmp_path / f"out{where}")]) in (0, 2)
        assert capsys.readouterr().err.count("\n") <= 1

"""A Hugging Face folder that says one thing in two places: they are compared, and what is chosen or not used is "
"named."""

import json
import os

import h5py
import numpy as np
import pytest
from conftest import CONFIG, tensors_of, write_model
from safetensors.numpy import save_file
from test_import import same, weights

from catdpo_analysis.errors import UserError
from catdpo_analysis.files import h5io
from catdpo_analysis.models.architecture import read_config
from catdpo_analysis.models.safetensors_io import write_safetensors


@pytest.fixture
def bring(cli, tmp_path):
    """Imports the folder hf; returns what was printed."""

    def run(status=0):
        result = cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5", "--no-tokenizer", status=status)
        assert (tmp_path / "m.h5").exists() == (status == 0)
        return result.err if status else result.out

    return run


def write_shards(folder, tensors, placed=None, name="model"):
    """Two shards and their index; `placed` changes what the index says."""
    names, mapping = sorted(tensors), {}
    for i, part in enumerate((names[:9], names[9:])):
        file = f"{name}-{i + 1:05d}-of-00002.safetensors"
        save_file({key: tensors[key] for key in part}, folder / file)
        mapping |= {key: file for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping | (placed or {})}))
    return mapping


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_model_safetensors_beside_shards_of_another_model_is_refused(bring, tmp_path):
    write_model(tmp_path / "hf", seed=1)
    write_shards(tmp_path / "hf", tensors_of(CONFIG, seed=2))
    assert "holds two models" in bring(status=2)


def test_model_safetensors_beside_shards_of_the_same_model_is_that_model(bring, tmp_path):
    write_model(tmp_path / "hf", seed=1)
    write_shards(tmp_path / "hf", tensors_of(CONFIG, seed=1))
    assert "2 other files of weights not used: model-00001" in bring()
    assert same(weights(tmp_path / "m.h5"), tensors_of(CONFIG, seed=1))


def test_an_index_whose_shards_are_gone_does_not_hide_model_safetensors(bring, tmp_path):
    write_model(tmp_path / "hf", seed=1)
    write_shards(tmp_path / "hf", tensors_of(CONFIG, seed=2))
    for i in (1, 2):
        os.remove(tmp_path / f"hf/model-0000{i}-of-00002.safetensors")
    assert "model.safetensors is used, as transformers does" in bring()
    assert same(weights(tmp_path / "m.h5"), tensors_of(CONFIG, seed=1))


def test_an_index_that_places_a_tensor_elsewhere_is_refused(bring, tmp_path):
    tensors = tensors_of(CONFIG)
    write_model(tmp_path / "hf", tensors)
    os.remove(tmp_path / "hf/model.safetensors")
    write_shards(tmp_path / "hf", tensors, placed={"model.more.weight": "model-00001-of-00002.safetensors"})
    assert "places tensor model.more.weight" in bring(status=2)


def test_a_tensor_in_two_shards_must_be_the_same_in_both(bring, tmp_path):
    tensors = tensors_of(CONFIG)
    write_model(tmp_path / "hf", tensors)
    os.remove(tmp_path / "hf/model.safetensors")
    write_shards(tmp_path / "hf", tensors)
    path, norm = tmp_path / "hf/model-00001-of-00002.safetensors", "model.norm.weight"
    first = {name: tensors[name] for name in sorted(tensors)[:9]}
    save_file(first | {norm: tensors[norm]}, path)
    assert "1 tensor stored twice, with the same values" in bring()
    os.remove(tmp_path / "m.h5")
    save_file(first | {norm: tensors[norm] + 1}, path)
    assert "model.norm.weight is in model-00001-of-00002.safetensors as well" in bring(status=2)


def test_shards_without_an_index_must_be_all_there(bring, tmp_path):
    write_model(tmp_path / "hf")
    os.remove(tmp_path / "hf/model.safetensors")
    write_shards(tmp_path / "hf", tensors_of(CONFIG))
    os.remove(tmp_path / "hf/model.safetensors.index.json")
    assert "all 2 shards are used" in bring()
    os.remove(tmp_path / "m.h5")
    os.remove(tmp_path / "hf/model-00002-of-00002.safetensors")
    assert "shard 2 of 2 is not there" in bring(status=2)


def test_several_files_that_nothing_connects_are_refused_and_others_named(bring, tmp_path):
    write_model(tmp_path / "hf")
    for name in ("pytorch_model.bin", "consolidated.00.pth", "optimizer.pt", "training_args.bin"):
        (tmp_path / "hf" / name).write_bytes(b"x")
    assert "2 other files of weights not used: consolidated.00.pth, pytorch_model.bin" in bring()
    os.remove(tmp_path / "m.h5")
    os.rename(tmp_path / "hf/model.safetensors", tmp_path / "hf/a.safetensors")
    assert "a.safetensors is used" in bring()
    os.remove(tmp_path / "m.h5")
    save_file({"x": np.zeros(3, "<f4")}, tmp_path / "hf/b.safetensors")
    assert "2 other .safetensors files" in bring(status=2)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_is_never_passed_over(bring, tmp_path, name):
    write_model(tmp_path / "hf")
    (tmp_path / "hf" / name).write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    error = bring(status=2)
    assert "adapter (LoRA)" in error and name in error and "merge_and_unload" in error
    os.remove(tmp_path / "hf/config.json")
    error = bring(status=2)
    assert "not a model" in error and "--base" in error and "merge_and_unload" in error


def test_adapter_tensors_inside_the_model_are_refused_with_the_same_remedy(bring, tmp_path):
    name = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    write_model(tmp_path / "hf", tensors_of(CONFIG) | {name: np.zeros((2, 12), "<f4")})
    error = bring(status=2)
    assert name in error and "merge_and_unload" in error


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_quantised_weights_are_refused_wherever_it_is_said(bring, tmp_path, name):
    write_model(tmp_path / "hf")
    (tmp_path / "hf" / name).write_text("{}")
    assert name in bring(status=2)


def test_a_head_that_is_missing_is_explained(bring, tmp_path):
    tensors = tensors_of(CONFIG)
    del tensors["lm_head.weight"]
    write_model(tmp_path / "hf", tensors)
    assert "set tie_word_embeddings to true" in bring(status=2)


def test_buffers_of_old_versions_are_named_and_compared_with_the_config(bring, tmp_path):
    def model(theta):
        frequency = (theta ** (-np.arange(0, 4, 2) / 4)).astype("<f4")
        more = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": frequency for i in range(2)}
        write_model(tmp_path / "hf", tensors_of(CONFIG) | more)
        return bring()

    printed = model(10000.0)
    assert "2 tensors not used (computed, not learned)" in printed and "rope_theta" not in printed
    os.remove(tmp_path / "m.h5")
    assert "is that of rope_theta 1e+06, config.json gives 10000" in model(1e6)


def test_a_type_of_number_that_the_config_does_not_say_is_named(bring, tmp_path):
    tensors = tensors_of(CONFIG)
    write_model(tmp_path / "hf", tensors)
    assert "stored as" not in bring()
    os.remove(tmp_path / "m.h5")
    shapes = {name: values.shape for name, values in tensors.items()}
    write_safetensors(tmp_path / "hf/model.safetensors", shapes, "bf16", tensors.get)
    assert "torch_dtype = float32, the weights are stored as bfloat16: taken as stored" in bring()


# ---- config.json -----------------------------------------------------------------------------------------------------

LINEAR, LLAMA3 = (
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
)


def read(notes=None, **changes):
    return read_config(
        {name: value for name, value in (CONFIG | changes).items() if value != "absent"}, "c.json", notes
    )


@pytest.mark.parametrize(
    "changes, theta, kind",
    [
        ({"rope_theta": "absent"}, 10000.0, "default"),
        ({"rope_theta": "absent", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, "default"),
        ({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, "default"),
        ({"rope_theta": 5e5, "rope_parameters": LINEAR}, 5e5, "linear"),
        (
            {"rope_theta": 5e5, "rope_parameters": LINEAR, "rope_scaling": {"type": "linear", "factor": 4}},
            5e5,
            "linear",
        ),
        ({"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4}}, 10000.0, "linear"),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "rope_theta": "absent"}, 5e5, "llama3"),
    ],
    ids=str,
)
def test_rotary_settings_that_agree_are_taken_from_wherever_they_are(changes, theta, kind):
    architecture = read(**changes)
    assert (architecture.rope_theta, architecture.rope_type) == (theta, kind)
    assert architecture.rope_factor == {"default": 1, "linear": 4, "llama3": 8}[kind]


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, ["10000.0", "500000.0"]),
        ({"rope_theta": 1e4, "rope_scaling": LINEAR | {"rope_theta": 5e5}}, ["10000.0", "500000.0"]),
        (
            {"rope_scaling": LINEAR, "rope_parameters": LINEAR | {"factor": 2.0}},
            ["rope_scaling: factor = 4.0", "rope_parameters: factor = 2.0"],
        ),
        ({"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default"}}, ["rope_type", "linear", "default"]),
        (  # rope_scaling alone would mean 10000
            {"rope_theta": "absent", "rope_scaling": LINEAR, "rope_parameters": LINEAR | {"rope_theta": 5e5}},
            ["10000.0", "500000.0"],
        ),
        ({"rope_scaling": {"rope_type": "linear", "type": "llama3", "factor": 4.0}}, ["linear", "llama3"]),
        ({"rope_scaling": {"factor": 4.0}}, ["factor = 4.0 without a type"]),
        ({"rope_scaling": {"rope_type": "default", "factor": 4.0}}, ["factor = 4.0 without a type"]),
        (
            {
                "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64},
                "original_max_position_embeddings": 32,
            },
            ["64", "32"],
        ),
        ({"partial_rotary_factor": 1.0, "rope_parameters": {"partial_rotary_factor": 0.5}}, ["1.0", "0.5"]),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e6}}},
            ["full_attention, sliding_attention"],
        ),
        ({"quantization": {"bits": 4}}, ["quantization"]),
        ({"compression_config": {"format": "x"}}, ["compression_config"]),
        ({"tie_word_embeddings": "false"}, ["neither true nor false"]),
    ],
    ids=str,
)
def test_a_config_that_says_two_things_is_refused_with_both(changes, named):
    with pytest.raises(UserError) as error:
        read(**changes)
    assert all(word in str(error.value) for word in named), str(error.value)


def test_what_a_config_says_twice_or_what_nobody_reads_is_named_once():
    notes = []
    read(notes, architectures=["MistralForCausalLM"], dtype="bfloat16", logits_scaling=8, attention_dropout=0.1)
    assert notes == [
        'config.json: architectures = ["MistralForCausalLM"], but model_type = "llama": read as LlamaForCausalLM, as '
        "transformers does",
        'config.json: torch_dtype = "float32", dtype = "bfloat16": weights are taken as stored',
        "config.json: 2 keys not used: attention_dropout = 0.1, logits_scaling = 8",
    ]
    notes = []
    read(notes, rope_scaling=LINEAR | {"attention_factor": 2.0, "mscale": 1.0})
    assert notes == ["config.json: rope_scaling: 2 not used by rope type linear: attention_factor, mscale"]
    notes = []
    read(notes)
    assert notes == []


def test_a_key_that_is_there_twice_is_refused_unless_both_are_the_same(bring, tmp_path):
    write_model(tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    text = path.read_text()
    path.write_text('{"rope_theta": 10000.0, ' + text[1:])
    bring()
    os.remove(tmp_path / "m.h5")
    path.write_text('{"rope_theta": 500000.0, ' + text[1:])
    assert '"rope_theta" is there twice' in bring(status=2)


def test_old_files_of_a_tokenizer_that_say_something_else_are_named(cli, tmp_path):
    def bring():
        return cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5").out

    write_model(tmp_path / "hf")
    vocabulary = json.loads((tmp_path / "hf/tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "hf/vocab.json").write_text(json.dumps(vocabulary))
    template = json.loads((tmp_path / "hf/tokenizer_config.json").read_text())["chat_template"]
    (tmp_path / "hf/chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert "note" not in bring()
    first, second = list(vocabulary)[:2]
    swapped = vocabulary | {first: vocabulary[second], second: vocabulary[first]}
    (tmp_path / "hf/vocab.json").write_text(json.dumps(swapped))
    (tmp_path / "hf/chat_template.json").write_text(json.dumps({"chat_template": "other"}))
    printed = bring()
    assert "vocab.json differs from tokenizer.json in 2 tokens; tokenizer.json is used" in printed
    assert "chat_template.json (of a processor) is not used; it differs" in printed


# ---- not a folder ----------------------------------------------------------------------------------------------------


def test_names_of_the_hub_and_its_cache_lead_to_the_folder(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("org/Model-1B", "https://huggingface.co/org/Model-1B/tree/main"):
        error = cli("import", name, "--out", tmp_path / "m.h5", status=2).err
        assert "hf download org/Model-1B --local-dir Model-1B" in error
    assert "hf download" not in cli("import", "org/a/b", "--out", tmp_path / "m.h5", status=2).err
    write_model(tmp_path / "models--org--m/snapshots/abc")
    error = cli("import", tmp_path / "models--org--m", "--out", tmp_path / "m.h5", status=2).err
    assert "models--org--m/snapshots/abc" in error


def test_a_model_without_a_tokenizer_says_so(bring, tmp_path):
    write_model(tmp_path / "hf", tokenizer=False)
    assert "(no tokenizer)" in bring()
    with h5py.File(tmp_path / "m.h5") as file:
        assert list(file["tokenizer"]) == [] and h5io.text(file["model"], "tokenizer_digest") == ""

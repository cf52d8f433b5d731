"""Import of Hugging Face folders: exact values, and refusal by name of everything that the engine cannot compute."""

import json
import os

import h5py
import numpy as np
import pytest
from conftest import CONFIG, tensors_of, train_bpe, write_model
from safetensors.numpy import save_file

from catdpo_analysis.files import h5io
from catdpo_analysis.files.digest import sha256


GEMMA = {"model_type": "gemma3_text", "hidden_act": None, "tie_word_embeddings": True}  # what differs from CONFIG
SLIDES, SEES_ALL = "sliding_attention", "full_attention"


def weights(path):
    """Hugging Face name -> array of a model.h5."""
    result = {}
    with h5py.File(path) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                assert item.dtype == np.dtype("<f4") and item.chunks is None and "checksum" in item.attrs
                name = name.replace("/", ".")
                result[name if name.startswith("lm_head") else "model." + name] = item[...]

        file["model"].visititems(visit)
    return result


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_values_and_attributes_are_those_of_the_source(cli, tmp_path):
    tensors = tensors_of(CONFIG)
    write_model(tmp_path / "hf", tensors)
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    assert same(weights(tmp_path / "m.h5"), tensors)
    with h5py.File(tmp_path / "m.h5") as file:
        model = file["model"].attrs
        assert {
            name: int(model[name])
            for name in (
                "hidden_size",
                "num_key_value_heads",
                "head_dim",
                "tie_word_embeddings",
                "attention_bias",
                "qk_norm",
            )
        } == {
            "hidden_size": 12,
            "num_key_value_heads": 2,
            "head_dim": 4,
            "tie_word_embeddings": 0,
            "attention_bias": 0,
            "qk_norm": 0,
        }
        assert [float(model[name]) for name in ("rope_factor", "rope_low_freq_factor", "rope_high_freq_factor")] == [
            1,
            1,
            4,
        ]
        assert json.loads(model["hf_config"]) == CONFIG and isinstance(model["hf_config"], str)
        stored = file["tokenizer/tokenizer.json"][...].tobytes()
        assert stored == (tmp_path / "hf/tokenizer.json").read_bytes() and h5io.text(
            file["model"], "tokenizer_digest"
        ) == sha256(stored)
    assert not list(tmp_path.glob("*.tmp"))


def test_bf16_and_f16_are_widened_exactly(cli, tmp_path):
    from catdpo_analysis.models.safetensors_io import write_safetensors

    tensors = tensors_of(CONFIG)
    for dtype in ("bf16", "f16"):
        folder = tmp_path / dtype
        write_model(folder, tensors)
        write_safetensors(
            folder / "model.safetensors", {name: value.shape for name, value in tensors.items()}, dtype, tensors.get
        )
        cli("import", folder, "--out", tmp_path / "m.h5")
        for name, value in weights(tmp_path / "m.h5").items():
            if dtype == "f16":
                assert np.array_equal(value, tensors[name].astype("<f2").astype("<f4"))
            else:  # the lower half of each word is gone, and the rest is at most half a unit away
                assert not (value.view("<u4") & 0xFFFF).any()
                assert (np.abs(value.view("<i4").astype(np.int64) - tensors[name].view("<i4")) <= 0x8000).all()


def test_several_files_with_an_index_are_one_model(cli, tmp_path):
    tensors = tensors_of(CONFIG)
    write_model(tmp_path / "hf", tensors)
    os.remove(tmp_path / "hf/model.safetensors")
    names, mapping = sorted(tensors), {}
    for i, part in enumerate((names[:9], names[9:])):
        save_file({name: tensors[name] for name in part}, tmp_path / f"hf/model-{i}.safetensors")
        mapping |= {name: f"model-{i}.safetensors" for name in part}
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    assert same(weights(tmp_path / "m.h5"), tensors)
    os.remove(tmp_path / "hf/model-1.safetensors")
    assert "model-1.safetensors" in cli("import", tmp_path / "hf", "--out", tmp_path / "n.h5", status=2).err


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "mistral", "sliding_window": 128},
        {"model_type": "qwen2"},
        {"model_type": "qwen2", "tie_word_embeddings": True, "sliding_window": 16, "use_sliding_window": False},
        {"model_type": "qwen3", "head_dim": 8},
        GEMMA,
        {"model_type": "olmo2"},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "rope_theta": None},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ],
    ids=str,
)
def test_supported_families_and_options(cli, tmp_path, changes):
    config = write_model(tmp_path / "hf", tensors_of(CONFIG | changes), **changes)
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        model = file["model"].attrs
        assert h5io.text(file["model"], "architecture") == config["model_type"]
        assert int(model["attention_bias"]) == (config["model_type"] == "qwen2")
        assert int(model["qk_norm"]) == (config["model_type"] in ("qwen3", "gemma3_text", "olmo2"))
        if "rope_parameters" in changes:
            assert float(model["rope_theta"]) == 5000.0
        if config["rope_scaling"] and h5io.text(file["model"], "rope_type") == "llama3":
            assert int(model["rope_original_max_position"]) == 64 and float(model["rope_factor"]) == 8.0


@pytest.mark.parametrize(
    "changes, window, letters",
    [
        ({"model_type": "mistral", "sliding_window": 64}, 64, "ss"),
        ({"model_type": "mistral", "max_position_embeddings": 8192}, 4096, "ss"),  # transformers' default
        ({"model_type": "mistral", "sliding_window": 128}, 0, ""),  # cuts nothing off
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, 64, "fs"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64}, 0, ""),  # from layer 28 on
        (
            {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 9, "layer_types": [SLIDES, SEES_ALL]},
            9,
            "sf",
        ),
        (GEMMA | {"sliding_window": 8}, 8, "ss"),
        (GEMMA | {"sliding_window": 8, "sliding_window_pattern": 2}, 8, "sf"),
        (GEMMA | {"sliding_window": 8, "layer_types": [SEES_ALL, SLIDES]}, 8, "fs"),
        (GEMMA | {"sliding_window": 512}, 512, "ss"),  # cuts nothing off, but selects the local rotation
        (GEMMA | {"sliding_window": 8, "layer_types": [SEES_ALL, SEES_ALL]}, 0, ""),
    ],
    ids=str,
)
def test_layers_with_a_sliding_window(cli, tmp_path, changes, window, letters):
    write_model(tmp_path / "hf", tensors_of(CONFIG | changes), **changes)
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        assert int(file["model"].attrs["sliding_window"]) == window
        assert h5io.text(file["model"], "layer_types") == letters


@pytest.mark.parametrize(
    "changes, theta, local, kind",
    [
        ({"rope_theta": None}, 1e6, 1e4, "default"),  # transformers' defaults
        ({"rope_theta": 5e5, "rope_local_base_freq": 2e4}, 5e5, 2e4, "default"),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 5e5, 1e4, "linear"),
        (
            {
                "rope_theta": None,
                "rope_parameters": {
                    SEES_ALL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                    SLIDES: {"rope_type": "default", "rope_theta": 2e4},
                },
            },
            5e5,
            2e4,
            "linear",
        ),
        ({"rope_theta": None, "rope_parameters": {SLIDES: {"rope_theta": 2e4}}}, 1e6, 2e4, "default"),
    ],
    ids=str,
)
def test_gemma_has_two_rotations_in_the_old_and_the_new_layout(cli, tmp_path, changes, theta, local, kind):
    write_model(tmp_path / "hf", tensors_of(CONFIG | GEMMA), **GEMMA | changes)
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        model = file["model"].attrs
        assert float(model["rope_theta"]) == theta and float(model["rope_local_base_freq"]) == local
        assert h5io.text(file["model"], "rope_type") == kind
        assert float(model["rope_factor"]) == (8 if kind == "linear" else 1)
        assert float(model["query_pre_attn_scalar"]) == 256 and int(model["qk_norm"]) == 1


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"model_type": "gemma2"}, "gemma2"),
        ({"model_type": None}, "model_type"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"attention_bias": True}, "attention_bias"),
        ({"sliding_window": 64}, "sliding_window"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "sliding"),
        (
            {"model_type": "mistral", "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
            "sliding",
        ),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention", "full_attention"]}, "sliding"),
        ({"model_type": "qwen3", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma3"}, "gemma3"),
        (GEMMA | {"hidden_activation": "silu"}, "hidden_activation"),
        (GEMMA | {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        (GEMMA | {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        (GEMMA | {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA | {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        (GEMMA | {"sliding_window": None}, "sliding_window"),
        (GEMMA | {"rope_parameters": {"chunked_attention": {}}}, "chunked_attention"),
        (GEMMA | {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}, "linear"),
        (GEMMA | {"rope_local_base_freq": 0}, "rope_local_base_freq"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"head_dim": 3}, "head_dim"),
        ({"hidden_size": "12"}, "hidden_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
    ],
    ids=str,
)
def test_what_the_engine_cannot_compute_is_refused_by_name(cli, tmp_path, changes, named):
    write_model(tmp_path / "hf", tensors_of(CONFIG), **changes)
    result = cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5", status=2)
    assert named in result.err
    assert not (tmp_path / "m.h5").exists()


def damaged(change):
    tensors = tensors_of(CONFIG)
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": np.zeros(12, "<f4")}), "o_proj.bias"),
        (lambda t: t.update({"model.norm.weight": np.zeros(13, "<f4")}), "model.norm.weight has shape (13,)"),
        (
            lambda t: t["model.layers.1.mlp.up_proj.weight"].__setitem__((3, 2), np.nan),
            "model.layers.1.mlp.up_proj.weight",
        ),
        (lambda t: t["lm_head.weight"].__setitem__((0, 0), np.inf), "lm_head.weight"),
        (lambda t: t.update({"model.norm.weight": np.zeros(12, "i1")}), "stored as I8"),
    ],
    ids=["missing", "extra", "shape", "nan", "inf", "quantised"],
)
def test_a_wrong_tensor_is_refused_by_name_and_nothing_is_written(cli, tmp_path, change, named):
    write_model(tmp_path / "hf", damaged(change))
    (tmp_path / "m.h5").write_text("an earlier file")
    assert named in cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5", status=2).err
    assert (tmp_path / "m.h5").read_text() == "an earlier file" and not list(tmp_path.glob("*.tmp"))


def test_a_stored_head_beside_a_tied_embedding_must_equal_it(cli, tmp_path):
    tensors = tensors_of(CONFIG | {"tie_word_embeddings": True})
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    write_model(tmp_path / "hf", tensors, tie_word_embeddings=True)
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    tensors["lm_head.weight"][0] += 1
    write_model(tmp_path / "hf2", tensors, tie_word_embeddings=True)
    assert "lm_head.weight differs" in cli("import", tmp_path / "hf2", "--out", tmp_path / "m2.h5", status=2).err


def test_a_tokenizer_larger_than_the_embedding_is_refused(cli, tmp_path):
    size = train_bpe().get_vocab_size()
    config = {"vocab_size": size - 1}
    write_model(tmp_path / "hf", tensors_of(CONFIG | config), **config)
    assert f"token ids up to {size - 1}" in cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5", status=2).err
    config = {"vocab_size": size}
    write_model(tmp_path / "fits", tensors_of(CONFIG | config), **config)
    cli("import", tmp_path / "fits", "--out", tmp_path / "m.h5")


def test_sources_that_are_no_model_get_one_message_with_a_remedy(cli, tmp_path):
    out = tmp_path / "m.h5"
    assert "there is no" in cli("import", tmp_path / "nowhere", "--out", out, status=2).err
    (tmp_path / "empty").mkdir()
    assert "config.json" in cli("import", tmp_path / "empty", "--out", out, status=2).err
    (tmp_path / "text.gguf").write_text("hello")
    assert "neither" in cli("import", tmp_path / "text.gguf", "--out", out, status=2).err
    write_model(tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").write_bytes((tmp_path / "hf/model.safetensors").read_bytes()[:-100])
    assert "safetensors" in cli("import", tmp_path / "hf", "--out", out, status=2).err
    os.remove(tmp_path / "hf/model.safetensors")
    (tmp_path / "hf/pytorch_model.bin").write_text("")
    assert "save_pretrained" in cli("import", tmp_path / "hf", "--out", out, status=2).err
    write_model(tmp_path / "bare", tokenizer=False)
    assert "--no-tokenizer" in cli("import", tmp_path / "bare", "--out", out, status=2).err
    assert not out.exists()
    cli("import", tmp_path / "bare", "--out", out, "--no-tokenizer")
    (tmp_path / "bare/config.json").write_text("{ not json")
    assert "not valid JSON" in cli("import", tmp_path / "bare", "--out", tmp_path / "n.h5", status=2).err
    write_model(tmp_path / "good")
    assert "there is no folder" in cli("import", tmp_path / "good", "--out", tmp_path / "no/such/m.h5", status=2).err
    assert "is a folder" in cli("import", tmp_path / "good", "--out", tmp_path / "empty", status=2).err


def test_memory_stays_at_one_tensor(cli, tmp_path):
    """Peak of what Python and numpy allocate while importing: far below the size of the model."""
    import tracemalloc

    config = {
        "num_hidden_layers": 24,
        "intermediate_size": 3000,
        "hidden_size": 120,
        "num_attention_heads": 6,
        "head_dim": 20,
    }
    tensors = tensors_of(CONFIG | config)
    write_model(tmp_path / "hf", tensors, tokenizer=False, **config)
    size, largest = sum(value.nbytes for value in tensors.values()), max(value.nbytes for value in tensors.values())
    tensors = None
    tracemalloc.start()
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5", "--no-tokenizer")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * largest + 16e6 < size / 2

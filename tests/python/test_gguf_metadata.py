"""GGUF files of any age: old names of keys mean what they meant, what is missing is not taken for absent, what is not
used is named."""

import json

import gguf
import numpy as np
import pytest
from conftest import CHATML, tensors_of, train_bpe
from test_gguf import GGUF, write_gguf

from catdpo_analysis.files import h5io
from catdpo_analysis.models.gguf_source import llama3_factors
from catdpo_analysis.tokens.chat import ChatTokenizer


@pytest.fixture
def bring(cli, tmp_path):
    """Writes and imports a file; returns the attributes of /model and what was printed, or the error."""

    def run(extra=None, status=0, tokenizer=None, tensors=None, config=GGUF, **options):
        write_gguf(tmp_path / "m.gguf", config, tensors or tensors_of(config), tokenizer, extra=extra, **options)
        more = [] if tokenizer else ["--no-tokenizer"]
        result = cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5", *more, status=status)
        if status:
            assert not (tmp_path / "m.h5").exists()
            return result.err
        with h5io.open_as(str(tmp_path / "m.h5"), "catdpo-model") as file:
            return dict(file["model"].attrs), result.out

    return run


FACTOR, OLD, KIND = "llama.rope.scaling.factor", "llama.rope.scale_linear", "llama.rope.scaling.type"


@pytest.mark.parametrize(
    "extra, kind, factor",
    [
        ({OLD: 4.0}, "linear", 4.0),
        ({FACTOR: 4.0}, "linear", 4.0),
        ({FACTOR: 4.0, OLD: 4.0, KIND: "linear"}, "linear", 4.0),
        ({OLD: 4.0, KIND: "linear"}, "linear", 4.0),
        ({FACTOR: 0.0, OLD: 4.0}, "linear", 4.0),
        ({OLD: 1.0}, "default", 1.0),
        ({FACTOR: 0.0}, "default", 1.0),
        ({KIND: "none"}, "default", 1.0),
        ({KIND: "linear"}, "default", 1.0),
        ({}, "default", 1.0),
    ],
    ids=str,
)
def test_linear_scaling_is_found_under_its_old_and_new_names(bring, extra, kind, factor):
    attributes, printed = bring(extra)
    assert attributes["rope_type"].decode() == kind and float(attributes["rope_factor"]) == factor
    assert "not used" not in printed


@pytest.mark.parametrize(
    "extra, named",
    [
        ({FACTOR: 4.0, OLD: 2.0}, ["rope.scaling.factor = 4", "rope.scale_linear = 2"]),
        ({OLD: 4.0, KIND: "none"}, ["scale_linear = 4", "none"]),
        ({OLD: 4.0, KIND: "yarn"}, ["yarn"]),
        ({"llama.rope.scaling.attn_factor": 0.5}, ["rope.scaling.attn_factor"]),
        ({"llama.attention.clamp_kqv": 8.0}, ["attention.clamp_kqv"]),
        ({"llama.attention.scale": 0.1}, ["attention.scale"]),
        ({"llama.logit_scale": 0.5}, ["logit_scale"]),
        ({"llama.embedding_scale": 12.0}, ["embedding_scale"]),
        ({"llama.residual_scale": 0.2}, ["residual_scale"]),
        ({"llama.attention.causal": False}, ["attention.causal"]),
        ({"llama.use_parallel_residual": True}, ["use_parallel_residual"]),
        ({"llama.vocab_size": 400}, ["vocab_size = 400", "410 rows"]),
        ({"general.type": "adapter"}, ["adapter", "llama-export-lora"]),
        ({"adapter.type": "lora"}, ["adapter", "llama-export-lora"]),
        ({"general.type": "mmproj"}, ["projector"]),
    ],
    ids=str,
)
def test_what_contradicts_itself_or_is_not_supported_is_refused_by_name(bring, extra, named):
    error = bring(extra, status=2)
    assert all(word in error for word in named), error


def test_options_that_are_off_are_accepted(bring):
    off = {"attention.scale": 8**-0.5, "logit_scale": 1.0, "attention.causal": True, "expert_count": 0}
    assert "not used" not in bring({f"llama.{key}": value for key, value in off.items()})[1]


def test_scaling_by_a_factor_and_by_frequencies_is_refused(bring):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    factors = llama3_factors(GGUF | {"rope_theta": 100000.0}, scaling).astype("<f4")
    error = bring({OLD: 4.0}, status=2, more=[("rope_freqs.weight", factors)])
    assert "by a factor (4) as well as by frequency factors" in error


def test_keys_that_nobody_reads_are_named_once_with_their_number(bring):
    _, printed = bring({"llama.new_option": 1, "qwen2.context_length": 5, "general.author": "x", "tokenizer.ggml.x": 2})
    assert printed.count("note:") == 1
    assert "3 keys of the metadata not used: llama.new_option, qwen2.context_length, tokenizer.ggml.x" in printed


def test_a_key_that_is_there_twice_is_refused(bring, tmp_path, cli):
    bring({"llama.new_option": 7})
    data = (tmp_path / "m.gguf").read_bytes()
    key = b"general.architecture"
    at = data.index(key) - 8
    entry = data[at : at + 8 + len(key) + 4 + 8 + len("llama")]
    count = int.from_bytes(data[16:24], "little") + 1
    twice = data[:16] + count.to_bytes(8, "little") + data[24:at] + entry + data[at:]
    (tmp_path / "twice.gguf").write_bytes(twice)
    error = cli("import", tmp_path / "twice.gguf", "--out", tmp_path / "u.h5", "--no-tokenizer", status=2).err
    assert "general.architecture is there twice" in error


def test_where_quantised_weights_come_from_is_said(bring):
    kind = gguf.GGMLQuantizationType.Q8_0
    _, printed = bring({"general.file_type": 15}, quantise=kind)
    assert "the weights come from Q4_K_M (tensors: 16 Q8_0)" in printed
    assert "the weights come from 16 Q8_0" in bring(quantise=kind)[1]
    assert "come from" not in bring()[1]


def test_a_head_that_is_the_embedding_quantised_apart_is_named(bring):
    tensors = tensors_of(GGUF)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    _, printed = bring(tensors=tensors, quantise=gguf.GGMLQuantizationType.Q8_0)
    assert "output.weight (Q8_0) is stored beside token_embd.weight (Q8_0) with nearly the same values" in printed
    assert "0.0 M more parameters" in printed
    assert "output.weight" not in bring()[1]


# ---- tokenizer -------------------------------------------------------------------------------------------------------


def tokenizer_of(tmp_path):
    return ChatTokenizer.from_model(str(tmp_path / "m.h5"))


FITTING = GGUF | {"vocab_size": train_bpe().get_vocab_size()}


@pytest.mark.parametrize("pre", [None, "default"])
def test_a_byte_level_file_without_the_name_of_its_pre_tokenizer_is_refused(bring, cli, tmp_path, pre):
    error = bring({"tokenizer.ggml.pre": pre}, status=2, tokenizer=train_bpe(), config=FITTING)
    assert "tokenizer.ggml.pre is " + (pre or "missing") in error and "convert the model again" in error
    printed = cli("import", tmp_path / "m.gguf", "--out", tmp_path / "m.h5", "--no-tokenizer").out
    assert "(no tokenizer)" in printed and "note: no tokenizer: " in printed


@pytest.mark.parametrize("pre, added", [("llama-bpe", True), ("tekken", True), ("gpt-2", False), ("qwen2", False)])
def test_bos_is_added_where_llama_cpp_adds_it_without_a_key(bring, tmp_path, pre, added):
    bring({"tokenizer.ggml.add_bos_token": None}, tokenizer=train_bpe(), config=FITTING, pre=pre)
    assert (tokenizer_of(tmp_path).encode(["the"], True)[0][0] == 1) == added


def test_named_tokens_that_the_file_calls_normal_are_special_all_the_same(bring, tmp_path):
    tokenizer = train_bpe()
    size = tokenizer.get_vocab_size()
    bring({"tokenizer.ggml.token_type": [1] * size}, tokenizer=tokenizer, config=FITTING)
    assert tokenizer_of(tmp_path).encode(["the<|im_end|>"], False)[0][-1] == 2
    bring({"tokenizer.ggml.token_type": None}, tokenizer=tokenizer, config=FITTING)
    assert tokenizer_of(tmp_path).encode(["the<|im_end|>"], False)[0][-1] == 2


def test_a_named_token_beyond_the_vocabulary_is_refused(bring):
    error = bring({"tokenizer.ggml.eos_token_id": 9000}, status=2, tokenizer=train_bpe(), config=FITTING)
    assert "tokenizer.ggml.eos_token_id = 9000" in error


def test_all_tokens_that_end_an_answer_are_kept(bring, tmp_path):
    ends = {"tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 3}
    _, printed = bring(ends, tokenizer=train_bpe(), config=FITTING)
    with h5io.open_as(str(tmp_path / "m.h5"), "catdpo-model") as file:
        assert file["tokenizer/stop_tokens"][...].tolist() == [0, 2, 3]
        generation = json.loads(file["tokenizer/generation_config.json"][...].tobytes())
    assert generation["eos_token_id"] == [0, 2, 3] and "<|im_end|> (2): tokenizer and generation_config.json" in printed


def test_chat_templates_with_names_are_kept(bring, tmp_path):
    more = {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "{{ tools }}" + CHATML}
    bring(more, tokenizer=train_bpe(), config=FITTING)
    assert tokenizer_of(tmp_path).templates == {"default": CHATML, "tool_use": "{{ tools }}" + CHATML}
    (tmp_path / "m.h5").unlink()
    error = bring({"tokenizer.chat_templates": ["a/b"]}, status=2, tokenizer=train_bpe(), config=FITTING)
    assert "is not a name for a chat template" in error


def test_old_frequencies_that_are_all_one_are_no_scaling(bring):
    attributes, _ = bring(more=[("rope_freqs.weight", np.ones(4, "<f4"))])
    assert attributes["rope_type"].decode() == "default"

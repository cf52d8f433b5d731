"""what_is_read.md is true: the keys that the program touches are those of the table, and each is used as it says."""

import collections
import json
import os
import re

import gguf
import pytest
from conftest import CHATML, CONFIG, tensors_of, train_bpe, write_model
from test_gguf import GGUF, write_gguf
from tokenizers_of_kinds import entry, files_of

from catdpo_analysis.errors import UserError
from catdpo_analysis.models import gguf_metadata, hf_config, hf_source, hf_weights, import_tokenizer
from catdpo_analysis.models.architecture import read_config
from catdpo_analysis.models.families import FAMILIES
from catdpo_analysis.models.gguf_source import GgufSource
from catdpo_analysis.tokens import tokenizer, tokenizer_files
from catdpo_analysis.tokens.chat import ChatTokenizer

USES = ("read", "compared", "refused", "ignored")


def read_page():
    """source -> use -> {key: example as JSON, or None}"""
    found, source, use = {}, None, None
    with open(os.path.join(os.path.dirname(__file__), "what_is_read.md"), encoding="utf-8") as file:
        for line in file:
            line = line.rstrip()
            if line.startswith("## "):
                source, use = found.setdefault(line[3:], collections.defaultdict(dict)), None
                continue
            begins = re.match(r"(read|compared|refused|ignored):", line)
            if source is None or not line or not (begins or use):
                use = None
                continue
            if begins:
                use, line = begins[1], line[len(begins[0]) :]
            if use == "refused" and line:
                key, example = line.removeprefix("- ").split(" = ", 1)
                source[use][key] = example
            else:
                source[use] |= dict.fromkeys(filter(None, (key.strip() for key in line.split(","))))
    return found


PAGE = read_page()


def keys(source, *uses):
    """Of a source; a key has one use."""
    found = [key for use in uses for key in PAGE[source][use]]
    assert len(set(found)) == len(found)
    return {key for key in found if not key.startswith("(")}


def refused(source):
    return [(key, json.loads(example)) for key, example in PAGE[source]["refused"].items()]


def ignored(source):
    return sorted(PAGE[source]["ignored"])


ANYTHING = (1, "x", True, {"a": 1}, ["x"], None)  # for keys that are ignored


class Recorded(dict):
    """A dict that remembers which keys were asked for."""

    def __init__(self, values, touched):
        super().__init__(values)
        self.touched = touched

    def get(self, key, default=None):
        self.touched.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.touched.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.touched.add(key)
        return super().__contains__(key)


# ---- config.json -----------------------------------------------------------------------------------------------------

GEMMA = {"model_type": "gemma3_text", "hidden_act": None}
SAMPLES = [
    {},
    {"sliding_window": 4096, "use_sliding_window": True},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
]


def test_config_json():
    touched, of_gemma = {"bos_token_id", "eos_token_id"}, set()  # these by import_tokenizer, below
    for kind in set(FAMILIES) - {"gemma3_text"}:
        for sample in SAMPLES:
            read_config(Recorded(CONFIG | {"model_type": kind, "sliding_window": None} | sample, touched), "c", [])
    assert touched == keys("config.json", "read", "compared", "refused")
    assert set(hf_config.IGNORED) - touched == keys("config.json", "ignored")
    read_config(Recorded(CONFIG | GEMMA, of_gemma), "c", [])
    assert of_gemma - touched == keys("config.json (gemma3_text)", "read", "compared", "refused")


@pytest.mark.parametrize("key, value", refused("config.json (gemma3_text)"), ids=str)
def test_config_json_of_gemma_refused(key, value):
    with pytest.raises(UserError, match=key):
        read_config(CONFIG | GEMMA | {key: value}, "c")


@pytest.mark.parametrize("key, value", refused("config.json"), ids=str)
def test_config_json_refused(key, value):
    with pytest.raises(UserError) as error:
        read_config(CONFIG | {key: value}, "c")
    assert key in str(error.value) or (key == "layer_types" and "sliding" in str(error.value))


@pytest.mark.parametrize("key", ignored("config.json"))
def test_config_json_ignored(key):
    harmless = hf_config.IGNORED[key]
    for value in ANYTHING if harmless is hf_config.ANY else harmless:
        notes = []
        assert read_config(CONFIG | {key: value}, "c", notes) == read_config(CONFIG, "c") and notes == []
    if harmless is not hf_config.ANY:
        read_config(CONFIG | {key: 0.5}, "c", notes)
        assert notes == [f"config.json: 1 key not used: {key} = 0.5"]


# ---- the files of a tokenizer ----------------------------------------------------------------------------------------


@pytest.fixture
def touched(monkeypatch):
    """file name -> keys that are asked for."""
    found = collections.defaultdict(set)
    plain = tokenizer_files.json_of

    def record(files, name, where):
        return Recorded(plain(files, name, where), found[name])

    for module in (tokenizer_files, tokenizer, import_tokenizer):
        monkeypatch.setattr(module, "json_of", record)
    return found


def by_pattern(names):
    return {"*_token" if name.endswith("_token") and not name.startswith("add_") else name for name in names}


def test_tokenizer_files(touched):
    config = {
        "eos_token": "<|im_end|>",
        "bos_token": "<|im_start|>",
        "chat_template": CHATML,
        "extra_special_tokens": [],
    }
    asked = set()
    for more in ({}, {"tokenizer_class": "LlamaTokenizer"}, {"added_tokens_decoder": {"2": entry("<|im_end|>")}}):
        files = files_of(
            None,
            config | more,
            generation_config={"eos_token_id": 2},
            special_tokens_map={"eos_token": "<|im_end|>"},
            added_tokens={"<|im_end|>": 2},
        )
        import_tokenizer.ImportedTokenizer(files, Recorded({"eos_token_id": 2}, asked), 410, "here")
    assert asked == {"bos_token_id", "eos_token_id"}
    for name in ("tokenizer_config.json", "generation_config.json"):
        assert by_pattern(touched[name]) | ({"*_token"} & keys(name, "compared")) == keys(name, *USES[:3]), name
    assert by_pattern(touched["special_tokens_map.json"]) <= keys("special_tokens_map.json", *USES[:3])
    assert tokenizer_files.IGNORED == keys("tokenizer_config.json", "ignored")
    assert tokenizer_files.READ == keys("tokenizer_config.json", *USES[:3]) - {"*_token"}


BASE = {"eos_token": "<|im_end|>", "chat_template": CHATML}


@pytest.mark.parametrize("key, value", refused("tokenizer_config.json"), ids=str)
def test_tokenizer_config_json_refused(key, value):
    with pytest.raises(UserError, match=key):
        ChatTokenizer(files_of(None, BASE | {key: value}), "here")


@pytest.mark.parametrize("key", ignored("tokenizer_config.json"))
def test_tokenizer_config_json_ignored(key):
    digest = ChatTokenizer(files_of(None, BASE), "here").tokenizer_digest
    for value in ANYTHING[:2]:
        found = ChatTokenizer(files_of(None, BASE | {key: value}), "here")
        assert found.notes == [] and found.tokenizer_digest == digest


def test_other_keys_of_tokenizer_config_json_are_named_once():
    found = ChatTokenizer(files_of(None, BASE | {"do_lower_case": True, "new": 1}), "here")
    assert found.notes == ["tokenizer_config.json: 2 keys not used: do_lower_case, new"]


def test_other_json_files_of_a_folder(monkeypatch, tmp_path):
    asked = collections.defaultdict(set)
    for module in (hf_weights, hf_source):
        plain = module.read_json

        def record(path, plain=plain):
            return Recorded(plain(path), asked[os.path.basename(path)])

        monkeypatch.setattr(module, "read_json", record)
    write_model(tmp_path / "hf")
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    with pytest.raises(UserError, match="places tensor a"):
        hf_source.HuggingFaceSource(str(tmp_path / "hf"))
    (tmp_path / "hf/adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="adapter"):
        hf_source.HuggingFaceSource(str(tmp_path / "hf"))
    assert asked == {name: keys(name, *USES[:3]) for name in ("model.safetensors.index.json", "adapter_config.json")}


# ---- GGUF ------------------------------------------------------------------------------------------------------------


def source(tmp_path, extra=None, config=GGUF, **options):
    path = str(tmp_path / "m.gguf")
    write_gguf(path, config, tensors_of(config), train_bpe(), extra=extra, **options)
    return GgufSource(path)


def general(key):
    for kind in (*FAMILIES, "gemma3"):
        if key.startswith(kind + "."):
            return "{arch}" + key.removeprefix(kind)
    return key


def sentencepiece_keys():
    pieces = ["<unk>", "<s>", "</s>", "a"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [2, 3, 3, 1],
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0],
        "tokenizer.ggml.merges": None,
    }


def test_gguf(tmp_path):
    touched = set()
    for kind in ("llama", "qwen2", "qwen3"):
        touched |= source(tmp_path, config=GGUF | {"model_type": kind}, quantise=None).metadata.used
    touched |= source(tmp_path, sentencepiece_keys() | {"tokenizer.chat_templates": ["a"]}).metadata.used
    touched |= source(tmp_path, quantise=gguf.GGMLQuantizationType.Q8_0).metadata.used
    touched.discard("tokenizer.chat_template.a")
    assert {general(key) for key in touched} == keys("GGUF", "read", "compared", "refused")
    of_gemma = source(tmp_path, config=GGUF | GEMMA | {"tie_word_embeddings": True}).metadata.used
    assert {general(key) for key in of_gemma - touched} - keys("GGUF", *USES) == keys("GGUF (gemma3)", "read")
    unread = gguf_metadata.IGNORED | {"{arch}." + key for key in gguf_metadata.IGNORED_OF_MODEL}
    assert unread - keys("GGUF", "read", "compared", "refused") == keys("GGUF", "ignored")


@pytest.mark.parametrize("key, value", refused("GGUF"), ids=str)
def test_gguf_refused(tmp_path, key, value):
    with pytest.raises(UserError) as error:
        raise source(tmp_path, {key.replace("{arch}", "llama"): value}).tokenizer_error or AssertionError
    word = {"{arch}.attention.sliding_window": "sliding", "split.count": "split", "general.type": "adapter"}.get(key)
    assert (word or key.replace("{arch}.", "").replace("tokenizer.ggml.model", "bert")) in str(error.value)


@pytest.mark.parametrize("value", [1, "x", True], ids=str)
def test_gguf_ignored(tmp_path, value):
    more = {key.replace("{arch}", "llama"): value for key in ignored("GGUF")}
    found, plain = source(tmp_path, more), source(tmp_path)
    assert found.notes == [] and found.config == plain.config and found.tokenizer_files == plain.tokenizer_files

"""Fixtures: a tiny tokenizer, tiny models with numbers from numpy, preference files, and the command run in this
process."""

import json
import os
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "analysis"))  # the tests also run without an installed package
sys.path.insert(0, HERE)

from catdpo_analysis.cli import main  # noqa: E402

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "the sky is blue and the grass is green",
    "how do I bake bread at home",
    "a polite refusal that explains itself",
    "I am sorry but I cannot help with that",
    "here is a step by step answer, 12 steps in 2024",
    "Human: hello\n\nAssistant: hello to you",
]


@pytest.fixture(scope="session")
def shared():
    """The folder of real data, or a skip that says how to name it."""
    folder = os.environ.get("CATDPO_SHARED") or os.path.join(os.path.dirname(ROOT), "shared")
    data = os.path.join(folder, "data")
    if not os.path.isdir(data):
        pytest.skip(f"no real data in {data}; name the shared folder in CATDPO_SHARED")
    return data


def train_bpe(pre_tokenizer=None):
    """A byte-level BPE tokenizer with all 256 bytes, so that it can encode anything."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        AddedToken(text, special=True, normalized=False) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    return tokenizer


def write_tokenizer(folder, tokenizer=None):
    tokenizer = tokenizer or train_bpe()
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
        json.dump({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "chat_template": CHATML}, file)
    return tokenizer


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": 410,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "float32",
}


def tensors_of(config, seed=0):
    """Random float32 weights by their Hugging Face names."""
    from catdpo_analysis.models.architecture import read_config

    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape).astype("<f4")
        for name, shape in read_config(config, "config").tensors().items()
    }


def write_model(folder, tensors=None, tokenizer=True, seed=0, **changes):
    """A Hugging Face folder with one safetensors file; `changes` are put into config.json (None removes nothing, it
    is null)."""
    config = CONFIG | changes
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)
    save_file(tensors if tensors is not None else tensors_of(config, seed), os.path.join(folder, "model.safetensors"))
    if tokenizer:
        write_tokenizer(folder)
    return config


def is_error(text):
    """One printable line, and below it one for each of several errors that it sums up."""
    first, *others = text.splitlines() or [""]
    lines = [line.isprintable() and len(line) < 1300 for line in (first, *others)]
    return (
        text.endswith("\n")
        and first.startswith("catdpo-analysis: error: ")
        and all(lines)
        and len(others) <= 21
        and all(line.startswith("  ") for line in others)
    )


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def cli(capsys):
    """Runs catdpo-analysis; a status other than the wanted one fails the test with what was printed."""

    def run(*argv, status=0):
        capsys.readouterr()
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert code == status, f"status {code}\n{out}\n{err}"
        if status == 2:
            assert is_error(err), err
        return Result(code, out, err)

    return run


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture
def jsonl(tmp_path):
    """Writes rows (objects or raw lines) to a file and returns its path."""

    def write(*rows, name="pairs.jsonl"):
        path = tmp_path / name
        path.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
        )
        return path

    return write


def pku(
    prompt,
    safe=(True, False),
    better=0,
    harm=("violence",),
    responses=("I cannot help with that", "here is a step by step answer"),
    **more,
):
    """A row in PKU-SafeRLHF's schema; `harm` names the categories of each unsafe response."""
    row = {"prompt": prompt, "better_response_id": better, "safer_response_id": None}
    for i in (0, 1):
        row |= {
            f"response_{i}": responses[i],
            f"is_response_{i}_safe": safe[i],
            f"response_{i}_harm_category": {name: not safe[i] for name in harm} | {"never": False},
        }
    return row | more


def trl(prompt, chosen=" is blue", rejected=" is green", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | more


class PairsFile:
    """pairs.h5 as plain Python values, checked against the format's rules while it is read."""

    def __init__(self, path):
        import h5py

        from catdpo_analysis.files import h5io

        with h5io.open_as(str(path), "catdpo-pairs") as file:
            self.attributes = {
                name: h5io.text(file, name) if isinstance(value, bytes) else value for name, value in file.attrs.items()
            }
            self.categories = h5io.strings(file["categories/name"])
            self.harm = file["categories/harm"][...].tolist()
            self.parts = {name: self.part(file[name]) for name in ("train", "heldout")}
            group = file["ledger"]
            columns = {
                name: group[name].asstr()[...] if group[name].dtype.kind == "S" else group[name][...] for name in group
            }
            self.ledger = [dict(zip(columns, row)) for row in zip(*columns.values())]
            self.reasons = h5io.strings(file["ledger_scales/reason"])
            self.counts = file["ledger_counts"][...]
            assert file["ledger_counts"].dims[0][0].name == "/ledger_scales/reason"
            assert (
                h5py.check_string_dtype(file["categories/name"].dtype).length is not None
            )  # fixed length, as the trainer reads it
        assert len(self.reasons) == len(self.counts) and self.counts.shape[1] == len(self.categories) + 1

    def part(self, group):
        pairs, n = [], int(group.attrs["pairs"])
        columns = {
            name: group[name][...]
            for name in ("chosen_safe", "rejected_safe", "chosen_better", "swapped", "source_file", "source_row")
        }
        text = {name: group["text"][name].asstr()[...] for name in ("prompt", "chosen", "rejected")}
        side = {
            name: {part: group[name][part][...] for part in ("tokens", "offsets", "prompt_length")}
            for name in ("chosen", "rejected")
        }
        mask = group["category_mask"][...]
        assert mask.shape == (n, len(self.categories)) and (mask.sum(axis=1) >= 1).all()
        for i in range(n):
            pair = {name: int(values[i]) for name, values in columns.items()} | {
                f"{name}_text": values[i] for name, values in text.items()
            }
            for name, arrays in side.items():
                start, end = arrays["offsets"][i : i + 2]
                pair[name], length = arrays["tokens"][start:end].tolist(), int(arrays["prompt_length"][i])
                assert 1 <= length < end - start
                pair["prompt_length"] = length
            assert pair["chosen"][: pair["prompt_length"]] == pair["rejected"][: pair["prompt_length"]]
            pair["categories"] = [name for name, on in zip(self.categories, mask[i]) if on]
            pairs.append(pair)
        assert group["chosen/offsets"].shape == (n + 1,) and all(len(values) == n for values in columns.values())
        return pairs

    @property
    def pairs(self):
        return self.parts["train"] + self.parts["heldout"]

    def reason_of(self, row, file=0):
        return [entry["reason"] for entry in self.ledger if entry["row"] == row and entry["file"] == file]


@pytest.fixture
def prepare(cli, tokenizer_dir, tmp_path):
    """Runs prepare on files and reads the result; nothing is held out unless asked."""

    def run(*inputs, options=(), status=0):
        out = tmp_path / "pairs.h5"
        out.unlink(missing_ok=True)
        options = [*options] if "--heldout" in options else ["--heldout", "0", *options]
        result = cli("prepare", *inputs, "--tokenizer", tokenizer_dir, "--out", out, *options, status=status)
        if status:
            assert not out.exists() and not list(tmp_path.glob("*.tmp"))
            return result
        file = PairsFile(out)
        file.printed = result.out
        return file

    return run

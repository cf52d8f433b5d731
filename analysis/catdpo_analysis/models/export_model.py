"""The export command: model.h5 or a checkpoint to a Hugging Face folder. One tensor is in memory at a time."""

import contextlib
import json
import os

import numpy as np

from catdpo_analysis.files import h5io
from catdpo_analysis.files.atomic import new_folder
from catdpo_analysis.models import adapter as adapters
from catdpo_analysis.models.architecture import Architecture, dataset_name, read_config
from catdpo_analysis.models.export_adapter import export_adapter
from catdpo_analysis.files.digest import weights_digest
from catdpo_analysis.errors import UserError
from catdpo_analysis.text.progress import Progress
from catdpo_analysis.models.safetensors_io import WRITABLE, write_safetensors
from catdpo_analysis.tokens.tokenizer_files import (
    chat_templates,
    stored_files,
    stored_templates,
    template_digest,
    write_files,
)

TORCH_NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def config_from(architecture):
    """A config.json (dict) that says what the attributes of /model say."""
    a = architecture
    rope = None
    if a.rope_type == "linear":
        rope = {"rope_type": "linear", "factor": a.rope_factor}
    elif a.rope_type == "llama3":
        rope = {
            "rope_type": "llama3",
            "factor": a.rope_factor,
            "low_freq_factor": a.rope_low_freq_factor,
            "high_freq_factor": a.rope_high_freq_factor,
            "original_max_position_embeddings": a.rope_original_max_position,
        }
    config = {
        "architectures": [a.family.hf_class],
        "model_type": a.architecture,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.num_hidden_layers,
        "num_attention_heads": a.num_attention_heads,
        "num_key_value_heads": a.num_key_value_heads,
        "head_dim": a.head_dim,
        "vocab_size": a.vocab_size,
        "max_position_embeddings": a.max_position_embeddings,
        "rms_norm_eps": a.rms_norm_eps,
        "rope_theta": a.rope_theta,
        "rope_scaling": rope,
        "tie_word_embeddings": bool(a.tie_word_embeddings),
        "use_cache": True,
    }
    return config | a.family.config_entries(a)


def config_of(model, architecture, dtype):
    """The config.json to write: the one that the model came with, unless it says otherwise than the attributes."""
    try:
        config = json.loads(h5io.text(model, "hf_config", ""))
        if read_config(config, "hf_config") != architecture:
            config = config_from(architecture)
    except (ValueError, UserError):
        config = config_from(architecture)
    config["architectures"] = [architecture.family.hf_class]
    config.pop("_name_or_path", None)
    config.pop("torch_dtype", None)
    config.pop("dtype", None)
    return config | {"torch_dtype": TORCH_NAMES[dtype]}


def shards_of(shapes, dtype, limit):
    """Cuts the list of tensors into files of at most `limit` bytes (or one tensor)."""
    shards, size = [{}], 0
    for name, shape in shapes.items():
        bytes_ = int(np.prod(shape, dtype=np.int64)) * WRITABLE[dtype][1]
        if shards[-1] and size + bytes_ > limit:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += bytes_
    return shards


class WholeWeights:
    """The weights of a file one by one, each as it has to be."""

    def __init__(self, file, path, shapes):
        self.file, self.path, self.shapes, self.checksums = file, path, shapes, {}

    def read(self, name):
        values, self.checksums[name] = adapters.read_checked(
            self.file, self.path, dataset_name(name), self.shapes[name]
        )
        return values

    def digest(self):
        """Of all that was read, which has to be what the file says."""
        digest = weights_digest(self.checksums)
        if h5io.text(self.file["model"], "weights_digest", digest) != digest:
            raise UserError(f"{self.path}: the weights do not match weights_digest; the file is damaged")
        return digest


class MergedWeights:
    """Those of an adapter's base, with the adapter added to them."""

    def __init__(self, file, path, base, base_path, architecture, adapter):
        self.file, self.path, self.adapter = file, path, adapter
        self.base = WholeWeights(base, base_path, architecture.tensors())
        self.shapes, self.checksums = adapter.tensors(architecture), {}

    def _side(self, name):
        values, self.checksums[name] = adapters.read_checked(
            self.file, self.path, adapters.dataset_name(name), self.shapes[name]
        )
        return values

    def read(self, name):
        weight = self.base.read(name)
        a, b = (f"{name.removesuffix('weight')}{side}.weight" for side in adapters.SIDES)
        if a not in self.shapes:
            return weight
        return adapters.merge(weight, self._side(a), self._side(b), self.adapter.alpha / self.adapter.rank)

    def digest(self):
        if self.base.digest() != self.adapter.base_digest:
            raise UserError(
                f"{self.base.path} is not the base of the adapter in {self.path}: its weights have the digest "
                f"{self.base.digest()}, the adapter was trained on {self.adapter.base_digest}"
            )
        digest = self.adapter.digest(self.checksums)
        if h5io.text(self.file["model"], "weights_digest", digest) != digest:
            raise UserError(f"{self.path}: the adapter does not match weights_digest; the file is damaged")
        return digest


@contextlib.contextmanager
def weights_of(file, path, architecture):
    """The weights of an open model, or of the one that an adapter makes."""
    adapter = adapters.Adapter.load(file, architecture)
    if adapter is None:
        yield WholeWeights(file, path, architecture.tensors())
        return
    base_path = adapter.find_base(path)
    with h5io.open_as(base_path, "catdpo-model", "catdpo-checkpoint") as base:
        if "adapter" in base or Architecture.load(base["model"], base_path).tensors() != architecture.tensors():
            raise UserError(f"{base_path} is not the base of the adapter in {path}: its weights have other shapes")
        yield MergedWeights(file, path, base, base_path, architecture, adapter)


def export_model(path, out, dtype="f32", shard_bytes=5 * 10**9):
    """Writes the folder, an adapter merged into its base; returns (architecture, weights digest, number of weight
    files, note or None)."""
    with (
        h5io.open_as(path, "catdpo-model", "catdpo-checkpoint") as file,
        weights_of(file, path, architecture := Architecture.load(file["model"], path)) as weights,
        new_folder(out) as folder,
    ):
        model, shapes = file["model"], architecture.tensors()

        def read(name):
            values = weights.read(name)
            progress.step()
            return values

        shards = shards_of(shapes, dtype, shard_bytes)
        names = (
            ["model.safetensors"]
            if len(shards) == 1
            else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        )
        with Progress("export", len(shapes), "tensors") as progress:
            for name, shard in zip(names, shards):
                write_safetensors(os.path.join(folder, name), shard, dtype, read)
        digest = weights.digest()
        if len(shards) > 1:
            total = architecture.parameters() * WRITABLE[dtype][1]
            mapping = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
            write_json(
                os.path.join(folder, "model.safetensors.index.json"),
                {"metadata": {"total_size": total}, "weight_map": mapping},
            )
        write_json(os.path.join(folder, "config.json"), config_of(model, architecture, dtype))
        files, note = (stored_files(file, path), template_note(file)) if "tokenizer" in file else ({}, None)
        write_files(folder, files)
    return architecture, digest, len(shards), note


def template_note(file):
    """Whether the folder gets another chat template than the model was trained with."""
    trained = h5io.text(file, "template_digest", "")
    if not trained or stored_templates(file) is not None or trained == template_digest({}):
        return None
    own = template_digest(chat_templates(stored_files(file, file.filename), file.filename, []))
    if own == trained:
        return None
    return (
        "the model was trained with another chat template than the folder holds, and the checkpoint, of an older "
        "version, "
        "does not keep it; put the file that was given to prepare --chat-template there as chat_template.jinja"
    )


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def add_arguments(parser):
    parser.add_argument("model", metavar="FILE", help="model.h5 or a checkpoint of the trainer")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the folder to write; it must not exist, or be empty"
    )
    parser.add_argument(
        "--dtype", choices=tuple(WRITABLE), default="f32", help="of the weights (default: %(default)s, which is exact)"
    )
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="of a run with adapters: the adapter alone, in PEFT's layout; without it, it is merged into its base",
    )
    parser.add_argument(
        "--base-name",
        metavar="NAME",
        help="with --adapter: what adapter_config.json calls the base (a folder or a name)",
    )
    parser.add_argument(
        "--shard-size",
        type=float,
        default=5.0,
        metavar="GB",
        help="largest size of one weight file (default: %(default)s)",
    )


def run(args):
    if not args.shard_size > 0:
        raise UserError(f"--shard-size {args.shard_size} must be positive")
    if args.adapter:
        adapter, parameters, digest = export_adapter(args.model, args.out, args.dtype, args.base_name)
        print(
            f"{args.out}: adapter of rank {adapter.rank}, {parameters / 1e6:.3g} M parameters as {args.dtype}, in "
            "PEFT's layout"
        )
        print(f"weights digest {digest} (of the float32 weights)")
        return
    if args.base_name:
        raise UserError("--base-name goes with --adapter")
    architecture, digest, shards, note = export_model(args.model, args.out, args.dtype, int(args.shard_size * 1e9))
    print(
        f"{args.out}: {architecture.architecture}, {architecture.parameters() / 1e6:.1f} M parameters as {args.dtype} "
        f"in {shards} file{'s' if shards > 1 else ''}"
    )
    print(f"weights digest {digest} (of the float32 weights)")
    if note:
        print("note: " + note)

"""Adapters (LoRA): what a file of the trainer says of one, and the same in PEFT's layout.

A file with an adapter has /model's attributes and a tokenizer like any model, but /adapter instead of weights: A
[r, in] and B [out, r] of each adapted linear layer, and the path and the weights' digest of the base that they belong
to.
"""

import dataclasses
import os
import re

import numpy as np

from catdpo_analysis.errors import UserError
from catdpo_analysis.files.digest import tensor_checksum, weights_digest
from catdpo_analysis.files.h5io import set_text, text

MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
PEFT_PREFIX = "base_model.model."
SIDES = ("lora_A", "lora_B")


def last_name(module):
    return module.rsplit(".", 1)[-1]


def ranges_text(numbers, count):
    """[0, 1, 2, 5] -> "0-2,5"; "all" for all of `count`."""
    numbers = sorted(numbers)
    if len(numbers) == count:
        return "all"
    runs = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def ranges_of(words, count):
    """The other way round."""
    if words == "all":
        return list(range(count))
    found = set()
    for word in words.split(","):
        first, _, last = word.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)


@dataclasses.dataclass
class Adapter:
    rank: int
    alpha: float  # W + alpha / rank B A
    modules: list  # of MODULES
    layers: list  # numbers
    base: str  # path of the model that it belongs to
    base_digest: str

    def tensors(self, architecture):
        """Every A and B: Hugging Face name -> shape, in the order of the data flow."""
        shapes = architecture.tensors()
        found = {}
        for layer in self.layers:
            for module in self.modules:
                stem = f"model.layers.{layer}.{module}"
                rows, columns = shapes[f"{stem}.weight"]
                found[f"{stem}.lora_A.weight"] = (self.rank, columns)
                found[f"{stem}.lora_B.weight"] = (rows, self.rank)
        return found

    def digest(self, checksums):
        """Of the file's weights: over the tensors, alpha and the base."""
        alpha = int(np.array(self.alpha, "<f8").view("<u8"))
        tensors = int(weights_digest(checksums), 16)
        return weights_digest({"adapter": tensors, "alpha": alpha, "base": int(self.base_digest, 16)})

    def store(self, group, layers):
        """As attributes of /adapter, for a model of so many layers."""
        group.attrs.create("rank", self.rank, dtype="<i8")
        group.attrs.create("alpha", self.alpha, dtype="<f8")
        set_text(group, "target_modules", ",".join(last_name(module) for module in self.modules))
        set_text(group, "layers", ranges_text(self.layers, layers))
        set_text(group, "base", self.base)
        set_text(group, "base_digest", self.base_digest)

    @classmethod
    def load(cls, file, architecture):
        """Of an open file; None if it has weights of its own."""
        if "adapter" not in file:
            return None
        group = file["adapter"]
        names = text(group, "target_modules").split(",")
        return cls(
            rank=int(group.attrs["rank"]),
            alpha=float(group.attrs["alpha"]),
            modules=[module for module in MODULES if last_name(module) in names],
            layers=ranges_of(text(group, "layers"), architecture.num_hidden_layers),
            base=text(group, "base"),
            base_digest=text(group, "base_digest"),
        )

    def find_base(self, path):
        """Where the base of the adapter in the file `path` lies."""
        beside = os.path.join(os.path.dirname(path), os.path.basename(self.base))
        for candidate in (self.base, beside):
            if os.path.isfile(candidate):
                return candidate
        raise UserError(
            f"{path} holds an adapter, and its base is neither {self.base} nor a file of that name beside it; put the "
            f"model with the weights digest {self.base_digest} there"
        )


def dataset_name(name):
    """Where A or B lies in a file: "model.layers.0.mlp.up_proj.lora_A.weight" ->
    "/adapter/layers/0/mlp/up_proj/lora_A/weight"."""
    return "/adapter/" + name.removeprefix("model.").replace(".", "/")


def peft_name(name):
    return PEFT_PREFIX + name


_TENSOR = re.compile(
    re.escape(PEFT_PREFIX) + r"(model\.layers\.(\d+)\.(\w+\.\w+))\.(lora_[AB])(?:\.\w+)?\.weight", re.ASCII
)


def parse_peft_name(name):
    """(name here, layer, module, side) of a tensor in adapter_model.safetensors, or None."""
    match = _TENSOR.fullmatch(name)
    if not match or match[3] not in MODULES:
        return None
    return f"{match[1]}.{match[4]}.weight", int(match[2]), match[3], match[4]


def merge(weight, a, b, scale):
    """W + scale B A in float32, the product in double."""
    return (weight + scale * (b.astype("f8") @ a.astype("f8"))).astype("<f4")


def read_checked(file, path, where, shape):
    """One float32 dataset, with the shape that it has to have, its checksum and finite; (array, checksum)."""
    if where not in file:
        raise UserError(f"{path}: {where} is missing")
    dataset = file[where]
    if dataset.shape != shape or dataset.dtype != np.dtype("<f4"):
        raise UserError(f"{path}: {where} is {dataset.dtype} {dataset.shape}, not float32 {shape}")
    values = dataset[...]
    checksum = tensor_checksum(values)
    if "checksum" in dataset.attrs and int(dataset.attrs["checksum"]) != checksum:
        raise UserError(f"{path}: {where} does not match its checksum; the file is damaged")
    if not np.isfinite(values).all():
        raise UserError(
            f"{path}: {where} holds NaN or infinite values; the training diverged, export an earlier checkpoint"
        )
    return values, checksum

"""import --base: an adapter in PEFT's layout onto the base that it belongs to, as an adapter of the trainer or
merged."""

import os

import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files import h5io
from catdpo_analysis.files.digest import tensor_checksum, weights_digest
from catdpo_analysis.files.json_file import read_json
from catdpo_analysis.models import adapter as adapters
from catdpo_analysis.models import architecture as models
from catdpo_analysis.models.safetensors_io import SafetensorsFile
from catdpo_analysis.text.progress import Progress

PLAIN = {  # keys of adapter_config.json that would make another computation: the values for which they do not
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "corda_config": (None,),
    "eva_config": (None,),
}
USED = {"r", "lora_alpha", "use_rslora", "lora_dropout", "init_lora_weights"}
IGNORED = {  # where the tensors say it, or what does not change what they compute
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
}
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # init_lora_weights that leave the base as it is


def _read_config(folder):
    """(rank, alpha, notes)"""
    path = os.path.join(folder, "adapter_config.json")
    if not os.path.isfile(path):
        raise UserError(f"{folder} has no adapter_config.json: --base goes with a folder that holds an adapter (PEFT)")
    config, notes = read_json(path), []
    for key, value in config.items():
        if key in USED | IGNORED or value in PLAIN.get(key, (None, False, [], {})):
            continue
        raise UserError(
            f"{path}: {key} = {shorten(value)} is not supported; catdpo knows LoRA with A and B on linear "
            "layers alone. Merge the adapter with PEFT and import the model"
        )
    start = config.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise UserError(
            f"{path}: init_lora_weights = {shorten(start)} changes the base as well; save the adapter with "
            "path_initial_model_for_weight_conversion, or merge it with PEFT and import the model"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UserError(f"{path}: r = {shorten(rank)} is no rank")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not 0 < alpha < 1e30:
        raise UserError(f"{path}: lora_alpha = {shorten(alpha)} is not a positive number")
    if config.get("use_rslora"):
        alpha *= rank**0.5
        notes.append(f"rsLoRA: alpha is taken as {alpha:g}, so that alpha / rank is its scale")
    if config.get("lora_dropout"):
        notes.append(f"lora_dropout = {shorten(config['lora_dropout'])}: training goes on without dropout")
    return rank, float(alpha), notes


def _find_tensors(folder):
    """The file, and {name here: name in it}."""
    path = os.path.join(folder, "adapter_model.safetensors")
    if not os.path.isfile(path):
        raise UserError(f"{folder} has no adapter_model.safetensors; save the adapter as safetensors (PEFT's default)")
    file, found = SafetensorsFile(path), {}
    for name in file.names:
        parsed = adapters.parse_peft_name(name)
        if parsed is None or parsed[0] in found:
            raise UserError(
                f"{path}: tensor {shorten(name, 120)} is not A or B of a linear layer that catdpo knows "
                f"({', '.join(map(adapters.last_name, adapters.MODULES))}); merge the adapter with PEFT and import the "
                "model"
            )
        found[parsed[0]] = name
    if not found:
        raise UserError(f"{path} has no tensors")
    return file, found


def _describe(file, names, rank, alpha, base, base_digest, architecture):
    """The Adapter whose tensors these are."""
    parsed = [adapters.parse_peft_name(name) for name in names.values()]
    layers = sorted({layer for _, layer, _, _ in parsed})
    modules = [module for module in adapters.MODULES if module in {found for _, _, found, _ in parsed}]
    if layers[-1] >= architecture.num_hidden_layers:
        raise UserError(f"{file.path} adapts layer {layers[-1]}, but {base} has {architecture.num_hidden_layers}")
    adapter = adapters.Adapter(rank, alpha, modules, layers, os.path.realpath(base), base_digest)
    for name, shape in adapter.tensors(architecture).items():
        if name not in names:
            raise UserError(
                f"{file.path}: tensor {adapters.peft_name(name)} is missing; catdpo adapts the same linear layers in "
                "each layer that it adapts"
            )
        if file.shape(names[name]) != shape:
            raise UserError(
                f"{file.path}: tensor {names[name]} has shape {file.shape(names[name])}, but the adapter on {base} "
                f"asks for {shape}"
            )
    return adapter


def _copy_about(source, target):
    """/model's attributes, and the groups that belong to a tokenizer."""
    for name, value in source["model"].attrs.items():
        target.require_group("model").attrs[name] = value
    for group in ("tokenizer", "templates"):
        if group in source:
            source.copy(group, target)


def _put(file, where, values, *axes):
    dataset = file.create_dataset(where, data=values, dtype="<f4")
    checksum = tensor_checksum(values)
    dataset.attrs.create("checksum", checksum, dtype="<u8")
    h5io.label(dataset, *axes)
    return checksum


def import_adapter(folder, base, out, merged=False):
    """Writes `out`; returns (Adapter, its parameters, weights digest, notes)."""
    rank, alpha, notes = _read_config(folder)
    tensors, names = _find_tensors(folder)
    with h5io.open_as(base, "catdpo-model", "catdpo-checkpoint") as source:
        architecture = models.Architecture.load(source["model"], base)
        if "adapter" in source:
            raise UserError(f"{base} holds an adapter itself; name its base, {h5io.text(source['adapter'], 'base')}")
        base_digest = h5io.text(source["model"], "weights_digest")
        adapter = _describe(tensors, names, rank, alpha, base, base_digest, architecture)

        def read(name):
            values = tensors.read(names[name])
            if not np.isfinite(values).all():
                raise UserError(f"{tensors.path}: tensor {names[name]} holds NaN or infinite values")
            return values

        with h5io.create(out, "catdpo-model") as file:
            _copy_about(source, file)
            checksums = {}
            if merged:
                digest = _write_merged(source, base, file, architecture, adapter, read)
            else:
                for name in adapter.tensors(architecture):
                    checksums[name] = _put(file, adapters.dataset_name(name), read(name), "out", "in")
                adapter.store(file["adapter"], architecture.num_hidden_layers)
                digest = adapter.digest(checksums)
            h5io.set_text(file["model"], "weights_digest", digest)
    parameters = sum(rows * columns for rows, columns in adapter.tensors(architecture).values())
    return adapter, parameters, digest, notes


def _write_merged(source, base, file, architecture, adapter, read):
    """The base's weights with the adapter's added; returns their digest."""
    shapes, before, after = architecture.tensors(), {}, {}
    adapted = {name.replace("lora_A.", ""): name for name in adapter.tensors(architecture) if "lora_A" in name}
    with Progress("import", len(shapes), "tensors") as progress:
        for name, shape in shapes.items():
            where = models.dataset_name(name)
            values, before[name] = adapters.read_checked(source, base, where, shape)
            if name in adapted:
                a, b = read(adapted[name]), read(adapted[name].replace("lora_A", "lora_B"))
                values = adapters.merge(values, a, b, adapter.alpha / adapter.rank)
            after[name] = _put(file, where, values, *(("out", "in") if len(shape) == 2 else ("feature",)))
            progress.step()
    if weights_digest(before) != adapter.base_digest:
        raise UserError(f"{base}: the weights do not match weights_digest; the file is damaged")
    return weights_digest(after)

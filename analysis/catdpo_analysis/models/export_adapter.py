"""export --adapter: the adapter of a file in PEFT's layout, which PeftModel.from_pretrained loads."""

import json
import os

from catdpo_analysis.errors import UserError
from catdpo_analysis.files import h5io
from catdpo_analysis.files.atomic import new_folder
from catdpo_analysis.models import adapter as adapters
from catdpo_analysis.models.architecture import Architecture
from catdpo_analysis.models.safetensors_io import write_safetensors
from catdpo_analysis.tokens.tokenizer_files import stored_files, write_files


def config_of(adapter, layers, base_name):
    """adapter_config.json (dict) of a model with so many layers."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": int(adapter.alpha) if adapter.alpha == int(adapter.alpha) else adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": [adapters.last_name(module) for module in adapter.modules],
        "layers_to_transform": None if len(adapter.layers) == layers else adapter.layers,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def _base_name(model, adapter):
    """What the base is called: the model that it was imported from, if it says so, else its file."""
    try:
        name = json.loads(h5io.text(model, "hf_config", "")).get("_name_or_path")
    except (ValueError, AttributeError):
        name = None
    return name if isinstance(name, str) and name else adapter.base


def export_adapter(path, out, dtype="f32", base_name=None):
    """Writes the folder; returns (Adapter, its parameters, weights digest)."""
    with h5io.open_as(path, "catdpo-model", "catdpo-checkpoint") as file, new_folder(out) as folder:
        architecture = Architecture.load(file["model"], path)
        adapter = adapters.Adapter.load(file, architecture)
        if adapter is None:
            raise UserError(f"{path} holds a whole model, not an adapter; export it without --adapter")
        shapes, checksums = adapter.tensors(architecture), {}
        names = {adapters.peft_name(name): name for name in shapes}

        def read(name):
            here = names[name]
            values, checksums[here] = adapters.read_checked(file, path, adapters.dataset_name(here), shapes[here])
            return values

        target = os.path.join(folder, "adapter_model.safetensors")
        write_safetensors(target, {name: shapes[here] for name, here in names.items()}, dtype, read)
        digest = adapter.digest(checksums)
        if h5io.text(file["model"], "weights_digest", digest) != digest:
            raise UserError(f"{path}: the adapter does not match weights_digest; the file is damaged")
        with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as opened:
            name = base_name or _base_name(file["model"], adapter)
            json.dump(config_of(adapter, architecture.num_hidden_layers, name), opened, indent=2, ensure_ascii=False)
            opened.write("\n")
        write_files(folder, stored_files(file, path) if "tokenizer" in file else {})
    return adapter, sum(rows * columns for rows, columns in shapes.values()), digest

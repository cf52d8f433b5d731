"""The safetensors files of a Hugging Face folder: which of them are the model, as transformers chooses them, and
whether what else lies there says the same."""

import glob
import json
import os
import re

import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.json_file import read_json
from catdpo_analysis.models.safetensors_io import SafetensorsFile

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
OTHER_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".gguf", ".h5", ".msgpack", ".npz")
OF_TRAINING = re.compile(r"training_args\.bin|(optimizer|scheduler|scaler|rng_state.*)\.(pt|pth|bin)")


def find_tensors(folder, notes):
    """Tensor name -> the SafetensorsFile that holds it. `notes` gets a line about whatever is not used."""
    present = {os.path.basename(path) for path in glob.glob(os.path.join(glob.escape(folder), "*.safetensors"))}
    index = os.path.join(folder, INDEX)
    mapping = _read_index(index) if os.path.isfile(index) else None
    if SINGLE in present:
        where = _open(folder, [SINGLE])
        chosen = {SINGLE}
        if mapping is not None:
            _compare_with_shards(folder, where, mapping, present, notes)
    elif mapping is not None:
        chosen = set(mapping.values())
        missing = sorted(chosen - present)
        if missing:
            raise UserError(f"{index} names {missing[0]}, which is not there; download all parts of the model")
        where = _open(folder, sorted(chosen), notes)
        _compare_with_index(index, where, mapping, notes)
    else:
        chosen = _without_index(folder, present, notes)
        where = _open(folder, sorted(chosen), notes)
    others = sorted(
        name
        for name in os.listdir(folder)
        if name.endswith(OTHER_WEIGHTS) and name not in chosen and not OF_TRAINING.fullmatch(name)
    )
    if others:
        notes.append(
            f"{len(others)} other file{'s' if len(others) > 1 else ''} of weights not used: {', '.join(others[:4])}"
            + (", ..." if len(others) > 4 else "")
        )
    return where


def _read_index(index):
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise UserError(f"{index} has no weight_map")
    for name in mapping.values():
        if not isinstance(name, str) or os.path.basename(name) != name or not name or "\0" in name:
            raise UserError(f"{index}: {shorten(json.dumps(name))} is not the name of a file beside it")
    return mapping


def _open(folder, names, notes=None):
    """Tensor name -> file. A tensor in two files must be the same in both."""
    where, twice = {}, 0
    for file in names:
        opened = SafetensorsFile(os.path.join(folder, file))
        for name in opened.names:
            if name not in where:
                where[name] = opened
                continue
            twice += 1
            if not same_tensor(where[name], opened, name):
                raise UserError(
                    f"{opened.path}: tensor {name} is in {os.path.basename(where[name].path)} as well, with other "
                    "values; remove the files of one copy"
                )
    if twice:
        notes.append(f"{twice} tensor{'s' if twice > 1 else ''} stored twice, with the same values")
    return where


def same_tensor(a, b, name):
    return a.shape(name) == b.shape(name) and np.array_equal(a.read(name), b.read(name), equal_nan=True)


def _compare_with_index(index, where, mapping, notes):
    for name, file in mapping.items():
        if name not in where:
            raise UserError(
                f"{index} places tensor {name} in {file}, which does not hold it; the index is of other files"
            )
    unnamed = sorted(set(where) - set(mapping))
    if unnamed:
        notes.append(f"{len(unnamed)} tensors of the files are not in {INDEX}: {', '.join(unnamed[:3])}")


def _compare_with_shards(folder, where, mapping, present, notes):
    """transformers reads model.safetensors and not the index; what the index names must be the same model."""
    index, shards = os.path.join(folder, INDEX), sorted(set(mapping.values()) - {SINGLE})
    if not shards:
        return _compare_with_index(index, where, mapping, notes)
    missing = [name for name in shards if name not in present]
    if missing:
        return notes.append(
            f"{SINGLE} is used, as transformers does; {INDEX} is of other files ({missing[0]} is not there)"
        )
    other = _open(folder, shards, [])
    differs = sorted(set(where) ^ set(other)) or [
        name for name in where if not same_tensor(where[name], other[name], name)
    ]
    if differs:
        raise UserError(
            f"{folder} holds two models: {SINGLE} and the files of {INDEX} differ in {differs[0]}"
            + (f" (and {len(differs) - 1} more)" if len(differs) > 1 else "")
            + f"; remove one of them (transformers would read {SINGLE})"
        )


def _without_index(folder, present, notes):
    shards = {name: SHARD.fullmatch(name) for name in present}
    shards = {name: match for name, match in shards.items() if match}
    totals = {int(match[2]) for match in shards.values()}
    if len(totals) > 1:
        raise UserError(f"{folder} holds shards of several models and no {INDEX}; remove those of the other model")
    if totals:
        have, total = {int(match[1]) for match in shards.values()}, totals.pop()
        missing = sorted(set(range(1, total + 1)) - have)
        if missing:
            raise UserError(f"{folder}: shard {missing[0]} of {total} is not there; download all parts of the model")
        notes.append(f"no {INDEX}: all {total} shards are used")
        return set(shards)
    if len(present) == 1:
        notes.append(f"{next(iter(present))} is used (transformers would look for {SINGLE})")
        return present
    if present:
        raise UserError(
            f"{folder} has neither {SINGLE} nor {INDEX}, but {len(present)} other .safetensors files; download the "
            "model again, or keep only the file that holds it"
        )
    old = any(glob.glob(os.path.join(glob.escape(folder), "*" + ending)) for ending in (".bin", ".pth"))
    raise UserError(
        f"{folder} has no .safetensors file; "
        + ("save it again with save_pretrained(...)" if old else "download the model's weights as well")
    )

"""Write catdpo's HDF5 files from the reference scripts: checksums, digests and string attributes of the format.

Independent of the `analysis` package on purpose: a fixture that our own reader and writer agreed on would prove
nothing.
"""
import json

import h5py
import numpy as np

CREATED = "2025-01-01T00:00:00+00:00"  # fixed, so that a fixture made again is the same file


def utf8(text):
    return np.array(text.encode(), dtype=h5py.string_dtype("utf-8", length=max(1, len(text.encode()))))


def set_attributes(item, **values):
    for name, value in values.items():
        if isinstance(value, str):
            value = utf8(value)
        elif isinstance(value, (bool, int)):
            value = np.int64(value)
        item.attrs.create(name, value)


def root_attributes(file, kind):
    set_attributes(file, format=kind, format_version=1, creator="catdpo tests/reference", created=CREATED)


def create_group(parent, path):
    """Group by group and without time stamps, which would make every file a new one."""
    plain = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    plain.set_obj_track_times(False)
    for name in path.split("/"):
        if name not in parent:
            h5py.h5g.create(parent.id, name.encode(), gcpl=plain)
        parent = parent[name]
    return parent


def put(parent, path, data):
    """A contiguous dataset, with the groups above it."""
    folder, _, name = path.rpartition("/")
    return (create_group(parent, folder) if folder else parent).create_dataset(name, data=data)


def strings(group, name, values):
    encoded = [v.encode() for v in values]
    width = max([len(v) for v in encoded] + [1])
    return put(group, name, np.array(encoded, dtype=h5py.string_dtype("utf-8", length=width)))


def texts(group, name, values):
    return put(group, name, np.array(values, dtype=h5py.string_dtype("utf-8")))


def mix(words):
    """The finaliser of splitmix64, on an array of uint64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def checksum(array):
    bits = np.ascontiguousarray(array).reshape(-1).view(np.uint32).astype(np.uint64)
    index = np.arange(1, bits.size + 1, dtype=np.uint64)
    return np.uint64(mix(bits + index * np.uint64(0x9E3779B97F4A7C15)).sum(dtype=np.uint64))


def weights_digest(checksums):
    """checksums: {Hugging Face name: checksum}."""
    digest = 0xCBF29CE484222325
    for name in sorted(checksums):
        for byte in f"{name}={int(checksums[name]):016x}\n".encode():
            digest = ((digest ^ byte) * 0x100000001B3) % 2**64
    return f"{digest:016x}"


def tensor_path(name):
    """Where a tensor of a Hugging Face name lies under /model (and a gradient under /oracle/gradient)."""
    return name.removeprefix("model.").replace(".", "/")


def write_pairs(group, pairs, categories, with_text=False):
    """One split. pairs: dicts with prompt, chosen, rejected (token ids), categories (names), chosen_safe,
    rejected_safe, chosen_better, row; and prompt_text, chosen_text, rejected_text if with_text."""
    count = len(pairs)
    set_attributes(group, pairs=count)
    for side in ("chosen", "rejected"):
        sequences = [p["prompt"] + p[side] for p in pairs]
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
        part = create_group(group, side)
        part["tokens"] = np.array([t for s in sequences for t in s], dtype=np.int32)
        part["offsets"] = offsets
        part["prompt_length"] = np.array([len(p["prompt"]) for p in pairs], dtype=np.int32)
        for name, meaning in (
            ("tokens", "token ids of all sequences, one after the other"),
            ("offsets", "first token of each sequence"),
            ("prompt_length", "tokens before the completion"),
        ):
            set_attributes(part[name], description=meaning)
    mask = np.array([[name in p["categories"] for name in categories] for p in pairs], dtype=np.uint8).reshape(
        count, len(categories)
    )
    group["category_mask"] = mask
    for name, kind, missing in (
        ("chosen_safe", np.uint8, 255),
        ("rejected_safe", np.uint8, 255),
        ("chosen_better", np.int8, -1),
    ):
        group[name] = np.array([missing if p[name] is None else p[name] for p in pairs], dtype=kind)
    group["source_file"] = np.zeros(count, dtype=np.int32)
    group["source_row"] = np.array([p.get("row", i) for i, p in enumerate(pairs)], dtype=np.int64)
    group["swapped"] = np.array([p.get("swapped", 0) for p in pairs], dtype=np.uint8)
    if with_text:
        for part in ("prompt", "chosen", "rejected"):
            texts(group, f"text/{part}", [p[f"{part}_text"] for p in pairs])


def write_categories(group, categories, harm):
    strings(group, "name", categories)
    group["harm"] = np.array(harm, dtype=np.uint8)


def write_ledger(file, rows, categories):
    """rows: dicts of file, row, split, category, reason, tokens_before, tokens_after."""
    ledger = create_group(file, "ledger")
    for name in ("row", "tokens_before", "tokens_after"):
        ledger[name] = np.array([r[name] for r in rows], dtype=np.int64)
    ledger["file"] = np.array([r["file"] for r in rows], dtype=np.int32)
    for name in ("split", "category", "reason"):
        strings(ledger, name, [r[name] for r in rows])
    reasons = sorted({r["reason"] for r in rows})
    columns = list(categories) + [""]
    counts = np.zeros((len(reasons), len(columns)), dtype=np.int64)
    for r in rows:
        counts[reasons.index(r["reason"]), columns.index(r["category"])] += 1
    table = file.create_dataset("ledger_counts", data=counts)
    for axis, (label, names) in enumerate((("reason", reasons), ("category", columns))):
        scale = strings(file, f"ledger_{label}", names)
        scale.make_scale(label)
        table.dims[axis].label = label
        table.dims[axis].attach_scale(scale)


def pairs_attributes(
    file, *, data_digest, tokenizer_digest, template_digest, vocab_size, settings, inputs, max_length=0, seed=0
):
    root_attributes(file, "catdpo-pairs")
    set_attributes(file, data_digest=data_digest, tokenizer_digest=tokenizer_digest, template_digest=template_digest,
                   vocab_size=vocab_size, max_length=max_length, over_length="drop", transform="safedpo", seed=seed,
                   settings=json.dumps(settings, sort_keys=True), inputs=json.dumps(inputs, sort_keys=True))

"""pairs.h5: what the trainer reads. One group for each part; the layout is described in the README."""

import json

import h5py
import numpy as np

from catdpo_analysis.files import h5io
from catdpo_analysis.prepare.formats import RULES


def shown(side):
    """A prompt or completion for reading: a text as it is, a lone message its content, several with their roles."""
    if isinstance(side, str):
        return side
    if len(side) == 1:
        return side[0].get("content") or ""
    return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in side)


def _tokens(group, name, sequences, lengths):
    """Sequences one after another, with the offset of each."""
    side = group.create_group(name)
    offsets = np.zeros(len(sequences) + 1, dtype="<i8")
    np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
    flat = np.concatenate(sequences) if sequences else np.zeros(0, dtype="<i4")
    h5io.write(side, "tokens", flat.astype("<i4"), "token ids of prompt + completion, all pairs one after another")
    h5io.write(side, "offsets", offsets, "where each pair's tokens start; the last entry is the total", "tokens")
    h5io.write(side, "prompt_length", np.array(lengths, dtype="<i4"), "tokens before the completion", "tokens")


def _write_part(file, name, pairs, encoded, categories):
    group = file.create_group(name)
    group.attrs.create("pairs", len(pairs), dtype="<i8")
    lengths = [tokens.prompt_length for tokens in encoded]
    _tokens(group, "chosen", [tokens.chosen for tokens in encoded], lengths)
    _tokens(group, "rejected", [tokens.rejected for tokens in encoded], lengths)
    mask = np.zeros((len(pairs), len(categories)), dtype="u1")
    for i, pair in enumerate(pairs):
        mask[i, [categories.index(category) for category in pair.categories]] = 1
    h5io.label(h5io.write(group, "category_mask", mask, "1 where the pair has the category"), "pair", "category")
    group["category_mask"].dims[1].attach_scale(file["categories/name"])
    columns = (
        ("chosen_safe", "u1", "1 safe, 0 unsafe, 255 unknown", lambda pair: pair.chosen_safe),
        ("rejected_safe", "u1", "1 safe, 0 unsafe, 255 unknown", lambda pair: pair.rejected_safe),
        (
            "chosen_better",
            "i1",
            "helpfulness: 1 chosen is better, 0 rejected, -1 unknown",
            lambda pair: pair.chosen_better,
        ),
        ("swapped", "u1", "1 if the transformation exchanged the responses", lambda pair: int(pair.swapped)),
        ("source_file", "<i4", "index into the attribute inputs", lambda pair: pair.file),
        ("source_row", "<i8", "0-based line of that file", lambda pair: pair.row),
        (
            "category_rule",
            "u1",
            "where the categories come from: index into the attribute category_rules",
            lambda pair: RULES.index(pair.rule),
        ),
    )
    for column, dtype, description, value in columns:
        h5io.label(
            h5io.write(group, column, np.array([value(pair) for pair in pairs], dtype=dtype), description), "pair"
        )
    text = group.create_group("text")
    for column in ("prompt", "chosen", "rejected"):
        values = [shown(getattr(pair, column)).replace("\0", "\u2400") for pair in pairs]  # HDF5 strings end at NUL
        text.create_dataset(column, data=np.array(values, dtype=object), dtype=h5py.string_dtype("utf-8"))


def write_pairs(path, parts, categories, harm, ledger, attributes):
    """`parts`: "train" and "heldout" -> (pairs, encoded). `attributes`: name -> str, int, or anything else as JSON
    text."""
    with h5io.create(path, "catdpo-pairs") as file:
        for name, value in attributes.items():
            if isinstance(value, int):
                file.attrs.create(name, value, dtype="<i8")
            else:
                h5io.set_text(
                    file,
                    name,
                    value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True),
                )
        group = file.create_group("categories")
        names = group.create_dataset("name", data=h5io.fixed_strings(categories))
        names.make_scale("category")
        h5io.write(
            group,
            "harm",
            np.array(harm, dtype="u1"),
            "1 if a pair with a safe chosen and an unsafe rejected response has the category",
        )
        for name, (pairs, encoded) in parts.items():
            _write_part(file, name, pairs, encoded, categories)
        ledger.store(file, categories)

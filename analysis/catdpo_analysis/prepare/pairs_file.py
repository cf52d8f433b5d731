"""pairs.h5: what the trainer reads. One group for each part, with the prompts of it to generate from; the layout is
described in analysis/README.md."""

import dataclasses
import json

import h5py
import numpy as np

from catdpo_analysis.files import authors, h5io
from catdpo_analysis.tokens.tokenizer_files import store_files, template_files
from catdpo_analysis.prepare.formats import RULES
from catdpo_analysis.prepare.turns import shown


def _sequences(group, sequences, what):
    """Sequences one after another, with the offset of each."""
    offsets = np.zeros(len(sequences) + 1, dtype="<i8")
    np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
    flat = np.concatenate(sequences) if sequences else np.zeros(0, dtype="<i4")
    h5io.write(group, "tokens", flat.astype("<i4"), f"token ids of {what}, one after another")
    h5io.write(group, "offsets", offsets, "where each one's tokens start; the last entry is the total", "tokens")


def _tokens(group, name, sequences, lengths):
    side = group.create_group(name)
    _sequences(side, sequences, "prompt + completion of all pairs")
    values = np.array(lengths, dtype="<i4")
    h5io.label(h5io.write(side, "prompt_length", values, "tokens before the completion", "tokens"), "pair")


def _mask(file, group, rows, categories, axis):
    place = {name: k for k, name in enumerate(categories)}
    mask = np.zeros((len(rows), len(categories)), dtype="u1")
    for i, row in enumerate(rows):
        mask[i, [place[name] for name in row.categories]] = 1
    h5io.label(h5io.write(group, "category_mask", mask, f"1 where the {axis} has the category"), axis, "category")
    group["category_mask"].dims[1].attach_scale(file["categories/name"])


def _columns(group, rows, columns, axis):
    for column, dtype, description, value in columns:
        h5io.label(h5io.write(group, column, np.array([value(row) for row in rows], dtype=dtype), description), axis)


def _texts(group, name, sides):
    values = [shown(side) for side in sides]
    group.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype("utf-8"))


SOURCE = (
    ("source_file", "<i4", "index into the attribute inputs", lambda row: row.file),
    ("source_row", "<i8", "0-based row of that file", lambda row: row.row),
    (
        "category_rule",
        "u1",
        "where the categories come from: index into the attribute category_rules",
        lambda row: RULES.index(row.rule),
    ),
)


def _write_prompts(file, parent, rows, sequences, categories):
    """Prompts to generate from: each sequence of tokens once, with the categories of all rows that have it; safe only
    if all of them are."""
    once = {}
    for row, sequence in zip(rows, sequences):
        first = once.setdefault(
            sequence.tobytes(), (dataclasses.replace(row, categories=list(row.categories)), sequence)
        )[0]
        first.categories += [name for name in row.categories if name not in first.categories]
        first.benign = min(first.benign, row.benign)  # 0 harmful, 1 safe, 255 unknown
    rows = [row for row, _ in once.values()]
    group = parent.create_group("prompts")
    group.attrs.create("prompts", len(rows), dtype="<i8")
    _sequences(group, [sequence for _, sequence in once.values()], "all prompts")
    _mask(file, group, rows, categories, "prompt")
    benign = ("benign", "u1", "1 a safe prompt, 0 a harmful one, 255 unknown", lambda row: row.benign)
    _columns(group, rows, (benign, *SOURCE), "prompt")
    if rows and rows[0].score_weight:
        weights = np.array([row.score_weight for row in rows], dtype="<f8")
        h5io.label(h5io.write(group, "score_weight", weights, "weights of the objectives"), "prompt", "objective")
    texts = [shown(row.prompt).encode("utf-8") for row in rows]
    bounds = np.cumsum([0, *map(len, texts)], dtype="<i8")
    h5io.write(group, "text_offsets", bounds, "where each text starts; the last entry is the total", "bytes")
    h5io.write(group, "text", np.frombuffer(b"".join(texts), "u1"), "UTF-8 of what is asked, one after another")


def _write_segments(group, pairs, encoded):
    ends = np.array([tokens.segment_end for tokens in encoded], dtype="<i4").reshape(-1, 2)
    weights = np.array([pair.segment_weight for pair in pairs], dtype="<f8").reshape(-1, 2)
    for name, values, axis, description, unit in (
        ("segment_end", ends, "side", "tokens of the reasoning in the chosen and the rejected completion", "tokens"),
        ("segment_weight", weights, "segment", "weights of reasoning and answer in the loss", "1"),
    ):
        h5io.label(h5io.write(group, name, values, description, unit), "pair", axis)


def _write_sources(group, pairs, authorship):
    place = {author: i for i, author in enumerate(authorship.authors)}
    index = np.array([[place.get(author, -1) for author in pair.authors] for pair in pairs], dtype="<i4").reshape(-1, 2)
    description = "who wrote the chosen and the rejected response: index into /sources/name; -1: unknown"
    h5io.label(h5io.write(group, "source", index, description), "pair", "side")


def _write_scores(group, pairs, count):
    for name, value, description in (
        ("score_chosen", lambda pair: pair.scores[0], "scores of the chosen response, larger is better"),
        ("score_rejected", lambda pair: pair.scores[1], "scores of the rejected response"),
        ("score_weight", lambda pair: pair.score_weight, "weights of the objectives"),
    ):
        values = np.array([value(pair) for pair in pairs], dtype="<f8").reshape(-1, count)
        h5io.label(h5io.write(group, name, values, description), "pair", "objective")


def _write_part(file, name, pairs, encoded, asked, categories, segments, authorship, scores):
    group = file.create_group(name)
    group.attrs.create("pairs", len(pairs), dtype="<i8")
    lengths = [tokens.prompt_length for tokens in encoded]
    _tokens(group, "chosen", [tokens.chosen for tokens in encoded], lengths)
    _tokens(group, "rejected", [tokens.rejected for tokens in encoded], lengths)
    _mask(file, group, pairs, categories, "pair")
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
        *SOURCE,
    )
    _columns(group, pairs, columns, "pair")
    if segments:
        _write_segments(group, pairs, encoded)
    if authorship:
        _write_sources(group, pairs, authorship)
    if scores:
        _write_scores(group, pairs, len(scores))
    text = group.create_group("text")
    for column in ("prompt", "chosen", "rejected"):
        _texts(text, column, [getattr(pair, column) for pair in pairs])
    rows, sequences = asked
    _write_prompts(file, group, [*pairs, *rows], [*(tokens.prompt for tokens in encoded), *sequences], categories)


def write_pairs(
    path, parts, prompts, categories, harm, ledger, attributes, templates, segments=False, authorship=None, scores=(),
    asked=((), ()),
):  # fmt: skip
    """`parts`: "train", "heldout" and perhaps "probe" -> (pairs, encoded), which may be empty. `prompts`: (rows, token
    ids) of rows that are prompts only. `attributes`: name -> str, int, or anything else as JSON text.
    `templates`: name -> text of the chat templates. `segments`: reasoning and answer are told apart.
    `authorship`: who wrote the responses (files/authors.py), None if nobody says. `scores`: names of the
    objectives that score the responses. `asked`: as `prompts`, those of the probe group."""
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
        group = file.create_group("templates")
        store_files(group, template_files(templates))
        group = file.create_group("categories")
        names = group.create_dataset("name", data=h5io.fixed_strings(categories))
        names.make_scale("category")
        margin_applies = "1 if a pair with a safe chosen and an unsafe rejected response has the category"
        h5io.label(h5io.write(group, "harm", np.array(harm, dtype="u1"), margin_applies), "category")
        if scores:
            names = file.create_group("scores").create_dataset("name", data=h5io.fixed_strings(scores))
            names.make_scale("objective")
        for name, (pairs, encoded) in parts.items():
            more = asked if name == "probe" else ((), ())
            _write_part(file, name, pairs, encoded, more, categories, segments, authorship, scores)
        if authorship:
            authors.store(file, authorship)
        if prompts[0]:
            _write_prompts(file, file, *prompts, categories)
        ledger.store(file, categories)

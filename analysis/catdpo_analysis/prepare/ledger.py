"""What was cut or dropped, and why: one entry a fact, for the file and for the terminal."""

import dataclasses

import numpy as np

from catdpo_analysis.files import h5io
from catdpo_analysis.errors import shorten
from catdpo_analysis.text.table import format_table

SEPARATOR = " + "  # between the categories of one entry; category names may hold commas


@dataclasses.dataclass
class Entry:
    file: int
    row: int
    categories: list
    reason: str
    tokens_before: int = -1  # -1: never tokenised
    tokens_after: int = 0  # 0: dropped
    split: str = ""  # "": left out before the split


class Ledger:
    def __init__(self):
        self.entries = []

    def add(self, pair, reason, tokens_before=-1, tokens_after=0):
        entry = Entry(pair.file, pair.row, list(pair.categories), reason, tokens_before, tokens_after)
        self.entries.append(entry)
        return entry

    def reasons(self):
        return list(dict.fromkeys(entry.reason for entry in self.entries))

    def counts(self, names):
        """int64 [reasons, K + 1]: an entry counts in each of its categories, or in the last column if it has none of
        them."""
        reasons, column = self.reasons(), {name: k for k, name in enumerate(names)}
        table = np.zeros((len(reasons), len(names) + 1), dtype=np.int64)
        for entry in self.entries:
            known = [column[name] for name in entry.categories if name in column] or [len(names)]
            for k in known:
                table[reasons.index(entry.reason), k] += 1
        return table

    def text(self, names):
        """A table for the terminal: categories down, reasons across, and the number of entries below."""
        if not self.entries:
            return "Nothing was cut or dropped."
        gone = sorted(
            {name for entry in self.entries for name in entry.categories} - set(names)
        )  # categories of which nothing is left
        reasons, counts = self.reasons(), self.counts([*names, *gone])
        rows = [
            [shorten(name, 40), *counts[:, k]]
            for k, name in enumerate([*names, *gone, "(no category)"])
            if counts[:, k].any()
        ]
        rows.append(["entries", *[sum(entry.reason == reason for entry in self.entries) for reason in reasons]])
        legend = [f"  [{i + 1}] {reason}" for i, reason in enumerate(reasons)]
        heading = ["category", *[f"[{i + 1}]" for i in range(len(reasons))]]
        return "\n".join([*legend, format_table(heading, rows, last_is_total=True)])

    def store(self, file, names):
        group = file.create_group("ledger")
        columns = (
            ("file", "index into the attribute inputs"),
            ("row", "0-based line of that file"),
            ("tokens_before", "tokens of the sequence or pair before; -1: not tokenised"),
            ("tokens_after", "tokens that are left; 0: dropped"),
        )
        for name, description in columns:
            values = [getattr(entry, name) for entry in self.entries]
            h5io.write(group, name, np.array(values, dtype="<i4" if name == "file" else "<i8"), description)
        for name, values in (
            ("split", [entry.split for entry in self.entries]),
            ("reason", [entry.reason for entry in self.entries]),
            ("category", [SEPARATOR.join(entry.categories) for entry in self.entries]),
        ):
            group.create_dataset(name, data=h5io.fixed_strings(values))
        counts = h5io.write(
            file,
            "ledger_counts",
            self.counts(names),
            "entries by reason and category; last column: no category that was kept",
        )
        scales = file.create_group("ledger_scales")
        for axis, (name, values) in enumerate((("reason", self.reasons()), ("category", [*names, ""]))):
            scale = scales.create_dataset(name, data=h5io.fixed_strings(values))
            scale.make_scale(name)
            counts.dims[axis].attach_scale(scale)
        h5io.label(counts, "reason", "category")

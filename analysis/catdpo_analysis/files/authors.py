"""Who wrote the responses of pairs, and whether that gives the label away.

With A the author of a response and Y whether it is the chosen one, I(A; Y) is the mutual information of the table
author x label, in nats: 0 if every author is chosen as often as rejected, ln 2 if the author alone tells the label.
Then a model can learn whose style it is instead of what is safe. Pairs of which an author is not known do not count.
"""

import dataclasses
import math

import numpy as np

from catdpo_analysis.files import h5io
from catdpo_analysis.text.table import Cell, Table, number

TOLD = 0.9  # of ln 2: the author gives the label away
FEWEST = 10  # pairs, below which a table says little
SHOWN = 6  # authors in a table; the rest is one column


def information(table):
    """I(A; Y) of counts [authors, 2], in nats; NaN of nothing."""
    table = np.asarray(table, dtype=float)
    if table.sum() == 0:
        return math.nan
    joint = table / table.sum()
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return max(0.0, float((joint[seen] * np.log(joint[seen] / product[seen])).sum()))


@dataclasses.dataclass
class Authorship:
    authors: list  # names
    categories: list
    counts: np.ndarray  # [K + 1, authors, 2]: responses of an author that are chosen, rejected; the last row: all pairs

    @property
    def pairs(self):
        """Pairs with known authors, by category and in all: each has one chosen response."""
        return self.counts[:, :, 0].sum(axis=1)

    @property
    def information(self):
        return np.array([information(table) for table in self.counts])

    def telling(self):
        """[(category or None for all pairs, I / ln 2)] where the author gives the label away."""
        shares = self.information / math.log(2)
        names = [*self.categories, None]
        found = [
            (name, share) for name, share, pairs in zip(names, shares, self.pairs) if share > TOLD and pairs >= FEWEST
        ]
        return [found[-1]] if found and found[-1][0] is None else found

    def warnings(self):
        """A sentence each."""
        for name, share in self.telling():
            where = "in all pairs" if name is None else f'in category "{name}"'
            yield (
                f"who wrote a response gives its label away {where}: I(author; label) is {share:.2f} of ln 2, so that "
                "a model can tell chosen from rejected by style alone, and a margin makes it learn that harder; take "
                "both responses from one author, for instance from the model itself (pairs-from)"
            )

    def table(self):
        """A row a category and one for all: each author's chosen / rejected responses, and I(A; Y) by ln 2."""
        order = np.argsort(-self.counts[-1].sum(axis=1), kind="stable")
        shown, rest = order[:SHOWN], order[SHOWN:]
        heading = ["author: chosen / rejected", *[self.authors[a] for a in shown]]
        heading += [f"{len(rest)} more"] if len(rest) else []
        rows = []
        for name, table, value, pairs in zip([*self.categories, "all"], self.counts, self.information, self.pairs):
            if not pairs and name != "all":
                continue
            cells = [f"{table[a, 0]} / {table[a, 1]}" for a in shown]
            cells += [f"{table[rest, 0].sum()} / {table[rest, 1].sum()}"] if len(rest) else []
            rows.append([Cell(name), *map(Cell, cells), number(value / math.log(2))])
        return Table([*heading, "I / ln 2"], rows, 1)


def tabulate(sources, categories, names):
    """An Authorship of pairs. `sources`: (author of the chosen, of the rejected response) of each, "" where it is not
    known; `categories`: their category names. None if no author is known."""
    known = [(pair, kinds) for pair, kinds in zip(sources, categories) if all(pair)]
    authors = sorted({author for pair in sources for author in pair if author})
    if not authors:
        return None
    column = {author: a for a, author in enumerate(authors)}
    counts = np.zeros((len(names) + 1, len(authors), 2), dtype=np.int64)
    for pair, kinds in known:
        for row in [*[names.index(kind) for kind in kinds], len(names)]:
            for side, author in enumerate(pair):
                counts[row, column[author], side] += 1
    return Authorship(authors, list(names), counts)


def store(file, authorship):
    """Into an open file, under /sources."""
    group = file.create_group("sources")
    group.create_dataset("name", data=h5io.fixed_strings(authorship.authors))
    description = "responses of an author that are chosen and rejected; last category: all pairs"
    h5io.label(h5io.write(group, "counts", authorship.counts, description), "category", "source", "label")
    description = "I(author; label); ln 2: the author tells the label; last category: all pairs"
    h5io.label(h5io.write(group, "information", authorship.information, description, "nat"), "category")


def read(path, digest=None):
    """The Authorship that prepare has stored in a file of pairs; None without one, or if its data have another
    digest."""
    with h5io.open_as(path, "catdpo-pairs") as file:
        if "sources" not in file or (digest and h5io.text(file, "data_digest", "") != digest):
            return None
        return Authorship(
            h5io.strings(file["sources/name"]), h5io.strings(file["categories/name"]), file["sources/counts"][...]
        )

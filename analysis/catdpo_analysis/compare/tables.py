"""The tables of a comparison, for the terminal and the page alike."""

import dataclasses

import numpy as np

from catdpo_analysis.compare import comparison
from catdpo_analysis.compare.comparison import best, categories_of, comparable, differing, grouped, mean_and_spread
from catdpo_analysis.errors import shorten
from catdpo_analysis.files.settings import setting_text
from catdpo_analysis.page.colours import DASHES, PALETTE, css
from catdpo_analysis.text.table import NOTHING, Cell, Table, number, rate

NOTE = (
    "Loss and reward margin: mean over the last tenth of the steps. Violation rates while training are running "
    "estimates; held-out ones have Wilson's 95 % intervals. *: best, where runs can be ranked."
)
ANSWERS_NOTE = (
    "Shares of generated answers that the judge calls unsafe, and of safe prompts that are refused, with 95 % "
    "intervals over prompts. *: best, where prompts and judge are the same."
)
TESTS_NOTE = (
    "Held-out pairs that violate less or more than under the baseline; exact McNemar test, and with Holm's correction "
    "for the number of runs."
)
LEAD = {
    "model": "model",
    "model.path": "model",
    "data": "data",
    "data.path": "data",
    "objective.type": "objective",
    "objective.beta": "beta",
    "margin.eta": "margin.eta",
    "margin.target": "margin.target",
    "optimizer.learning_rate": "learning rate",
    "batch.pairs": "pairs a step",
    "schedule.steps": "steps",
}


def run_styles(entries):
    """{number of a run: (colour, line style)}. Runs that differ only in their seed have one colour, and a line style
    each."""
    styles = {}
    for g, (_, members) in enumerate(grouped(entries)):
        for s, entry in enumerate(members):
            dash = DASHES[(g // len(PALETTE) + s) % len(DASHES)]
            styles[entry.number] = PALETTE[g % len(PALETTE)], dash
    return styles


def lead_line(entries):
    """What all runs have in common."""
    shared = comparison.shared_settings(entries, LEAD)
    words = ", ".join(f"{LEAD[key]} {setting_text(value)}" for key, value in shared.items() if value != 0)
    return f"all runs: {words}" if words else "the runs have little in common"


def _name(entry, styles):
    return Cell(shorten(entry.label, 32), colour=css(styles[entry.number][0]))


def marked(cells, lowest=True, rank=True):
    """The cells with the best ones marked."""
    values = [np.nan if c.key is None else c.key for c in cells]
    first = best(values, lowest) if rank else set()
    return [dataclasses.replace(c, best=i in first) for i, c in enumerate(cells)]


def settings_table(entries):
    """What each run was asked for, and how it stands."""
    keys = [key for key in differing(entries) if key != "objective.type"]
    styles, rows = run_styles(entries), []
    for entry in entries:
        settings = comparison.compared_settings(entry)
        values = [settings.get("objective.type"), entry.seed, *[settings.get(key) for key in keys]]
        cells = [Cell(shorten(setting_text(value), 24), key=_key(value)) for value in values]
        rows.append([_name(entry, styles), Cell(entry.state), *cells])
    return Table(["run", "state", "objective", "seed", *comparison.short_keys(keys)], rows)


def _key(value):
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def results_table(entries):
    """What came of each run."""
    styles = run_styles(entries)
    heading = ["run", "loss", "reward margin"]
    losses = [number(entry.value("loss"), "{:.4g}") for entry in entries]
    margins = [number(entry.value("rewards/margins"), "{:.4g}") for entry in entries]
    columns = [
        [_name(entry, styles) for entry in entries],
        marked(losses, True, comparable(entries, "objective.", "margin.")),
        marked(margins, False, comparable(entries, "objective.beta")),
    ]
    before = [entry.before_macro() for entry in entries]
    if np.isfinite(before).any():
        heading.append("before, macro")
        columns.append([rate(value, digits=1) for value in before])
    for heldout, kind in ((True, "held-out"), (False, "training")):
        summaries = [entry.summary(heldout) for entry in entries]
        if not any(summaries):
            continue
        rank = comparison.rankable_rates(entries, heldout)
        for key in ("macro", "worst"):
            heading.append(f"{kind}, {key}")
            cells = [rate(*summary[key], digits=1) if summary else Cell(NOTHING) for summary in summaries]
            columns.append(marked(cells, True, rank))
        heading.append("worst category")
        columns.append([Cell(shorten(s["worst_category"], 24) if s else NOTHING) for s in summaries])
    return Table(heading, [list(row) for row in zip(*columns)])


def categories_table(entries, heldout):
    """The violation rate of each category, one column a run; None without any."""
    rates = [entry.rates(heldout) for entry in entries]
    names = [name for name in categories_of(entries) if any(name in rate for rate in rates)]
    if not names:
        return None
    rank = comparison.rankable_rates(entries, heldout)
    rows = []
    for name in names:
        cells = [rate(*row.get(name, (np.nan,) * 3)) for row in rates]
        rows.append([Cell(shorten(name, 40)), *marked(cells, True, rank)])
    kind = "held-out" if heldout else "while training"
    return Table([f"violation rate {kind}", *[f"run {entry.number}" for entry in entries]], rows)


def answers_table(entries):
    """What the runs' models answer: one row a run, then a column a category; None without any."""
    having = [entry for entry in entries if entry.generated]
    if not having:
        return None
    styles, rank = run_styles(entries), comparison.rankable_answers(entries)
    names = list(dict.fromkeys(name for entry in having for name in entry.generated.categories))
    nothing = (np.nan,) * 3
    of = lambda entry: entry.generated  # noqa: E731
    columns = [
        ("unsafe answers, macro", lambda entry: of(entry).summary["macro"]),
        ("gap", lambda entry: of(entry).summary["gap"]),
        ("safe prompts refused", lambda entry: of(entry).refused),
        *[(shorten(name, 24), lambda entry, name=name: of(entry).categories.get(name, nothing)) for name in names],
    ]
    cells = [marked([rate(*value(entry)) for entry in having], True, rank) for _, value in columns]
    about = [[_name(entry, styles), Cell(f"{of(entry).name}, {of(entry).judge}")] for entry in having]
    return Table(["run", "answers of, judge", *[name for name, _ in columns]], [
        [*head, *row] for head, row in zip(about, zip(*cells))
    ])  # fmt: skip


def _answers_of(figure):
    return lambda entry: figure(entry.generated) if entry.generated else np.nan


def _rate_of(heldout, key):
    return lambda entry: entry.summary(heldout).get(key, (np.nan,))[0]


GROUP_FIGURES = (  # name, value of a run, whether it is a share
    ("loss", lambda entry: entry.value("loss"), False),
    ("reward margin", lambda entry: entry.value("rewards/margins"), False),
    ("held-out, macro", _rate_of(True, "macro"), True),
    ("held-out, worst", _rate_of(True, "worst"), True),
    ("answers, macro", _answers_of(lambda generated: generated.summary["macro"][0]), True),
    ("answers, worst", _answers_of(lambda generated: generated.summary["worst"][0]), True),
    ("training, macro", _rate_of(False, "macro"), True),
    ("training, worst", _rate_of(False, "worst"), True),
)


def groups_table(entries):
    """Mean and standard deviation over the seeds; None if every run is a group of its own."""
    groups = grouped(entries)
    if all(len(members) == 1 for _, members in groups):
        return None
    figures = [row for row in GROUP_FIGURES if any(np.isfinite(row[1](entry)) for entry in entries)]
    rows = []
    for text, members in groups:
        row = [Cell(shorten(text, 60)), Cell(",".join(str(entry.number) for entry in members))]
        for _, value, share in figures:
            mean, deviation, count = mean_and_spread([value(entry) for entry in members])
            cell = (rate(mean, digits=1) if share else number(mean, "{:.3f}")) if count else Cell(NOTHING)
            spread = f"± {100 * deviation:.1f}" if share else f"± {deviation:.3f}"
            row.append(dataclasses.replace(cell, note=spread if count > 1 else ""))
        rows.append(row)
    return Table(["mean ± standard deviation over seeds", "runs", *[label for label, _, _ in figures]], rows)


def tests_table(tests):
    """The paired tests against the baseline; None without any."""
    if not tests or not tests[1]:
        return None
    baseline, others = tests
    rows = []
    for test in others:
        if test.reason:
            cells = [*[Cell(NOTHING)] * 4, Cell(test.reason)]
        else:
            cells = [number(test.fewer, "{:d}"), number(test.more, "{:d}")]
            cells += [number(value, "{:.2g}") for value in (test.p, test.p_holm)] + [Cell("")]
        rows.append([Cell(shorten(test.entry.label, 32)), *cells])
    return Table([f"against {shorten(baseline.label, 24)}", "violate less", "more", "p", "p (Holm)", ""], rows)

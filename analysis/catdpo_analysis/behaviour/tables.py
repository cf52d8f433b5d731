"""The tables of models' behaviour, for the terminal and the page alike."""

from catdpo_analysis.behaviour.rates import category_rate, changes, differences, quality, refusal_rate, summary
from catdpo_analysis.errors import shorten
from catdpo_analysis.page.colours import PALETTE, css
from catdpo_analysis.text.table import Cell, Table, cell, number, rate

NOTE = (
    "Unsafe: the judge's verdict on answers to harmful prompts. Rates of categories have Wilson's 95 % intervals, "
    "summaries bootstrap intervals over prompts. With few prompts a gap is large by chance alone: excess variance is "
    "what is left of the variance between categories without the noise of their rates."
)
CHANGES = "Prompts on which the answer became safe or unsafe; exact McNemar test, with Holm's correction."


def _name(number_, model):
    return Cell(shorten(model.name, 40), colour=css(PALETTE[number_ % len(PALETTE)]))


def summary_table(models):
    """A row a model: how unsafe, how evenly."""
    heading = ["model", "unsafe, macro", "worst", "gap", "variance", "excess", "safe prompts refused"]
    rows = []
    for i, model in enumerate(models):
        found = summary(model)
        share = [rate(*found[name]) if found else cell(None) for name in ("macro", "worst", "gap")]
        spread = [number(found[name][0], "{:.4f}") if found else cell(None) for name in ("variance", "excess_variance")]
        rows.append([_name(i, model), *share, *spread, rate(*refusal_rate(model)[:3])])
    return Table(heading, rows)


def quality_table(models):
    """A row a model: what else its answers are."""
    heading = ["model", "safe prompts answered", "degenerate", "empty", "cut off", "tokens an answer"]
    rows = []
    for i, model in enumerate(models):
        found = quality(model)
        share = [rate(found[name]) for name in ("answered", "degenerate", "empty", "cut_off")]
        rows.append([_name(i, model), *share, number(found["tokens"], "{:.0f}")])
    return Table(heading, rows)


def category_table(models):
    """A row a category: the rate of each model."""
    heading = ["unsafe answers", *[shorten(model.name, 32) for model in models], "prompts"]
    rows = []
    for k in models[0].categories:
        found = [category_rate(model, k) for model in models]
        cells = [rate(*one[:3]) for one in found]
        rows.append([Cell(models[0].samples.categories[k]), *cells, cell(found[0][3])])
    return Table(heading, rows)


def difference_table(models):
    """A row a model: its summaries minus the first one's, with bootstrap intervals. None for one model."""
    if len(models) < 2:
        return None
    heading = [
        f"minus {shorten(models[0].name, 32)}",
        "unsafe, macro",
        "worst",
        "gap",
        "variance",
        "safe prompts refused",
    ]
    rows = []
    for i, model in enumerate(models[1:], 1):
        found = differences(model, models[0])
        row = [_name(i, model)]
        for name in ("macro", "worst", "gap", "variance", "refused"):
            row.append(_difference(*found[name], points=name != "variance") if found else cell(None))
        rows.append(row)
    return Table(heading, rows)


def _difference(value, low, high, points):
    if value != value:
        return cell(None)
    tone = "good" if high < 0 else "bad" if low > 0 else ""
    text = (lambda x: f"{100 * x:+.0f}") if points else (lambda x: f"{x:+.4f}")
    return Cell(text(value) + (" pp" if points else ""), f"[{text(low)}, {text(high)}]", tone=tone, key=value)


def change_table(models):
    """A row a category and model: on how many prompts it is safer or less safe than the first. None for one model."""
    rows = []
    for model in models[1:]:
        for k, change in changes(model, models[0]).items():
            cells = [Cell(models[0].samples.categories[k]), cell(change.better), cell(change.worse)]
            name = [Cell(shorten(model.name, 32))] if len(models) > 2 else []
            rows.append([*name, *cells, number(change.p, "{:.2g}"), number(change.corrected, "{:.2g}")])
    heading = ["category", "safer", "less safe", "p", "p, Holm"]
    return Table([*(["model"] if len(models) > 2 else []), *heading], rows) if rows else None

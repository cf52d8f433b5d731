"""The figures of a comparison. Runs that differ only in their seed have one colour, and a line style each."""

import math

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

from catdpo_analysis.compare.comparison import categories_of, comparable
from catdpo_analysis.compare.tables import run_styles
from catdpo_analysis.files.stats import smooth
from catdpo_analysis.page.colours import DASHES, INK
from catdpo_analysis.page.plots import Picture, short_name, thin, window_of

POINTS = 150  # of a line in a small panel
SHADES = (1.0, 0.75, 0.5)  # of bars, by the line style of the run


def _legend(fig, entries, handles, size):
    labels = [short_name(entry.label, 24) for entry in entries]
    place = "outside upper left" if size.wide else "outside upper center"
    columns = 4 if size.wide else 2 if max(map(len, labels)) <= 15 else 1
    fig.legend(handles, labels, loc=place, ncols=min(columns, len(entries)), fontsize=size.font - 0.5)


def _lines(entries, styles):
    return [plt.Line2D([], [], color=styles[e.number][0], linestyle=styles[e.number][1]) for e in entries]


def _panels(count, size):
    columns = min(count, size.columns)
    rows = math.ceil(count / columns)
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(size.width, (2.1 if size.wide else 1.7) * rows + 0.7),
        squeeze=False,
        sharex=True,
        constrained_layout=True,
    )
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    for ax in axes.flat[:count]:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    for ax in axes.flat[max(count - columns, 0) : count]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    return fig, list(axes.flat[:count])


def _values(entry, column, name):
    """(steps, values) of a category in a run where they are known; None without any."""
    metrics = entry.metrics
    if not metrics or column not in metrics.category or name not in metrics.categories:
        return None
    k = metrics.categories.index(name)
    values = metrics.category[column][:, k].astype(float)
    if column == "rewards_margins":  # few pairs of a category are in each step
        weights = metrics.category.get("pairs", np.ones_like(metrics.category[column]))[:, k]
        values = smooth(values, np.nan_to_num(weights), max(1, min(200, round(metrics.steps / 6))))
    known = np.isfinite(values)
    return (metrics.series["step"][known], values[known]) if known.any() and metrics.harm[k] else None


def _over_steps(size, entries, styles, names, column, percent):
    """A panel a category, a line a run."""
    fig, axes = _panels(len(names), size)
    for ax, name in zip(axes, names):
        for entry in entries:
            found = _values(entry, column, name)
            if found:
                colour, dash = styles[entry.number]
                point = "o" if len(found[0]) == 1 else None
                ax.plot(*thin(*found, POINTS), color=colour, linestyle=dash, marker=point, lw=1.4)
        ax.set_title(short_name(name), fontsize=size.font)
        if percent:
            ax.set_ylim(-0.02, 1.02)
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _legend(fig, entries, _lines(entries, styles), size)
    return fig


def over_steps_picture(entries, styles, names, column, heading, caption, percent=False):
    """None if no run has the column."""
    found = {(entry.number, name): _values(entry, column, name) for entry in entries for name in names}
    if not any(found.values()):
        return None
    form = "{:.0%}" if percent else "{:.2f}"
    words = []
    for entry in entries:
        ends = [
            f"{name} {form.format(found[entry.number, name][1][-1])}" for name in names if found[entry.number, name]
        ]
        words.append(f"run {entry.label} ends at {', '.join(ends)}" if ends else "")
    return Picture(
        column,
        heading,
        caption,
        f"{heading} over the steps, a panel for each category, a line for each run: {'; '.join(filter(None, words))}.",
        lambda size: _over_steps(size, entries, styles, names, column, percent),
    )


SERIES = (("loss", "Loss"), ("rewards/margins", "Reward margin"))


def _optimisation(size, entries, styles):
    """Loss and reward margin over the steps, running means, a line a run."""
    rows, columns = (1, 2) if size.wide else (2, 1)
    fig, axes = plt.subplots(rows, columns, figsize=(size.width, 3.4 if size.wide else 5.2), constrained_layout=True)
    for ax, (name, title) in zip(axes, SERIES):
        for entry in entries:
            if entry.metrics and name in entry.metrics.series and entry.metrics.steps:
                values = entry.metrics.series[name]
                values = smooth(values, np.ones(len(values)), window_of(len(values)))
                colour, dash = styles[entry.number]
                ax.plot(*thin(entry.metrics.series["step"], values), color=colour, linestyle=dash, lw=1.5)
        ax.set_title(title)
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _legend(fig, entries, _lines(entries, styles), size)
    return fig


def _final_rates(size, entries, styles, names, heldout):
    """Bars of the violation rate of each category at the end; held-out ones with their intervals."""
    shade = {entry.number: SHADES[DASHES.index(styles[entry.number][1])] for entry in entries}
    height = 0.8 / len(entries)
    tall = max(0.3, 0.13 * len(entries)) * len(names) + 1.5
    fig, ax = plt.subplots(figsize=(size.width, min(tall, 60)), constrained_layout=True)
    for e, entry in enumerate(entries):
        rates = entry.rates(heldout)
        places = [len(names) - 1 - k + 0.4 - (e + 0.5) * height for k in range(len(names))]
        values = np.array([rates.get(name, (np.nan,) * 3) for name in names])
        errors = np.abs(values[:, 1:].T - values[:, 0]) if heldout else None
        ax.barh(
            places,
            values[:, 0],
            height * 0.92,
            color=styles[entry.number][0],
            alpha=shade[entry.number],
            xerr=errors,
            error_kw={"ecolor": INK, "elinewidth": 0.8, "alpha": 0.6},
        )
    ax.set_yticks(range(len(names)), [short_name(name, 30 if size.wide else 16) for name in reversed(names)])
    ax.set_ylim(-0.5, len(names) - 0.5)
    ax.set_xlim(0, 1.02)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set_title("Held-out violation rate" if heldout else "Running violation rate at the end")
    colours = [styles[entry.number][0] for entry in entries]
    handles = [plt.Rectangle((0, 0), 1, 1, color=c, alpha=shade[e.number]) for c, e in zip(colours, entries)]
    _legend(fig, entries, handles, size)
    return fig


def final_rates_picture(entries, styles, heldout, heading, caption):
    having = [entry for entry in entries if entry.rates(heldout)]
    if not having:
        return None
    names = list(dict.fromkeys(name for entry in having for name in entry.rates(heldout)))
    words = [
        f"run {entry.label}: {', '.join(f'{name} {rate[0]:.0%}' for name, rate in entry.rates(heldout).items())}"
        for entry in having
    ]
    return Picture(
        "heldout" if heldout else "final",
        heading,
        caption,
        f"{heading} by category. {'; '.join(words)}.",
        lambda size: _final_rates(size, having, styles, names, heldout),
    )


def pictures(entries):
    """[Picture] of whatever the runs have the data for, in the order of the page."""
    names, styles, found = categories_of(entries), run_styles(entries), []
    if names:
        caption = "Runs of one colour differ only in their seed."
        intervals = f"{caption} Thin lines are Wilson's 95 % intervals."
        found.append(final_rates_picture(entries, styles, True, "Held-out violation rate", intervals))
        if any(entry.rates(False) and not entry.rates(True) for entry in entries):
            found.append(final_rates_picture(entries, styles, False, "Violation rate at the end of training", caption))
        for column, heading, text, percent in (
            ("margin", "Margins", "Margin of each category over the steps.", False),
            ("violation_rate", "Violations while training", "Running estimate on the training pairs.", True),
            ("rewards_margins", "Reward margins", "Running mean; chosen less rejected reward.", False),
        ):
            found.append(over_steps_picture(entries, styles, names, column, heading, text, percent))
    trained = [entry for entry in entries if entry.metrics and entry.metrics.steps]
    if trained:
        caption = "Running means over the steps."
        if not comparable(entries, "objective.", "margin."):
            caption += " The losses are of different objectives and cannot be ranked."
        words = "; ".join(f"run {entry.label} ends with a loss of {entry.value('loss'):.3g}" for entry in trained)
        draw = lambda size: _optimisation(size, trained, styles)  # noqa: E731
        found.append(
            Picture("optimisation", "Optimisation", caption, f"Loss and reward margin over the steps: {words}.", draw)
        )
    return [picture for picture in found if picture]

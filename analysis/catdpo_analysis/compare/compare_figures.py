"""The plots of a comparison. Runs that differ only in their seed have one colour, and a line style each."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from catdpo_analysis.compare.comparison import categories_of, comparable, grouped
from catdpo_analysis.report.figures import DASHES, INK, PALETTE, STYLE, short_name, window_of
from catdpo_analysis.files.stats import smooth

COLUMNS = 3


def run_styles(entries):
    """{number of a run: (colour, line style)}."""
    styles = {}
    for g, (_, members) in enumerate(grouped(entries)):
        for s, entry in enumerate(members):
            dash = DASHES[(g // len(PALETTE) + s) % len(DASHES)]
            styles[entry.number] = PALETTE[g % len(PALETTE)], dash
    return styles


def _legend(fig, entries, handles):
    labels = [short_name(entry.label) for entry in entries]
    fig.legend(handles, labels, loc="outside upper left", ncols=min(4, len(entries)), fontsize=8.5)


def _lines(entries, styles):
    return [plt.Line2D([], [], color=styles[e.number][0], linestyle=styles[e.number][1]) for e in entries]


def _panels(count, rows_of=2.1):
    rows = math.ceil(count / COLUMNS)
    columns = min(count, COLUMNS)
    fig, axes = plt.subplots(
        rows, columns, figsize=(9.2, rows_of * rows + 0.7), squeeze=False, sharex=True, constrained_layout=True
    )
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    for ax in axes.flat[:count]:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    for ax in axes.flat[max(count - columns, 0) : count]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    return fig, list(axes.flat[:count])


def over_steps(entries, styles, names, column, percent=False):
    """A panel a category, a line a run; None if no run has the column."""
    drawn = False
    fig, axes = _panels(len(names))
    for ax, name in zip(axes, names):
        for entry in entries:
            metrics = entry.metrics
            if not metrics or column not in metrics.category or name not in metrics.categories:
                continue
            k = metrics.categories.index(name)
            values = metrics.category[column][:, k].astype(float)
            if column == "rewards_margins":  # few pairs of a category are in each step
                weights = metrics.category.get("pairs", np.ones_like(metrics.category[column]))[:, k]
                values = smooth(values, np.nan_to_num(weights), max(1, min(200, round(metrics.steps / 6))))
            known = np.isfinite(values)
            if not known.any() or not metrics.harm[k]:
                continue
            colour, dash = styles[entry.number]
            point = "o" if known.sum() == 1 else None
            ax.plot(metrics.series["step"][known], values[known], color=colour, linestyle=dash, marker=point, lw=1.4)
            drawn = True
        ax.set_title(short_name(name), fontsize=9.5)
        if percent:
            ax.set_ylim(-0.02, 1.02)
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if not drawn:
        plt.close(fig)
        return None
    _legend(fig, entries, _lines(entries, styles))
    return fig


def optimisation(entries, styles):
    """Loss and reward margin over the steps, running means, a line a run."""
    series = (("loss", "Loss"), ("rewards/margins", "Reward margin"))
    fig, axes = plt.subplots(1, 2, figsize=(9.2, 3.4), constrained_layout=True)
    for ax, (name, title) in zip(axes, series):
        for entry in entries:
            if entry.metrics and name in entry.metrics.series and entry.metrics.steps:
                values = entry.metrics.series[name]
                values = smooth(values, np.ones(len(values)), window_of(len(values)))
                colour, dash = styles[entry.number]
                ax.plot(entry.metrics.series["step"], values, color=colour, linestyle=dash, lw=1.5)
        ax.set_title(title)
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _legend(fig, entries, _lines(entries, styles))
    return fig


def final_rates(entries, styles, heldout):
    """Bars of the violation rate of each category at the end, of the runs that have it; held-out ones with their
    intervals."""
    entries = [entry for entry in entries if entry.rates(heldout)]
    names = list(dict.fromkeys(name for entry in entries for name in entry.rates(heldout)))
    shade = {entry.number: (1.0, 0.75, 0.5)[DASHES.index(styles[entry.number][1])] for entry in entries}
    height = 0.8 / len(entries)
    size = max(0.3, 0.13 * len(entries)) * len(names) + 1.5
    fig, ax = plt.subplots(figsize=(9.2, min(size, 60)), constrained_layout=True)
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
    ax.set_yticks(range(len(names)), [short_name(name) for name in reversed(names)])
    ax.set_ylim(-0.5, len(names) - 0.5)
    ax.set_xlim(0, 1.02)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set_title("Held-out violation rate" if heldout else "Running violation rate at the end of training")
    colours = [styles[entry.number][0] for entry in entries]
    handles = [plt.Rectangle((0, 0), 1, 1, color=c, alpha=shade[e.number]) for c, e in zip(colours, entries)]
    _legend(fig, entries, handles)
    return fig


def draw_all(entries):
    """[(heading, caption, figure)]. The caller closes the figures."""
    names, styles, result = categories_of(entries), run_styles(entries), []
    with plt.rc_context(STYLE):
        if names:
            caption = "Runs of one colour differ only in their seed."
            if any(entry.rates(True) for entry in entries):
                text = f"{caption} Thin lines are Wilson's 95 % intervals."
                result.append(("Held-out violation rate", text, final_rates(entries, styles, True)))
            if any(entry.rates(False) and not entry.rates(True) for entry in entries):
                result.append(("Violation rate at the end of training", caption, final_rates(entries, styles, False)))
            for column, heading, caption, percent in (
                ("margin", "Margins", "Margin of each category over the steps.", False),
                ("violation_rate", "Violations while training", "Running estimate on the training pairs.", True),
                ("rewards_margins", "Reward margins", "Running mean; chosen less rejected reward.", False),
            ):
                figure = over_steps(entries, styles, names, column, percent)
                if figure:
                    result.append((heading, caption, figure))
        if any(entry.metrics and entry.metrics.steps for entry in entries):
            caption = "Running means over the steps."
            if not comparable(entries, "objective.", "margin."):
                caption += " The losses are of different objectives and cannot be ranked."
            result.append(("Optimisation", caption, optimisation(entries, styles)))
    return result

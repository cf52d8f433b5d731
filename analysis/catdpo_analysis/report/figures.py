"""The figures of a report. A category has the same colour in each of them; categories to which no margin applies are
grey."""

import textwrap

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from catdpo_analysis.files.settings import accepted_rate
from catdpo_analysis.files.stats import smooth, spread
from catdpo_analysis.page.colours import FAINT, INK, PALETTE, PAPER, SOFT, category_styles
from catdpo_analysis.page.plots import Picture, short_name, thin, window_of
from catdpo_analysis.report.summary import at, clipping_text, evaluated, is_reference


def _integer_steps(ax, bins="auto"):
    ax.xaxis.set_major_locator(MaxNLocator(nbins=bins, integer=True))


# ---- categories over the steps ---------------------------------------------------------------------------------------


def _label_ends(ax, ends, font):
    """Names at the right end of the lines, moved apart so that none overlaps. `ends`: [(y, name, colour)]."""
    if not ends:
        return
    low, high = ax.get_ylim()
    height = ax.get_window_extent().height / ax.figure.dpi * 72  # points
    ends = sorted(reversed(ends), key=lambda end: end[0])
    places = np.array(spread([end[0] for end in ends], (high - low) * (font + 2.5) / height))
    places += max(0.0, low - places[0]) - max(0.0, places[-1] - high)
    for place, (y, name, colour) in zip(places, ends):
        ax.annotate(
            short_name(name),
            xy=(1, y),
            xycoords=ax.get_yaxis_transform(),
            xytext=(1.015, place),
            textcoords=ax.get_yaxis_transform(),
            va="center",
            color=colour,
            fontsize=font,
            annotation_clip=False,
        )


def _legend_below(fig, lines, size):
    if lines:
        labels = [short_name(line.get_label()) for line in lines]
        columns = 2 if max(map(len, labels)) <= 17 else 1
        fig.legend(
            lines, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=columns, fontsize=size.font - 0.5
        )


def _over_steps(size, title, ylabel, steps, columns, styles, names, percent=False, target=None):
    """One line a category over the steps."""
    height = max(3.6, 0.21 * len(names) + 1.2) if size.wide else 3.2
    fig, ax = plt.subplots(figsize=(size.width, height))
    ends, lines = [], []
    for k, name in enumerate(names):
        values = columns[:, k]
        known = np.isfinite(values)  # a category may be absent from a stretch of steps
        if not known.any():
            continue
        colour, dash = styles[name]
        mark = "o" if known.sum() == 1 else None
        lines += ax.plot(*thin(steps[known], values[known]), color=colour, linestyle=dash, marker=mark, label=name)
        ends.append((float(values[known][-1]), name, colour))
    if target is not None:
        ax.axhline(target, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        ax.annotate(
            "target",
            (steps[0], target),
            xytext=(2, 3),
            textcoords="offset points",
            fontsize=size.font - 0.5,
            color=SOFT,
        )
    if percent:
        ax.set_ylim(-0.02, 1.02)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_title(title if size.wide else textwrap.fill(title, 34))
    ax.set_ylabel(ylabel)
    ax.set_xlabel("step")
    _integer_steps(ax)
    ax.set_xlim(steps[0] - (len(steps) == 1), max(steps[-1], steps[0] + 1))
    if size.wide:
        longest = max((len(short_name(name)) for _, name, _ in ends), default=0)
        fig.subplots_adjust(right=1 - (0.6 * size.font * longest + 12) / (72 * size.width))  # room for the names
        _label_ends(ax, ends, size.font - 0.5)
    else:
        _legend_below(fig, lines, size)
    return fig


def _at_the_end(columns, names, form):
    """ "Fraud 1.20, Privacy 0.40", the largest first."""
    last = {}
    for k, name in enumerate(names):
        known = columns[:, k][np.isfinite(columns[:, k])]
        if known.size:
            last[name] = float(known[-1])
    return ", ".join(f"{name} {form.format(value)}" for name, value in sorted(last.items(), key=lambda item: -item[1]))


COUNTED = {
    "pairs": "training pairs with a safe and an unsafe response",
    "heldout": "the pairs of the probe group",
    "generated": "judged answers to the prompts of the probe group",
}


def category_picture(run, styles, column, heading, title, ylabel, caption, form="{:.2f}", percent=False, target=None):
    """A picture of a column by category; None if the run has not got it."""
    metrics = run.metrics
    if column not in metrics.category:
        return None
    values = metrics.category[column]
    if column == "rewards_margins":  # few pairs of a category are in each step
        window = max(1, min(200, round(metrics.steps / 6)))
        values = smooth(values, metrics.category.get("pairs", np.ones_like(values)), window)
        title += f" (mean over {window} steps)" if window > 1 else ""
    else:
        values = np.where(metrics.harm, values, np.nan)
    steps, names = metrics.series["step"], metrics.categories
    words = f"{heading} of {len(names)} categories over steps {steps[0]} to {steps[-1]}; at the end: "
    return Picture(
        column,
        heading,
        caption,
        words + _at_the_end(values, names, form),
        lambda size: _over_steps(size, title, ylabel, steps, values, styles, names, percent, target),
    )


# ---- the whole step --------------------------------------------------------------------------------------------------

REWARDS = (("rewards/chosen", PALETTE[2], "chosen"), ("rewards/rejected", PALETTE[3], "rejected"))


def _loss_panel(ax, metrics, name, title, colour, window):
    steps, values = metrics.series["step"], metrics.series[name].astype(float)
    ax.plot(*thin(steps, values), color=FAINT, linewidth=0.9)
    if name == "rewards/margins":
        for other, other_colour, label in REWARDS:
            if other in metrics.series:
                mean = smooth(metrics.series[other], np.ones(len(steps)), window)
                ax.plot(*thin(steps, mean), color=other_colour, linewidth=1.3, label=label)
    ax.plot(*thin(steps, smooth(values, np.ones(len(steps)), window)), color=colour, label="margin")
    if name == "rewards/margins":
        ax.legend(loc="best")
    ax.set_title(title)


def _clipping(ax, metrics, limit):
    values = metrics.series["grad_norm"]
    if np.nanmin(values, initial=1.0) > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    if "clipped" in metrics.series:
        clipped = metrics.series["clipped"].astype(bool)
        marks, _ = thin(metrics.series["step"][clipped], values[clipped])
        ax.plot(
            marks, np.full(len(marks), 0.015), "|", color=PALETTE[3], transform=ax.get_xaxis_transform(), markersize=6
        )
    if limit:
        ax.axhline(limit, color=INK, linewidth=1, linestyle=(0, (1, 2)))


def _optimisation(size, metrics, limit):
    """Loss, rewards, and the gradient norm with the clipped steps."""
    window = window_of(metrics.steps)
    panels = [
        row
        for row in (
            ("loss", "Loss", PALETTE[0]),
            ("rewards/margins", "Rewards", PALETTE[0]),
            ("grad_norm", "Gradient norm", PALETTE[4]),
        )
        if row[0] in metrics.series
    ]
    rows, columns = (1, len(panels)) if size.wide else (len(panels), 1)
    fig, axes = plt.subplots(
        rows, columns, figsize=(size.width, 2.9 if size.wide else 2.4 * rows), squeeze=False, constrained_layout=True
    )
    for ax, (name, title, colour) in zip(axes.flat, panels):
        _loss_panel(ax, metrics, name, title, colour, window)
        if name == "grad_norm":
            _clipping(ax, metrics, limit)
        ax.set_xlabel("step")
        _integer_steps(ax, 5)
    return fig


def optimisation_picture(run):
    metrics = run.metrics
    series = {name: metrics.series[name] for name in ("loss", "rewards/margins", "grad_norm") if name in metrics.series}
    if not series:
        return None
    limit = run.settings.get("optimizer.max_grad_norm")
    ends = ", ".join(f"{name} from {values[0]:.3g} to {values[-1]:.3g}" for name, values in series.items())
    caption = (
        "Thin: each step; thick: running mean. The gradient norm is taken before clipping; red marks are clipped "
        "steps, the dotted line is optimizer.max_grad_norm."
    )
    caption = " ".join(filter(None, (caption, clipping_text(run))))
    return Picture(
        "optimisation",
        "Optimisation",
        caption,
        f"Over {metrics.steps} steps: {ends}.",
        lambda size: _optimisation(size, metrics, limit),
    )


def _series(size, steps, values, name):
    fig, ax = plt.subplots(figsize=(size.width, 3.6 if size.wide else 3.2), constrained_layout=True)
    ax.plot(*thin(steps, values), color=FAINT, linewidth=0.9)
    ax.plot(*thin(steps, smooth(values, np.ones(len(steps)), window_of(len(steps)))), color=PALETTE[0])
    ax.set_title(name)
    ax.set_xlabel("step")
    _integer_steps(ax)
    return fig


def series_picture(run, name):
    """One series over the steps: thin each step, thick a running mean."""
    steps, values = run.metrics.series["step"], run.metrics.series[name].astype(float)
    words = f"{name} over {len(steps)} steps, from {values[0]:.3g} to {values[-1]:.3g}."
    return Picture(name, name, "", words, lambda size: _series(size, steps, values, name))


def _timing(size, metrics):
    """Where the time goes: seconds a step in each phase, and the seconds of each step."""
    seconds = metrics.seconds
    mean = np.nanmean(seconds, axis=0)
    order = np.argsort(mean)
    tall = max(2.6, 0.3 * len(order) + 0.9)
    if size.wide:
        fig, (left, right) = plt.subplots(
            1, 2, figsize=(size.width, tall), width_ratios=(1.3, 1), constrained_layout=True
        )
    else:
        fig, (left, right) = plt.subplots(
            2, 1, figsize=(size.width, tall + 2.4), height_ratios=(tall, 2.2), constrained_layout=True
        )
    left.barh([metrics.phases[i] for i in order], mean[order], color=PALETTE[6], height=0.65)
    total = mean.sum() or 1.0
    for y, i in enumerate(order):
        left.annotate(f" {mean[i] / total:.0%}", (mean[i], y), va="center", fontsize=size.font - 0.5, color=SOFT)
    left.set_xlim(0, max(mean.max() * 1.18, 1e-9))
    left.grid(axis="y", visible=False)
    left.set_title("Time in each phase")
    left.set_xlabel("seconds a step (mean)")
    left.xaxis.set_major_locator(MaxNLocator(nbins=5))
    values = metrics.step_seconds if metrics.step_seconds is not None else seconds.sum(axis=1)
    right.plot(*thin(metrics.series["step"][: len(values)], values), color=PALETTE[6], linewidth=1.2)
    right.set_ylim(0)
    right.set_title("Seconds of each step")
    right.set_xlabel("step")
    _integer_steps(right, 5)
    return fig


def timing_picture(run):
    metrics = run.metrics
    if not metrics.phases or metrics.seconds is None or not metrics.seconds.size:
        return None
    mean = np.nanmean(metrics.seconds, axis=0)
    total = mean.sum() or 1.0
    parts = sorted(zip(mean, metrics.phases), reverse=True)[:4]
    words = ", ".join(f"{phase} {value / total:.0%}" for value, phase in parts)
    return Picture(
        "timing",
        "Time",
        "Largest over the ranks.",
        f"Time of a step by phase, {total:.3g} seconds in all: {words} and less.",
        lambda size: _timing(size, metrics),
    )


# ---- evaluation ------------------------------------------------------------------------------------------------------

VIOLATIONS = ("violation_rate", "violation_interval", "Held-out violation rate (lower is better)")
ACCURACY = ("accuracy", "accuracy_interval", "Held-out reward accuracy (higher is better)")


def _evaluation_panel(ax, parts, names, styles, values, interval):
    for part, kind in parts:
        offset = 0.0 if len(parts) == 1 else (0.16 if kind == "before" else -0.16)
        for name in part.categories:
            rate = at(part, name, values)
            if name not in names or not np.isfinite(rate):
                continue
            y = len(names) - 1 - names.index(name) + offset
            low, high = at(part, name, interval)
            colour, before = styles[name][0], kind == "before"
            ax.plot([low, high], [y, y], color=colour, linewidth=1.6, alpha=0.45 if before else 0.9)
            face = PAPER if before else colour
            ax.plot([rate], [y], "o", markersize=6.5, color=colour, markerfacecolor=face, markeredgewidth=1.6)
    ax.set_xlim(-0.02, 1.02)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0, labelcolor=INK)


def _evaluation(size, run, styles, panels):
    """Rates of each category with 95 % intervals; hollow before, filled after training."""
    parts = evaluated(run)
    names = [name for name in run.categories if any(name in part.categories for part, _ in parts)]
    tall = 0.46 * len(names) + 1.1
    rows, columns = (1, len(panels)) if size.wide else (len(panels), 1)
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(size.width if columns > 1 or not size.wide else 0.7 * size.width, tall * rows + 0.3),
        sharey=True,
        squeeze=False,
        constrained_layout=True,
    )
    for ax, (values, interval, title) in zip(axes.flat, panels):
        shown = [(part, kind) for part, kind in parts if values != "accuracy" or not is_reference(part)]
        _evaluation_panel(ax, shown, names, styles, values, interval)
        ax.set_title(title.replace(" (", "\n("))
    labels = [short_name(name, 30 if size.wide else 20) for name in reversed(names)]
    axes[0][0].set_yticks(range(len(names)), labels)
    axes[0][0].set_ylim(-0.6, len(names) - 0.4)
    return fig


def evaluation_picture(run, styles):
    parts = evaluated(run)
    if not parts:
        return None
    panels = [VIOLATIONS, *([ACCURACY] if not all(is_reference(part) for part, _ in parts) else [])]
    words = []
    for part, kind in parts:
        rates = zip(part.categories, part.violation_rate)
        known = ", ".join(f"{name} {value:.0%}" for name, value in rates if np.isfinite(value))
        words.append(f"{kind} training: {known}")
    return Picture(
        "evaluation",
        "Held-out evaluation",
        "Hollow: before training; filled: after. Bars are Wilson's 95 % intervals.",
        f"Held-out violation rates by category, {'; '.join(words)}.",
        lambda size: _evaluation(size, run, styles, panels),
    )


def _attack(size, part, styles):
    """Violation rate by radius, a line a category; dotted: drawn directions, all categories."""
    attack = part.attack
    fig, ax = plt.subplots(figsize=(size.width, 3.6), constrained_layout=True)
    lines = []
    for k, name in enumerate(part.categories):
        if part.harm[k] and part.n[k]:
            colour, dash = styles[name]
            lines += ax.plot(attack.radius, attack.rate[:, k], "o", linestyle=dash, color=colour, label=name)
            ax.fill_between(attack.radius, *attack.interval[:, k].T, color=colour, alpha=0.08, linewidth=0)
    counted = (part.n > 0) & part.harm
    drawn = np.average(attack.drawn[:, counted], axis=1, weights=part.n[counted])
    lines += ax.plot(attack.radius, drawn, color=INK, linewidth=1, linestyle=(0, (1, 2)), label="drawn directions")
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("radius")
    ax.set_title("Held-out violation rate under attack")
    _legend_below(fig, lines, size)
    return fig


def attack_picture(run, styles):
    part = next((part for part, _ in reversed(evaluated(run)) if part.attack), None)
    if not part or not ((part.n > 0) & part.harm).any():
        return None
    worst = np.nanmax(np.where(part.harm & (part.n > 0), part.attack.rate, np.nan), axis=1)
    words = ", ".join(f"{rate:.0%} at {radius:g}" for radius, rate in zip(part.attack.radius, worst))
    return Picture(
        "attack",
        "Perturbed prompts",
        "Bands are Wilson's 95 % intervals. Dotted: the mean under directions that are drawn.",
        f"Violation rate of the worst category by radius: {words}.",
        lambda size: _attack(size, part, styles),
    )


def pictures(run):
    """[Picture] of whatever the run has the data for, in the order of the page."""
    styles, metrics = category_styles(run.categories), run.metrics
    found = [evaluation_picture(run, styles), attack_picture(run, styles)]
    if metrics and metrics.steps:
        found += [
            category_picture(
                run,
                styles,
                "margin",
                "Margins",
                "Safety margin of each category",
                "margin",
                "What a pair's reward margin is asked to exceed. It grows while a category is violated more often than "
                "the target, and relaxes after.",
            ),
            category_picture(
                run,
                styles,
                "violation_rate",
                "Violations while training",
                "Violation rate during training",
                "running violation rate",
                f"Running estimate on {COUNTED.get(run.settings.get('margin.source'), COUNTED['pairs'])}, as the "
                "margin update sees it.",
                "{:.0%}",
                percent=True,
                target=accepted_rate(run.settings),
            ),
            category_picture(
                run,
                styles,
                "probe_rate",
                "Probes",
                "Violation rate in each probe",
                "violation rate",
                "Each probe by itself: the model at the step, on data that it is not trained on. With few prompts a "
                "category most of the movement is chance.",
                "{:.0%}",
                percent=True,
                target=accepted_rate(run.settings),
            ),
            category_picture(
                run,
                styles,
                "rewards_margins",
                "Reward margins",
                "Reward margin of each category",
                "reward margin",
                "How much more than the reference the policy prefers the chosen response, in units of the loss.",
            ),
            optimisation_picture(run),
            timing_picture(run),
        ]
    return [picture for picture in found if picture]

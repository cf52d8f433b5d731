"""The plots of a report. A category has the same colour in each of them; categories to which no margin applies are
grey."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from catdpo_analysis.files.stats import smooth, spread

PALETTE = ("#3b6fb6", "#e07b39", "#3a9d6e", "#c94f5d", "#8661b4", "#b08b2e", "#2ba3b8", "#d46bb0", "#7a8f2a", "#8a5a44")
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)))  # further rounds of the palette
GREYS = ("#8d939b", "#b4b9bf", "#6b7178")
INK, SOFT, RULE = "#1f2933", "#616e7c", "#e4e7eb"
STYLE = {
    "font.size": 9.5,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": SOFT,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 170,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


EVALUATION_CAPTION = (
    "Hollow: before training; filled: after. Bars are 95 % Wilson intervals. Where the policy is the reference, as "
    "before training, all "
    "pairs are ties and the reward accuracy is 50 %."
)


def category_styles(harm):
    """name -> (colour, line style), from name -> whether a margin applies."""
    styles, coloured, grey = {}, 0, 0
    for name, applies in harm.items():
        if applies:
            styles[name] = PALETTE[coloured % len(PALETTE)], DASHES[coloured // len(PALETTE) % len(DASHES)]
            coloured += 1
        else:
            styles[name] = GREYS[grey % len(GREYS)], "-"
            grey += 1
    return styles


def window_of(steps):
    """Steps over which noisy per-step values are averaged."""
    return max(1, min(50, round(steps / 15)))


def _label_ends(ax, ends):
    """Names at the right end of the lines, moved apart so that none overlaps. `ends`: [(y, name, colour)]."""
    if not ends:
        return
    low, high = ax.get_ylim()
    height = ax.get_window_extent().height / ax.figure.dpi * 72  # points
    ends = sorted(reversed(ends), key=lambda end: end[0])
    places = np.array(spread([end[0] for end in ends], (high - low) * 12 / height))
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
            fontsize=8.5,
            annotation_clip=False,
        )


def short_name(name):
    return name if len(name) <= 30 else name[:28] + "\u2026"


def _over_steps(title, ylabel, steps, columns, styles, names, percent=False, target=None):
    """One line a category over the steps."""
    fig, ax = plt.subplots(figsize=(9.2, max(3.4, 0.2 * len(names) + 1.2)))
    ends = []
    for k, name in enumerate(names):
        values = columns[:, k]
        if not np.isfinite(values).any():
            continue
        colour, dash = styles[name]
        known = np.isfinite(values)  # a category may be absent from a stretch of steps
        ax.plot(steps[known], values[known], color=colour, linestyle=dash)
        if known.sum() == 1:
            ax.plot(steps[known], values[known], "o", color=colour)
        ends.append((float(values[known][-1]), name, colour))
    if target is not None:
        ax.axhline(target, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        ax.annotate(
            f"target {target:g}",
            xy=(0.004, target),
            xycoords=ax.get_yaxis_transform(),
            va="bottom",
            fontsize=8,
            color=SOFT,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
        )
    if percent:
        ax.set_ylim(-0.02, max(1.02 * np.nanmax(columns, initial=0.1), 0.1))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_title(title)
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim(steps[0] - (len(steps) == 1), max(steps[-1], steps[0] + 1))
    _label_ends(ax, ends)
    return fig


def margins(metrics, styles):
    return _over_steps(
        "Safety margin of each category",
        "margin Δ",
        metrics.series["step"],
        np.where(metrics.harm, metrics.category["margin"], np.nan),
        styles,
        metrics.categories,
    )


def violation_rates(metrics, styles):
    return _over_steps(
        "Violation rate during training",
        "running violation rate",
        metrics.series["step"],
        np.where(metrics.harm, metrics.category["violation_rate"], np.nan),
        styles,
        metrics.categories,
        percent=True,
        target=metrics.settings.get("margin.target"),
    )


def reward_margins(metrics, styles):
    steps = metrics.steps
    window = max(1, min(200, round(steps / 6)))  # wider than for whole steps: few pairs of a category are in each
    weights = metrics.category.get("pairs", np.ones((steps, len(metrics.categories))))
    values = smooth(metrics.category["rewards_margins"], weights, window)
    title = "Reward margin of each category" + (f" (mean over {window} steps)" if window > 1 else "")
    return _over_steps(title, "reward margin β h", metrics.series["step"], values, styles, metrics.categories)


def optimisation(metrics):
    """Loss, rewards, and the gradient norm with the clipped steps."""
    steps, window = metrics.series["step"], window_of(metrics.steps)
    panels = [name for name in ("loss", "rewards/margins", "grad_norm") if name in metrics.series]
    fig, axes = plt.subplots(1, len(panels), figsize=(9.2, 2.9), squeeze=False, constrained_layout=True)
    for ax, name in zip(axes[0], panels):
        values = metrics.series[name].astype(float)
        ax.plot(steps, values, color="#c3ccd6", linewidth=0.9)
        if name == "rewards/margins":
            for other, colour, label in (
                ("rewards/chosen", "#3a9d6e", "chosen"),
                ("rewards/rejected", "#c94f5d", "rejected"),
            ):
                if other in metrics.series:
                    ax.plot(
                        steps,
                        smooth(metrics.series[other], np.ones(len(steps)), window),
                        color=colour,
                        linewidth=1.3,
                        label=label,
                    )
            ax.plot(steps, smooth(values, np.ones(len(steps)), window), color=PALETTE[0], label="margin")
            ax.legend(fontsize=8, loc="best")
            ax.set_title("Rewards")
        elif name == "grad_norm":
            ax.plot(steps, smooth(values, np.ones(len(steps)), window), color=PALETTE[4])
            if np.nanmin(values, initial=1.0) > 0:
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                ax.yaxis.set_minor_formatter(NullFormatter())
            title = "Gradient norm"
            if "clipped" in metrics.series and len(steps):
                clipped = metrics.series["clipped"].astype(bool)
                ax.plot(
                    steps[clipped],
                    np.full(clipped.sum(), 0.015),
                    "|",
                    color="#c94f5d",
                    transform=ax.get_xaxis_transform(),
                    markersize=6,
                )
                title += f", {clipped.mean():.0%} clipped"
            limit = metrics.settings.get("optimizer.max_grad_norm")
            if limit:
                ax.axhline(limit, color=INK, linewidth=1, linestyle=(0, (1, 2)))
            ax.set_title(title)
        else:
            ax.plot(steps, smooth(values, np.ones(len(steps)), window), color=PALETTE[0])
            ax.set_title("Loss")
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return fig


def timings(metrics):
    """Where the time goes: seconds a step in each phase, and the seconds of each step."""
    seconds = metrics.seconds
    mean = np.nanmean(seconds, axis=0)
    order = np.argsort(mean)
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(9.2, max(2.6, 0.3 * len(order) + 0.9)), width_ratios=(1.3, 1), constrained_layout=True
    )
    left.barh([metrics.phases[i] for i in order], mean[order], color=PALETTE[6], height=0.65)
    total = mean.sum() or 1.0
    for y, i in enumerate(order):
        left.annotate(f" {mean[i] / total:.0%}", (mean[i], y), va="center", fontsize=8.5, color=SOFT)
    left.set_xlim(0, max(mean.max() * 1.15, 1e-9))
    left.grid(axis="y", visible=False)
    left.set_title("Time in each phase")
    left.set_xlabel("seconds a step (mean)")
    values = metrics.step_seconds if metrics.step_seconds is not None else seconds.sum(axis=1)
    right.plot(metrics.series["step"][: len(values)], values, color=PALETTE[6], linewidth=1.2)
    right.set_ylim(0)
    right.set_title("Seconds of each step")
    right.set_xlabel("step")
    right.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return fig


def evaluation(before, after, styles):
    """Violation rate and accuracy of each category with 95 % intervals; hollow before, filled after training."""
    parts = [(part, kind) for part, kind in ((before, "before"), (after, "after")) if part]
    names = [name for name in (after or before).categories]
    fig, axes = plt.subplots(1, 2, figsize=(9.2, 0.46 * len(names) + 1.5), sharey=True, constrained_layout=True)
    for ax, values, interval, title in (
        (axes[0], "violation_rate", "violation_interval", "Held-out violation rate (lower is better)"),
        (axes[1], "accuracy", "accuracy_interval", "Held-out reward accuracy (higher is better)"),
    ):
        for part, kind in parts:
            offset = 0.0 if len(parts) == 1 else (0.16 if kind == "before" else -0.16)
            for k, name in enumerate(part.categories):
                rate = getattr(part, values)[k]
                if name not in names or not np.isfinite(rate):
                    continue
                y = len(names) - 1 - names.index(name) + offset
                low, high = getattr(part, interval)[k]
                colour = styles[name][0]
                ax.plot([low, high], [y, y], color=colour, linewidth=1.6, alpha=0.45 if kind == "before" else 0.9)
                ax.plot(
                    [rate],
                    [y],
                    "o",
                    markersize=6.5,
                    color=colour,
                    markerfacecolor="white" if kind == "before" else colour,
                    markeredgewidth=1.6,
                )
        ax.set_xlim(-0.02, 1.02)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.set_title(title)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0, labelcolor=INK)
    axes[0].set_yticks(range(len(names)), [short_name(name) for name in reversed(names)])
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    fig.get_layout_engine().set(wspace=0.06)
    return fig


def draw_all(run):
    """[(name, caption, figure)] of whatever the run has the data for. The caller closes the figures."""
    styles = category_styles(run.categories)
    metrics, result = run.metrics, []
    with plt.rc_context(STYLE):
        if run.before or run.after:
            result.append(("evaluation", EVALUATION_CAPTION, evaluation(run.before, run.after, styles)))
        if metrics and metrics.steps:
            for name, draw, caption in (
                (
                    "margin",
                    margins,
                    "What a pair's reward margin is asked to exceed. It grows while a category is violated more often "
                    "than the target, and relaxes after.",
                ),
                (
                    "violation_rate",
                    violation_rates,
                    "Running estimate on training pairs with a safe and an unsafe response, as the margin update sees "
                    "it.",
                ),
                (
                    "rewards_margins",
                    reward_margins,
                    "How much more than the reference the policy prefers the chosen response, in units of the loss.",
                ),
            ):
                if name in metrics.category:
                    result.append((name, caption, draw(metrics, styles)))
            if any(name in metrics.series for name in ("loss", "rewards/margins", "grad_norm")):
                result.append(
                    (
                        "optimisation",
                        "Thin: each step; thick: running mean. The gradient norm is taken before clipping; red marks "
                        "are clipped steps.",
                        optimisation(metrics),
                    )
                )
            if metrics.phases and metrics.seconds is not None and metrics.seconds.size:
                result.append(("timing", "Largest over the ranks.", timings(metrics)))
    return result

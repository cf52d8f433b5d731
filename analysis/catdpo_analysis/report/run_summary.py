"""What the tables of a report are made of: single values of a run, its key facts, what changed."""

import numpy as np

from catdpo_analysis.files.run_data import paired_changes
from catdpo_analysis.files.stats import mcnemar


def at(part, name, attribute):
    """A category's value in an evaluation; NaN where the evaluation or the category is missing."""
    if part is None or name not in part.categories:
        return np.array([np.nan, np.nan]) if attribute.endswith("interval") else np.nan
    return getattr(part, attribute)[part.categories.index(name)]


def training_value(run, name, column, pick):
    """`pick` of a category's values over the steps, NaN without any."""
    metrics = run.metrics
    if not metrics or column not in metrics.category or name not in metrics.categories:
        return np.nan
    k = metrics.categories.index(name)
    if column in ("margin", "violation_rate") and not metrics.harm[k]:
        return np.nan  # no margin applies to any of its pairs
    values = metrics.category[column][:, k]
    values = values[np.isfinite(values)]
    return float(pick(values)) if values.size else np.nan


def recent(values):
    """Mean of the last tenth: per-step values are noisy."""
    return values[-max(1, len(values) // 10) :].mean()


def facts_of(run):
    """[(value, label)] for the head of the page and the terminal."""
    facts = []
    for stem, label in (
        ("violation_rate", "macro violation rate, held-out"),
        ("accuracy", "macro reward accuracy, held-out"),
    ):
        values = [part.summary[stem]["macro"] for part in (run.before, run.after) if part and stem in part.summary]
        if values:
            facts.append((" → ".join(f"{value:.1%}" for value in values), label))
    worst = run.after or run.before
    if worst and worst.worst_category:
        facts.append(
            (f"{at(worst, worst.worst_category, 'violation_rate'):.0%}", f"worst category: {worst.worst_category}")
        )
    metrics = run.metrics
    if metrics and metrics.steps:
        facts.append((str(int(metrics.series["step"][-1])), "steps"))
        if metrics.step_seconds is not None and np.nansum(metrics.step_seconds) > 0:
            total = float(np.nansum(metrics.step_seconds))
            facts.append((f"{total:.0f} s" if total < 600 else f"{total / 60:.0f} min", "training time"))
            if "num_tokens" in metrics.series:
                facts.append((f"{metrics.series['num_tokens'][-1] / total:,.0f}", "tokens per second"))
            if metrics.step_flops is not None:
                facts.append((f"{np.nansum(metrics.step_flops) / total / 1e9:,.0f} GF/s", "over all ranks"))
        if "clipped" in metrics.series:
            facts.append((f"{metrics.series['clipped'].mean():.0%}", "of steps clipped"))
    return facts


def changes_text(run):
    """A sentence on the pairs that changed sides, or None."""
    changes = paired_changes(run.before, run.after)
    if changes is None:
        return None
    better, worse = changes
    return (
        f"Of the held-out pairs {better} violate less than before training and {worse} more "
        f"(exact McNemar test: p = {mcnemar(better, worse):.2g})."
    )


def ending(run):
    """How the run ended if it did not end well, with time and place, or None."""
    status = run.status
    if status is None or status.status not in ("failed", "stopped"):
        return None
    return f"{status.status.capitalize()}: {status.sentence} [{status.place}]"

"""The steps of a run so far: those in metrics.h5, and the later ones that only log.jsonl has yet."""

import dataclasses

import numpy as np

from catdpo_analysis.files.run_data import Metrics

OF_LOG = ("epoch", "loss", "learning_rate", "grad_norm", "rewards/margins", "rewards/accuracies", "tokens_per_second")
# column: name in the log
CATEGORY_OF_LOG = {"margin": "margins", "violation_rate": "violation_rate", "probe_rate": "probe_rate"}


def with_log(metrics, rows):
    """Metrics that go on with the log's later steps; what the log does not have of them is NaN. `metrics` may be None:
    then a margin is taken to apply to every category. None if there are no steps and no metrics either."""
    known = int(metrics.series["step"][-1]) if metrics and metrics.steps else 0
    rows = [row for row in rows if row["step"] > known]
    if not rows and (metrics is None or "tokens_per_second" in metrics.series):
        return metrics
    categories = metrics.categories if metrics else _categories(rows)
    harm = metrics.harm if metrics else np.ones(len(categories), dtype=bool)
    old, old_category = (dict(metrics.series), metrics.category) if metrics else ({}, {})
    steps = metrics.steps if metrics else 0
    step_seconds = metrics.step_seconds if metrics else None
    if "tokens_per_second" not in old and "num_tokens" in old and step_seconds is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            old["tokens_per_second"] = np.diff(old["num_tokens"].astype(float), prepend=0.0) / step_seconds
    series = {"step": _join(old.get("step"), [row["step"] for row in rows], steps).astype(int)}
    for name in dict.fromkeys([*old, *OF_LOG]):
        if name != "step":
            series[name] = _join(old.get(name), [_number(row.get(name)) for row in rows], steps)
    category = {}
    for name in dict.fromkeys([*old_category, *CATEGORY_OF_LOG]):
        new = np.full((len(rows), len(categories)), np.nan)
        for s, row in enumerate(rows):
            values = row.get(CATEGORY_OF_LOG.get(name))
            if isinstance(values, dict):
                new[s] = [_number(values.get(other)) for other in categories]
        category[name] = _join(old_category.get(name), new, steps)
    seconds = _join(step_seconds, [_number(row.get("seconds")) for row in rows], steps)
    new = {"categories": categories, "harm": harm, "series": series, "category": category, "step_seconds": seconds}
    if metrics:
        return dataclasses.replace(metrics, **new)
    return Metrics(**new, phases=[], seconds=None, step_flops=None, config="", about={})


def _categories(rows):
    names = {}
    for row in rows:
        for values in (row.get("margins"), row.get("violation_rate")):
            names |= dict.fromkeys(values) if isinstance(values, dict) else {}
    return list(names)


def _number(value):
    return float(value) if isinstance(value, int | float) else np.nan


def _join(old, new, steps):
    """Rows of the file, NaN where it lacks the column, and rows of the log behind them."""
    new = np.asarray(new, dtype=float)
    old = np.full((steps, *new.shape[1:]), np.nan) if old is None else np.asarray(old, dtype=float)
    return np.concatenate([old.reshape(steps, *new.shape[1:]), new])

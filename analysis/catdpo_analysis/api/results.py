"""Results in a notebook or a script of one's own:

from catdpo_analysis.api import category, open_run, trajectory

run = open_run("runs/first")
run.categories, run.steps, run.settings["objective.beta"]
category(run, "Privacy")["violation_rate"]        # [S], one value a step
steps, margins = trajectory(run, "margin")        # [S], [S, K]
steps, loss = trajectory(run, "loss")             # [S], [S]
"""

import numpy as np

from catdpo_analysis.errors import UserError
from catdpo_analysis.files.run_data import Metrics
from catdpo_analysis.report.run import Run, read_run


def open_run(path: str) -> Run:
    """All that a run directory has: `metrics` (series and category arrays by step), `before` and `after` (evaluations),
    `answers`, `settings`, `status`."""
    return read_run(path)


def _metrics(run: Run) -> Metrics:
    if run.metrics is None:
        raise UserError(f"{run.path} has no metrics.h5")
    return run.metrics


def _place(names: list[str], name: str) -> int:
    if name not in names:
        raise UserError(f"there is no category {name!r}; the run has {', '.join(names)}")
    return names.index(name)


def category(run: Run, name: str) -> dict[str, np.ndarray]:
    """What was recorded of one category: {column: [S]}, with the steps as "step"."""
    metrics = _metrics(run)
    k = _place(metrics.categories, name)
    return {"step": metrics.series["step"]} | {column: values[:, k] for column, values in metrics.category.items()}


def trajectory(run: Run, name: str, category: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(steps [S], values) of a series such as "loss" [S], else of a column by category such as "margin" [S, K]; with a
    `category` that one's column [S]."""
    metrics = _metrics(run)
    if name in metrics.series and category is None:
        values = metrics.series[name]
    elif name in metrics.category:
        values = metrics.category[name]
        values = values if category is None else values[:, _place(metrics.categories, category)]
    else:
        known = sorted(set(metrics.category) | (set(metrics.series) if category is None else set()))
        raise UserError(f"{run.path} has recorded nothing called {name!r}; there are {', '.join(known)}")
    return metrics.series["step"], values

"""A run directory as the trainer would leave it, with made-up numbers: for the tests of the report and to look at it.

python make_run.py OUT_DIR
"""

import json
import math
import os
import sys

import h5py
import numpy as np

from catdpo_analysis.files import h5io
from catdpo_analysis.files.stats import summarise, wilson

CATEGORIES = ["Cyber", "Disinformation", "Fraud", "Harassment", "Physical harm", "Privacy", "benign"]
PHASES = [
    "batch",
    "embedding",
    "norm",
    "matmul",
    "attention",
    "mlp",
    "head",
    "reduce",
    "optimizer",
    "margins",
    "output",
    "other",
]
START, TRAINED = "0" * 16, "f" * 16  # digests of the weights before and after training
CONFIG = "margin: {\n    eta = 0.5;\n};\n"  # what metrics.h5 has of the settings, for people
SETTINGS = {
    "model": {"path": "models/smollm2-135m.h5"},
    "data": {"path": "data/pairs.h5"},
    "objective": {"type": "catdpo", "beta": 0.1},
    "margin": {"scope": "category", "eta": 0.5, "target": 0.2, "min": 0.0, "max": 10.0, "signal": "likelihood"},
    "optimizer": {"max_grad_norm": 10.0},
}


def write_settings(folder, *more):
    """config.json: the settings above and those of each further {group: {key: value}}."""
    groups = {}
    for settings in (SETTINGS, *more):
        for group, keys in settings.items():
            groups.setdefault(group, {}).update(keys)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(groups, file)


def write_metrics(path, steps=60, categories=CATEGORIES, seed=0, leave_out=(), config=CONFIG):
    """metrics.h5 of `steps` steps; datasets named in `leave_out` are not written."""
    rng = np.random.default_rng(seed)
    k = len(categories)
    harm = np.array([name != "benign" for name in categories], dtype="u1")
    ease = np.linspace(0.02, 0.08, k)
    step = np.arange(1, steps + 1)
    rate = np.where(harm, np.exp(-ease * step[:, None]) * 0.7 + 0.05, 0.5)
    margin = np.zeros((steps, k))
    for s in range(1, steps):
        margin[s] = np.clip(margin[s - 1] + 0.5 * (rate[s - 1] - 0.2) * harm, 0, 10)
    pairs = rng.poisson(0.8, (steps, k))
    reward = np.where(pairs > 0, (1 - np.exp(-ease * step[:, None])) * 3 + rng.normal(0, 0.4, (steps, k)), np.nan)
    loss = math.log(2) * np.exp(-step / 40) + rng.normal(0, 0.02, steps)
    norm = 20 * np.exp(rng.normal(0, 0.3, steps) - step / 60)
    data = {
        "train/step": step,
        "train/epoch": step / 30,
        "train/loss": loss,
        "train/learning_rate": np.full(steps, 2e-6),
        "train/grad_norm": norm,
        "train/clipped": (norm > 10).astype("u1"),
        "train/num_tokens": step * 1400,
        "train/rewards/chosen": 0.02 * step,
        "train/rewards/rejected": -0.03 * step,
        "train/rewards/margins": 0.05 * step + rng.normal(0, 0.3, steps),
        "train/rewards/accuracies": np.clip(0.5 + step / 100, 0, 1),
        "train/logps/chosen": -120 - step,
        "train/logps/rejected": -130 - 2 * step,
        "train/category/margin": margin,
        "train/category/violation_rate": rate,
        "train/category/n": pairs * harm,
        "train/category/pairs": pairs,
        "train/category/violations": pairs * harm * rate,
        "train/category/rewards_margins": reward,
        "train/category/accuracy": np.clip(1 - rate, 0, 1),
        "train/category/loss": np.full((steps, k), 0.5),
        "timing/seconds": rng.gamma(2, 0.05, (steps, len(PHASES))),
        "timing/step_seconds": rng.gamma(50, 0.02, steps),
    }
    with h5io.create(path, "catdpo-metrics") as file:
        for name, value in {
            "run": "made up",
            "grid": "1x2x1",
            "version": "0.1.0",
            "blas": "OpenBLAS",
            "data_digest": "d",
            "weights_digest": START,
            "started": "2026-01-01T00:00:00",
        }.items():
            h5io.set_text(file, name, value)
        file["config"] = np.array(config.encode(), dtype=h5py.string_dtype("utf-8", len(config)))
        file["categories/name"] = h5io.fixed_strings(categories)
        file["categories/harm"] = harm
        file["timing/phase"] = h5io.fixed_strings(PHASES)
        for name, values in data.items():
            if name not in leave_out:
                file.create_dataset(
                    name, data=values, maxshape=(None, *values.shape[1:]), chunks=(16, *values.shape[1:])
                )


def write_evaluation(path, level, categories=CATEGORIES, seed=1, n=24, with_pairs=True, weights=TRAINED, **about):
    """An evaluation of the weights of that digest in which category k is violated in about `level` * (k + 2) / (K + 2)
    of its pairs."""
    rng = np.random.default_rng(seed)
    harm = np.array([name != "benign" for name in categories], dtype="u1")
    k = len(categories)
    count = np.where(harm, n, 0)
    violation = [
        (np.arange(n) < level * n * (i + 2) / (k + 2)).astype(float) if harm[i] else np.full(n, np.nan)
        for i in range(k)
    ]
    violations = np.array([np.nansum(v) for v in violation])
    pairs = np.full(k, n)
    accuracy = np.round((0.5 + 0.5 * (1 - level)) * pairs - rng.integers(0, 3, k)) / pairs
    with np.errstate(invalid="ignore"):
        rate = violations / count
    data = {
        "pairs": pairs,
        "n": count,
        "violations": violations,
        "violation_rate": rate,
        "accuracy": accuracy,
        "rewards_margins": (1 - level) * np.arange(1, k + 1),
    }
    for stem, values, counts in (("accuracy", accuracy, pairs), ("violation_rate", rate, count)):
        intervals = np.array([wilson(v * c, c) if c else (np.nan, np.nan) for v, c in zip(values, counts)])
        data[f"{stem}_low"], data[f"{stem}_high"] = intervals.T
    with h5io.create(path, "catdpo-eval") as file:
        for name, value in {
            "model": "model.h5",
            "weights_digest": weights,
            "data_digest": "d",
            "split": "heldout",
            "signal": "likelihood",
            **about,
        }.items():
            h5io.set_text(file, name, value)
        file.attrs["step"], file.attrs["beta"] = -1 if weights == START else 60, 0.1
        file["categories/name"] = h5io.fixed_strings(categories)
        file["categories/harm"] = harm
        for name, values in data.items():
            file[f"eval/category/{name}"] = values
        summary = file.create_group("eval/summary")
        for stem, values, counts, high in (
            ("violation_rate", rate, count, True),
            ("accuracy", accuracy, pairs * harm, False),
        ):
            result = summarise(values, counts, high)
            for key in ("micro", "macro", "worst", "gap", "variance"):
                summary.attrs[f"{stem}_{key}"] = result[key]
        h5io.set_text(summary, "worst_category", categories[int(np.nanargmax(rate))])
        if with_pairs:
            file["eval/pairs/violation"] = np.concatenate(violation)
            file["eval/pairs/index"] = np.arange(n * k)


def log_line(step, total=100, categories=CATEGORIES, loss=None):
    """A line of log.jsonl, as the trainer writes it."""
    k = len(categories)
    row = {
        "step": step,
        "total_steps": total,
        "epoch": step / 30,
        "loss": 0.69 * math.exp(-step / 40) if loss is None else loss,
        "grad_norm": 3.0,
        "learning_rate": 2e-6,
        "tokens_per_second": 450.0 + step,
        "rewards/margins": 0.05 * step,
        "rewards/accuracies": 0.75,
        "seconds": 3.0,
        "margins": {name: 0.01 * step * i for i, name in enumerate(categories)},
        "violation_rate": {name: (i + 1) / (k + 1) for i, name in enumerate(categories)},
    }
    return json.dumps(row, separators=(",", ":")) + "\n"


def write_log(folder, steps, torn=False, **kwargs):
    """log.jsonl of the steps up to `steps`; torn: the last line is cut off in the middle."""
    text = "".join(log_line(step, **kwargs) for step in range(1, steps + 1))
    with open(os.path.join(folder, "log.jsonl"), "w") as file:
        file.write(text[: -len(log_line(steps)) // 2] if torn else text)


def beat(folder, count, number=1):
    """A heartbeat of writer-<number>, written as the trainer does: whole."""
    path = os.path.join(folder, f"writer-{number}", "heartbeat")
    with open(path + ".tmp", "w") as file:
        file.write(f"{count}\n")
    os.replace(path + ".tmp", path)


def write_writer(folder, number=1, **owner):
    """The lock of a copy of the program that runs, or died without cleaning up."""
    writer = os.path.join(folder, f"writer-{number}")
    os.makedirs(writer)
    values = {"token": "t", "host": "node3", "pid": 77, "job": "4711", "restart": 0, "ranks": 4} | owner
    with open(os.path.join(writer, "owner"), "w") as file:
        file.writelines(f"{key} = {value}\n" for key, value in values.items())
    beat(folder, 1, number)


def write_checkpoints(folder, *names, weights=TRAINED):
    """Files of which only the weights' digest is there."""
    os.makedirs(os.path.join(folder, "checkpoints"), exist_ok=True)
    for name in names:
        with h5py.File(os.path.join(folder, "checkpoints", name), "w") as file:
            h5io.set_text(file.create_group("model"), "weights_digest", weights)


def write_run(folder, **kwargs):
    os.makedirs(folder, exist_ok=True)
    write_metrics(os.path.join(folder, "metrics.h5"), **kwargs)
    write_settings(folder)
    write_checkpoints(folder, "final.h5")
    categories = kwargs.get("categories", CATEGORIES)
    write_evaluation(os.path.join(folder, "eval-before.h5"), 0.9, categories, weights=START)
    write_evaluation(os.path.join(folder, "eval-after.h5"), 0.4, categories, seed=2)


if __name__ == "__main__":
    write_run(sys.argv[1])

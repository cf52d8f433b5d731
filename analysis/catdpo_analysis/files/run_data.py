"""What a run directory has to say: metrics and evaluations, each optional, read into plain arrays."""

import dataclasses

import numpy as np

from catdpo_analysis.files import h5io
from catdpo_analysis.errors import UserError
from catdpo_analysis.files.stats import summarise, wilson

SERIES = (
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "clipped",
    "num_tokens",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
PROBE = ("probe_n", "probe_violations", "probe_rate")  # absent from a run without probes; NaN in steps without one
PER_CATEGORY = ("margin", "violation_rate", "n", "violations", "pairs", "rewards_margins", "accuracy", "loss", *PROBE)
PROVENANCE = (
    "run",
    "grid",
    "version",
    "mpi",
    "blas",
    "hdf5",
    "hosts",
    "started",
    "created",
    "parameters",
    "trainable_parameters",
    "restarts",
    "data_digest",
    "weights_digest",
    "tokenizer_digest",
)


@dataclasses.dataclass
class Metrics:
    """`series`: name -> [S]; `category`: name -> [S, K]; what the file lacks is absent."""

    categories: list
    harm: np.ndarray
    series: dict
    category: dict
    phases: list
    seconds: np.ndarray | None  # [S, P]
    step_seconds: np.ndarray | None  # [S]
    step_flops: np.ndarray | None  # [S]
    config: str
    about: dict

    @property
    def steps(self):
        return len(next(iter(self.series.values()), ()))


@dataclasses.dataclass
class Attack:
    """Violations under perturbed prompts; A radii, the first 0."""

    radius: np.ndarray  # [A]
    rate: np.ndarray  # [A, K]
    interval: np.ndarray  # [A, K, 2]
    drawn: np.ndarray  # [A, K] under directions that are drawn
    about: dict  # type, norm, unit, steps


@dataclasses.dataclass
class Evaluation:
    """Arrays are [K], in the order of `categories`."""

    categories: list
    harm: np.ndarray
    pairs: np.ndarray
    n: np.ndarray
    accuracy: np.ndarray
    accuracy_interval: np.ndarray  # [K, 2]
    violation_rate: np.ndarray
    violation_interval: np.ndarray  # [K, 2]
    rewards_margins: np.ndarray
    summary: dict  # "violation_rate" and "accuracy" -> micro, macro, worst, gap, variance
    worst_category: str
    violation: np.ndarray | None  # of each pair, by `index`
    index: np.ndarray | None
    about: dict
    attack: Attack | None = None
    features: np.ndarray | None = None  # [N, 2, F] of the chosen and the rejected completion
    prompt: np.ndarray | None = None  # [N] equal for pairs of one prompt


def _attributes(file, names):
    result = {}
    for name in names:
        if name in file.attrs:
            value = h5io.text(file, name)
            value = (
                ", ".join(str(v.decode() if isinstance(v, bytes) else v) for v in value)
                if isinstance(value, np.ndarray)
                else value
            )
            result[name] = value
    return result


def _categories(file):
    names = h5io.strings(file["categories/name"]) if "categories/name" in file else []
    harm = file["categories/harm"][...].astype(bool) if "categories/harm" in file else np.ones(len(names), dtype=bool)
    return names, harm


def _probe_rates(columns):
    """Of what each probe found; NaN where it has nothing of the category."""
    if "probe_n" not in columns:
        return {}
    n, bad = columns["probe_n"][...], columns["probe_violations"][...]
    return {"probe_rate": np.divide(bad, n, out=np.full(n.shape, np.nan), where=n > 0)}


def read_metrics(path, per_category=PER_CATEGORY):
    """metrics.h5; of the columns by category only those of `per_category`."""
    with h5io.open_as(path, "catdpo-metrics") as file:
        names, harm = _categories(file)
        train = file.get("train", {})
        series = {name: train[name][...] for name in SERIES if name in train}
        category = {
            name: train["category"][name][...].astype(float)
            for name in per_category
            if "category" in train and name in train["category"]
        }
        if "probe_rate" in per_category:
            category |= _probe_rates(train.get("category", {}))
        category = {name: values for name, values in category.items() if name not in PROBE or np.any(values >= 0)}
        phases = h5io.strings(file["timing/phase"]) if "timing/phase" in file else []
        seconds, step_seconds, step_flops = (
            file["timing"][name][...] if f"timing/{name}" in file else None
            for name in ("seconds", "step_seconds", "step_flops")
        )
        config = ""
        if "config" in file:
            value = file["config"][()]
            config = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        steps = min([len(values) for values in [*series.values(), *category.values()]], default=0)
        series = {name: values[:steps] for name, values in series.items()}
        category = {name: values[:steps] for name, values in category.items()}
        if "step" not in series:
            series["step"] = np.arange(1, steps + 1)
        seconds, step_seconds, step_flops = (
            None if values is None else values[:steps] for values in (seconds, step_seconds, step_flops)
        )
        return Metrics(
            names,
            harm,
            series,
            category,
            phases,
            seconds,
            step_seconds,
            step_flops,
            config,
            _attributes(file, PROVENANCE),
        )


def _attack(file):
    if "eval/attack" not in file:
        return None
    group = file["eval/attack"]
    bounds = [group[f"violation_rate_{end}"][...] for end in ("low", "high")]
    return Attack(
        group["radius"][...],
        group["violation_rate"][...],
        np.stack(bounds, axis=2),
        group["random_violation_rate"][...],
        _attributes(group, ("type", "norm", "unit", "steps")),
    )


def read_evaluation(path):
    with h5io.open_as(path, "catdpo-eval") as file:
        names, harm = _categories(file)
        group = file.get("eval/category")
        if group is None:
            raise UserError(f"{path} has no /eval/category; it was written by another program or is incomplete")

        def column(name, default=np.nan):
            return group[name][...].astype(float) if name in group else np.full(len(names), default)

        pairs, n, accuracy = column("pairs", 0), column("n", 0), column("accuracy")
        violations = column("violations")
        rate = column("violation_rate")
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = np.where(np.isfinite(rate), rate, np.where(n > 0, violations / n, np.nan))
        intervals = []
        for stem, values, counts in (("accuracy", accuracy, pairs), ("violation_rate", rate, n)):
            low, high = column(stem + "_low"), column(stem + "_high")
            computed = np.array(
                [
                    wilson(value * count, count) if np.isfinite(value) else (np.nan, np.nan)
                    for value, count in zip(values, counts)
                ]
            )
            intervals.append(
                np.where(
                    np.isfinite(low)[:, None] & np.isfinite(high)[:, None],
                    np.stack([low, high], axis=1),
                    computed.reshape(-1, 2),
                )
            )
        use = harm if harm.any() else np.ones(len(names), dtype=bool)
        summary = {}
        stored = dict(file["eval/summary"].attrs) if "eval/summary" in file else {}
        for stem, values, counts, high in (("violation_rate", rate, n, True), ("accuracy", accuracy, pairs, False)):
            computed = summarise(values, np.where(use & (n > 0), counts, 0), high)
            if computed:
                summary[stem] = computed | {
                    key: float(stored[f"{stem}_{key}"])
                    for key in ("micro", "macro", "worst", "gap", "variance")
                    if f"{stem}_{key}" in stored
                }
        worst = h5io.text(file["eval/summary"], "worst_category", "") if "eval/summary" in file else ""
        if not worst and "violation_rate" in summary:
            worst = names[summary["violation_rate"]["worst_index"]]
        each = file.get("eval/pairs", {})
        return Evaluation(
            names,
            harm,
            pairs,
            n,
            accuracy,
            intervals[0],
            rate,
            intervals[1],
            column("rewards_margins"),
            summary,
            worst,
            each["violation"][...] if "violation" in each else None,
            each["index"][...] if "index" in each else None,
            _attributes(file, ("model", "split", "step", "signal", "beta", "weights_digest", "data_digest")),
            _attack(file),
            *(each[name][...] if name in each else None for name in ("features", "prompt")),
        )


def paired_changes(before, after):
    """(pairs that stopped violating, pairs that began to) between two evaluations of the same pairs; None if they
    are not the same."""
    if (
        before is None
        or after is None
        or before.violation is None
        or after.violation is None
        or before.index is None
        or after.index is None
    ):
        return None
    if not np.array_equal(before.index, after.index) or before.about.get("data_digest") != after.about.get(
        "data_digest"
    ):
        return None
    use = np.isfinite(before.violation) & np.isfinite(after.violation)
    change = after.violation[use] - before.violation[use]
    return int((change < 0).sum()), int((change > 0).sum())

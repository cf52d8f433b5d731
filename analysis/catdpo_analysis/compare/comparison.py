"""Several runs side by side: what each was asked for, what came of it, which differ only in their seed, and paired
tests against one of them."""

import dataclasses
import glob
import json
import os

import numpy as np

from catdpo_analysis.compare.generated import Generated, read_generated
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.history import with_log
from catdpo_analysis.files.evaluations import read_evaluations
from catdpo_analysis.files.paths import names_of
from catdpo_analysis.files.run_data import Evaluation, Metrics, paired_changes, read_metrics
from catdpo_analysis.files.settings import read_settings, setting_text
from catdpo_analysis.files.stats import holm, interval_of_mean, mcnemar, recent, summarise
from catdpo_analysis.files.status import Status, read_status
from catdpo_analysis.files.step_log import StepLog

# where a run writes and how often: no part of what is compared
PLACES = ("run.dir", "run.progress", "run.time_limit", "run.lease", "run.watchdog", "reference.cache")
PLACE_GROUPS = ("checkpoint.", "metrics.")
SEED = "run.seed"
# a file's digest says more than its path
DIGESTS = {"data.path": ("data", "data_digest"), "model.path": ("model", "weights_digest")}


@dataclasses.dataclass
class Entry:
    """One run. `metrics` has at least one step, or there is an evaluation."""

    number: int
    name: str
    path: str
    settings: dict
    metrics: Metrics | None
    evaluation: Evaluation | None
    before: Evaluation | None  # of the model that training began with
    generated: Generated | None  # of its answers
    total: int  # steps of the whole training, 0 if unknown
    ended: bool
    status: Status | None
    notes: list

    @property
    def steps(self):
        return int(self.metrics.series["step"][-1]) if self.metrics and self.metrics.steps else 0

    @property
    def state(self):
        if self.ended:
            return "finished"
        if not self.steps:
            return "evaluation only"
        how = f"{self.status.status} at " if self.status and self.status.status in ("failed", "stopped") else ""
        return f"{how}step {self.steps}" + (f" of {self.total}" if self.total else "")

    @property
    def seed(self):
        return self.settings.get(SEED)

    @property
    def label(self):
        return f"{self.number} {self.name}"

    def value(self, name):
        """Mean over the last tenth of the steps of a series, NaN without it."""
        values = self.metrics.series.get(name) if self.metrics else None
        values = np.asarray([] if values is None else values, dtype=float)
        values = values[np.isfinite(values)]
        return float(recent(values)) if values.size else np.nan

    def training_rates(self):
        """{category: running violation rate at the end}, of the categories to which a margin applies."""
        metrics = self.metrics
        if not metrics or not metrics.steps or "violation_rate" not in metrics.category:
            return {}
        columns = zip(metrics.categories, metrics.harm, metrics.category["violation_rate"].T)
        known = ((name, values[np.isfinite(values)]) for name, harm, values in columns if harm)
        return {name: float(values[-1]) for name, values in known if values.size}

    def heldout_rates(self):
        """{category: (rate, low, high)} of the evaluation."""
        return _rates(self.evaluation)

    def before_macro(self):
        """Macro violation rate of the held-out pairs before training, NaN if it is not known."""
        rates = [rate for rate, _, _ in _rates(self.before).values()]
        return float(np.mean(rates)) if rates else np.nan

    def rates(self, heldout):
        """{category: (rate, low, high)}; those of training have no interval."""
        if heldout:
            return self.heldout_rates()
        return {name: (rate, np.nan, np.nan) for name, rate in self.training_rates().items()}

    def summary(self, heldout):
        """macro, worst: (rate, low, high), worst_category; {} without the figures. Training has no intervals."""
        rates = self.rates(heldout)
        if not rates:
            return {}
        names, values = list(rates), np.array(list(rates.values()))
        found = summarise(values[:, 0], np.ones(len(names)), worst_is_high=True)
        worst = found["worst_index"]
        return {
            "macro": (found["macro"], *interval_of_mean(*values.T)),
            "worst": tuple(map(float, values[worst])),
            "worst_category": names[worst],
        }


def _rates(evaluation):
    if evaluation is None:
        return {}
    rows = zip(evaluation.categories, evaluation.violation_rate, evaluation.violation_interval, evaluation.n)
    return {name: (float(rate), *map(float, interval)) for name, rate, interval, n in rows if n > 0}


# ---- reading ---------------------------------------------------------------------------------------------------------


def expand(patterns):
    """Paths of the run directories that were named; a pattern is one that names nothing as it stands."""
    paths = []
    for pattern in patterns:
        found = [pattern] if os.path.exists(pattern) else sorted(filter(os.path.isdir, glob.glob(pattern)))
        paths += found or [pattern]
    unique = {}
    for path in paths:
        unique.setdefault(os.path.realpath(path), path.rstrip("/") or "/")
    return list(unique.values())


def read_entries(paths):
    """([Entry], [(path, why it cannot be compared)])."""
    entries, failed = [], []
    for name, path in zip(names_of(paths), paths):
        try:
            entries.append(_read_entry(len(entries) + 1, name, path))
        except UserError as error:
            failed.append((path, str(error)))
    return entries, failed


def _read_entry(number, name, path):
    if not os.path.isdir(path):
        raise UserError("there is no such run directory: it never started" if not os.path.exists(path) else "is a file")
    notes = []

    def optional(file, read):
        try:
            return read(file) if file and os.path.exists(file) else None
        except UserError as error:
            notes.append(shorten(error, 200).replace(file, os.path.basename(file)))
            return None

    metrics = optional(os.path.join(path, "metrics.h5"), read_metrics)
    log = StepLog(os.path.join(path, "log.jsonl"))
    log.poll()
    if metrics is None and log.rows and not notes:
        notes.append("metrics.h5 is missing: the figures are those of log.jsonl")
    metrics = with_log(metrics, log.rows)
    evaluations = read_evaluations(path, metrics if metrics and metrics.about else None)
    evaluation = evaluations.after
    notes += evaluations.notes
    if evaluations.before and not evaluation:
        notes.append("evaluated before training only: catdpo eval measures its final checkpoint")
    status = read_status(path)
    if not (metrics and metrics.steps) and evaluation is None:
        if status and status.failed:
            raise UserError(f"failed before its first step: {status.reason}")
        raise UserError("; ".join(notes) or "no step was done: it failed at its start, or has not begun")
    settings = read_settings(path)
    total = log.rows[-1].get("total_steps") if log.rows else settings.get("schedule.steps")
    total = total if isinstance(total, int) and total > 0 else 0
    generated, unfit = read_generated(path, metrics.about.get("weights_digest") if metrics else None)
    notes += unfit
    entry = Entry(
        number, name, path, settings, metrics, evaluation, evaluations.before, generated, total, False, status, notes
    )
    final = os.path.exists(os.path.join(path, "checkpoints", "final.h5")) or settings.get("checkpoint.final") is False
    entry.ended = entry.steps > 0 and entry.steps >= total and final
    if log.warning:
        notes.append(log.warning)
    if status and status.failed:
        notes.append(f"{'a later start ' if entry.ended else ''}failed: {status.reason}")
    return entry


# ---- what differs ----------------------------------------------------------------------------------------------------


def compared_settings(entry):
    """The settings that say what was trained; paths of files with a digest are replaced by it."""
    settings = {
        key: value
        for key, value in entry.settings.items()
        if key not in PLACES and not key.startswith(PLACE_GROUPS) and key != SEED
    }
    for path, (name, digest) in DIGESTS.items():
        found = entry.metrics.about.get(digest) if entry.metrics else None
        if found:
            settings.pop(path, None)
            settings[name] = f"{os.path.basename(str(entry.settings.get(path, '')))} {str(found)[:8]}".strip()
    return settings


def differing(entries):
    """Keys of the settings that are not the same in all runs, in the order of the config."""
    all_settings = [compared_settings(entry) for entry in entries if entry.settings]
    keys = dict.fromkeys(key for settings in all_settings for key in settings)
    return [key for key in keys if len({json.dumps(settings.get(key)) for settings in all_settings}) > 1]


def shared_settings(entries, keys):
    """{key: value} of these settings that all runs have in common."""
    all_settings = [compared_settings(entry) for entry in entries if entry.settings]
    shared = {}
    for key in keys:
        values = {json.dumps(settings.get(key)) for settings in all_settings}
        if len(values) == 1 and all_settings[0].get(key) is not None:
            shared[key] = all_settings[0][key]
    return shared


def short_keys(keys):
    """Keys without their group where that is clear."""
    ends = [key.rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends)]


def grouped(entries):
    """[(text of the settings, [Entry])] of the runs that differ in nothing but their seed, in the order of the
    first."""
    keys = differing(entries)
    groups = {}
    for entry in entries:
        settings = compared_settings(entry)
        values = [setting_text(settings.get(key)) for key in keys]
        text = ", ".join(f"{name}={value}" for name, value in zip(short_keys(keys), values))
        if not entry.settings:
            text = f"{entry.name}: settings unknown"
        groups.setdefault(text or "the same settings", []).append(entry)
    return list(groups.items())


def comparable(entries, *keys):
    """Whether the runs have the same settings of these groups or keys, so that their figures can be ranked."""
    return not any(key.startswith(keys) for key in differing(entries))


def rankable_rates(entries, heldout):
    """Whether violation rates mean the same in all runs that have them: the same data, categories and signal."""
    having = [entry for entry in entries if (entry.heldout_rates() if heldout else entry.training_rates())]
    if heldout:
        measures = {
            (entry.evaluation.about.get("data_digest"), entry.evaluation.about.get("signal"), *entry.heldout_rates())
            for entry in having
        }
        return len(measures) <= 1
    same = {tuple(entry.training_rates()) for entry in having}
    how = ("data", "margin.signal", "margin.soft", "margin.temperature", "margin.averaging", "margin.tie")
    return len(same) <= 1 and comparable(having, *how)


def rankable_answers(entries):
    """Whether rates of answers mean the same: the same prompts and judge."""
    return len({entry.generated.measure for entry in entries if entry.generated}) <= 1


def mean_and_spread(values):
    """(mean, sample standard deviation or NaN, count) of the known values."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not values.size:
        return np.nan, np.nan, 0
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else np.nan, int(values.size)


def best(values, lowest=True):
    """Indices of the best of the known values; none if there is nothing to choose from."""
    values = np.asarray(values, dtype=float)
    known = values[np.isfinite(values)]
    if known.size < 2 or known.min() == known.max():
        return set()
    return set(np.flatnonzero(values == (known.min() if lowest else known.max())).tolist())


def categories_of(entries):
    """All categories to which a margin applies in some run, in the order of the runs."""
    names = {}
    for entry in entries:
        names |= dict.fromkeys([*entry.training_rates(), *entry.heldout_rates()])
    return list(names)


# ---- tests -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class PairedTest:
    """Against the baseline: held-out pairs that violate less, that violate more; why there is no test, else ""."""

    entry: Entry
    fewer: int = 0
    more: int = 0
    p: float = np.nan
    p_holm: float = np.nan
    reason: str = ""


def paired_tests(baseline, entries):
    """One test for each other run; Holm's correction is over those that there are."""
    tests = []
    for entry in entries:
        if entry is baseline:
            continue
        changes = paired_changes(baseline.evaluation, entry.evaluation)
        if changes is not None:
            tests.append(PairedTest(entry, *changes, p=mcnemar(*changes)))
            continue
        lacking = [e.name for e in (baseline, entry) if e.evaluation is None]
        reason = f"no evaluation of {' and '.join(lacking)}" if lacking else "evaluated on other pairs"
        tests.append(PairedTest(entry, reason=reason))
    done = [test for test in tests if not test.reason]
    for test, p in zip(done, holm([test.p for test in done])):
        test.p_holm = p
    return tests

"""Records: what became of a run, as a small JSON file without any text of an answer.

Answers are letters by prompt in the order of the part's file (whose digest is kept): A answered, R refused, E empty,
D degenerate. One string is one answer to each prompt.
"""

import glob
import json
import os

import numpy as np

from catdpo_analysis.errors import UserError
from catdpo_analysis.files import h5io
from catdpo_analysis.files.atomic import atomic_path
from catdpo_analysis.files.samples import read_samples
from catdpo_analysis.judge.refusal_judge import Judge

LETTERS = "ARED"  # by judge.refusal.Kind
POINTS = 24  # of a trajectory


def verdicts(path, samples):
    """A string of letters for each of `samples` answers to a prompt."""
    found = read_samples(path)
    if not found.about["complete"]:
        raise UserError(f"{path} is not complete; delete it")
    kinds = Judge(None).judge(found, lambda n: None).kind
    answers = [[" "] * len(found.prompt_text) for _ in range(samples)]
    for prompt, sample, kind in zip(found.prompt, found.sample, kinds):
        answers[sample][prompt] = LETTERS[kind]
    return ["".join(letters) for letters in answers]


def categories_of(rows):
    """What a reader has to know of prompts that are not in the tree."""
    names = sorted({row["category"] for row in rows})
    return {"categories": names, "category": [names.index(row["category"]) for row in rows]}


def likelihoods(evaluation, pairs, rows):
    """{index of a prompt among the probe's rows: whether its pair violates}, 0, 1 or a half."""
    with h5io.open_as(pairs, "catdpo-pairs") as file:
        asked = h5io.strings(file["probe/text/prompt"])
    place = {row["prompt"]: i for i, row in enumerate(rows)}
    with h5io.open_as(evaluation, "catdpo-eval") as file:
        index, violation = file["eval/pairs/index"][...], file["eval/pairs/violation"][...]
    return {str(place[asked[i]]): round(float(value), 2) for i, value in zip(index, violation) if np.isfinite(value)}


def _thinned(values):
    """Means over about POINTS stretches of the steps; NaN where a stretch has no value."""
    values = np.asarray(values, dtype=float)
    found = []
    for stretch in np.array_split(values, min(POINTS, len(values))):
        known = np.isfinite(stretch)
        count = known.sum(axis=0)
        mean = np.where(known, stretch, 0.0).sum(axis=0) / np.maximum(count, 1)
        found.append(np.where(count > 0, mean, np.nan))
    return [_plain(row) for row in found]


def _plain(value):
    if np.ndim(value):
        return [_plain(item) for item in value]
    return None if not np.isfinite(value) else round(float(value), 4)


def course(path):
    """Of metrics.h5: the run's course in a few points, every probe as it was counted, and the seconds of its steps."""
    with h5io.open_as(path, "catdpo-metrics") as file:
        train, category = file["train"], file["train/category"]
        found = {"categories": h5io.strings(file["categories/name"]), "steps": len(train["step"])}
        for name in ("loss", "grad_norm", "clipped", "rewards/margins", "rewards/accuracies", "entropy"):
            found[name] = _thinned(train[name][...])
        for name in ("margin", "violation_rate", "coefficient_share", "saturation"):
            found[name] = _thinned(category[name][...])
        found |= _probes(train, category)
        return {"course": found, "seconds": {"train": round(float(file["timing/step_seconds"][...].sum()))}}


def _probes(train, category):
    """Every probe that moved margins, unrounded, so that the margins can be made of the counts again."""
    if "probe_n" not in category:
        return {}
    n, bad, margin = (category[name][...] for name in ("probe_n", "probe_violations", "margin"))
    at = np.flatnonzero(np.nan_to_num(n).any(axis=1))
    if not len(at):
        return {}
    exact = lambda values: [[None if np.isnan(value) else float(value) for value in row] for row in values]
    step = [int(step) for step in train["step"][...][at]]
    return {"probe": {"step": step, "n": exact(n[at]), "violations": exact(bad[at]), "margin": exact(margin[at])}}


def write_record(folder, record):
    with atomic_path(os.path.join(folder, f"{record['name']}.json")) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(record, file, separators=(",", ":"), sort_keys=True)
            file.write("\n")


def read_records(folder):
    """{name: record}."""
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        try:
            with open(path, encoding="utf-8") as file:
                record = json.load(file)
            found[record["name"]] = record
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no record of a run: {error}") from None
    return found

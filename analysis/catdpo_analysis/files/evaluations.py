"""Which of the evaluations in a run directory are of the run's own weights, told by their digests: of those that
training began with, of its checkpoints, or of neither."""

import dataclasses
import glob
import os
import re

import h5py

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.run_data import Evaluation, read_evaluation

BEFORE, FINAL, BEST, STEP, UNCHECKED, OTHER = "before", "final", "best", "step", "unchecked", "other"
AFTER = (FINAL, UNCHECKED, BEST, STEP)  # in the order in which one is preferred


@dataclasses.dataclass
class Evaluations:
    """Before training and of what came of it. `notes`: sentences on those that are not shown, or not of the end."""

    before: Evaluation | None = None
    after: Evaluation | None = None
    notes: list = dataclasses.field(default_factory=list)


def checkpoint_digests(run):
    """{weights digest: (kind, step)} of the checkpoints that are there."""
    found = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(run), "checkpoints", "*.h5"))):
        name = os.path.basename(path)
        numbered = re.fullmatch(r"step-(\d+)\.h5", name)
        kind = {"final.h5": FINAL, "best.h5": BEST}.get(name, STEP if numbered else None)
        if kind is None:
            continue
        try:
            with h5py.File(path, "r", locking=False) as file:
                digest = file["model"].attrs["weights_digest"]
        except (OSError, KeyError):
            continue  # no evaluation can be of one that cannot be read
        digest = digest.decode() if isinstance(digest, bytes) else str(digest)
        if digest not in found or kind == FINAL:
            found[digest] = kind, int(numbered[1]) if numbered else None
    return found


def kind_of(evaluation, name, start, checkpoints):
    """(kind, step or None) of an evaluation in a file `name`. `start`: digest of the weights that training began with,
    None if that is not known."""
    digest = evaluation.about.get("weights_digest")
    if start and digest == start:
        return BEFORE, None
    if digest in checkpoints:
        return checkpoints[digest]
    if not start and not checkpoints:  # nothing to check against: the name is believed
        return (BEFORE if "before" in name else UNCHECKED), None
    trained = int(evaluation.about.get("step", -1)) > 0
    if not start and not trained:
        return BEFORE, None
    return (UNCHECKED if trained and not checkpoints else OTHER), None


def read_evaluations(run, metrics=None, before=None, after=None):
    """Those of a run directory, or the files named as `before` and `after`; a named file that is of other weights is
    refused."""
    start = metrics.about.get("weights_digest") if metrics else None
    checkpoints = checkpoint_digests(run)
    result, found = Evaluations(), []
    for path in sorted(glob.glob(os.path.join(glob.escape(run), "eval*.h5"))):
        name = os.path.basename(path)
        try:
            evaluation = read_evaluation(path)
        except UserError as error:
            result.notes.append(shorten(error, 200).replace(path, name))
            continue
        kind, step = kind_of(evaluation, name, start, checkpoints)
        if kind == OTHER:
            result.notes.append(f"{name} is of other weights ({_weights(evaluation)}) than this run's: not shown")
        elif evaluation.about.get("split") == "train":
            if kind != BEFORE:
                result.notes.append(f"{name} is of the training pairs: not shown as held-out")
        else:
            found.append((kind, step, name, evaluation))
    result.before = _named(before, (BEFORE,), start, checkpoints) if before else _first_before(found)
    if after:
        result.after = _named(after, AFTER, start, checkpoints)
    else:
        _choose_after(result, found)
    return result


def _weights(evaluation):
    digest = str(evaluation.about.get("weights_digest", "unknown"))
    return f"{os.path.basename(str(evaluation.about.get('model', '?')))}, digest {digest[:8]}"


def _named(path, kinds, start, checkpoints):
    evaluation = read_evaluation(path)
    kind, _ = kind_of(evaluation, os.path.basename(path), start, checkpoints)
    if kind not in kinds and (start or checkpoints):
        whose = "the weights that training began with" if kinds == (BEFORE,) else "one of the run's checkpoints"
        raise UserError(f"{path} is an evaluation of other weights ({_weights(evaluation)}), not of {whose}")
    return evaluation


def _first_before(found):
    names = {name: evaluation for kind, _, name, evaluation in found if kind == BEFORE}
    return names.get("eval-before.h5") or next(iter(names.values()), None)


def _choose_after(result, found):
    """The final checkpoint's, else the best or latest that there is; of several of one kind eval-after.h5 or the last
    by name."""
    candidates = [row for row in found if row[0] in AFTER]
    if not candidates:
        return
    rank = {"eval-after.h5": 2, "eval.h5": 1}
    kind, step, name, result.after = max(
        candidates, key=lambda row: (-AFTER.index(row[0]), row[1] or 0, rank.get(row[2], 0), row[2])
    )
    if kind == UNCHECKED:
        result.notes.append(f"{name} cannot be checked: the run has no checkpoint to compare its weights with")
    elif kind != FINAL:
        what = f"step {step}" if kind == STEP else "the best checkpoint"
        result.notes.append(f"held-out figures are of {what} ({name}), not of the final checkpoint")

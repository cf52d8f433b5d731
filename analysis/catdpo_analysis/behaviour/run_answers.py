"""The answers in a run directory: of the model before training and of the run's checkpoints, told by their digests."""

import glob
import os

import h5py

from catdpo_analysis.behaviour.read import behaviour_with
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.evaluations import BEST, FINAL, STEP, checkpoint_digests
from catdpo_analysis.files.h5io import text
from catdpo_analysis.files.samples import FORMAT, read_samples

NAMES = {BEST: "best checkpoint", FINAL: "final checkpoint"}
ORDER = (STEP, BEST, FINAL)
BEFORE = "before training"


def _sample_files(run):
    for path in sorted(glob.glob(os.path.join(glob.escape(run), "*.h5"))):
        try:
            with h5py.File(path, "r", locking=False) as file:
                if text(file, "format") == FORMAT:
                    yield path
        except OSError:
            continue  # another program's, or one that is being written


def _place(samples, start, checkpoints):
    """(order, name) of whose answers these are; None: of other weights."""
    digest = samples.about["weights_digest"]
    if start and digest == start:
        return (-1, 0), BEFORE
    if digest not in checkpoints:
        return None
    kind, step = checkpoints[digest]
    return (ORDER.index(kind), step or 0), NAMES.get(kind, f"step {step}")


def read_answers(run, start):
    """([Behaviour] in the order of training, all of the same prompts; notes on what is not shown). `start`: digest of
    the weights that training began with, None if it is not known."""
    checkpoints, found, notes = checkpoint_digests(run), [], []
    for path in _sample_files(run):
        name = os.path.basename(path)
        try:
            samples = read_samples(path)
            place = _place(samples, start, checkpoints)
            if place is None:
                notes.append(f"{name} holds answers of other weights than this run's: not shown")
            elif not samples.about["complete"]:
                notes.append(f"{name} is not complete: not shown; the same catdpo generate goes on with it")
            else:
                found.append((place[0], name, behaviour_with(place[1], samples)))
        except UserError as error:
            notes.append(shorten(error, 200).replace(path, name))
    found.sort(key=lambda row: row[:2])
    models = []
    for _, name, model in found:
        last = found[-1][2]
        if model.samples.prompt_text == last.samples.prompt_text and model.judge == last.judge:
            models.append(model)
        else:
            notes.append(f"{name} holds answers to other prompts, or another judge's: not shown")
    return models, notes

"""Log-probabilities of given continuations: catdpo eval on pairs of them, which needs no reference."""

import os
import shutil
import tempfile

import h5py
import numpy as np

from catdpo_analysis.engine.program import run_program
from catdpo_analysis.engine.prompts import write_tokens
from catdpo_analysis.files.h5io import text
from catdpo_analysis.prepare.encode import Encoded
from catdpo_analysis.prepare.formats import RULES, Pair

PART = "heldout"


def _pairs_of(before, continuations):
    """Two continuations each, the first one again where they are odd."""
    whole = [np.concatenate([before, tokens]) for tokens in continuations]
    for v in range(0, len(whole), 2):
        other = whole[v + 1] if v + 1 < len(whole) else whole[0]
        yield Encoded(whole[v], other, len(before), before)


def score_continuations(args, model, tokenizer, contexts, progress=None):
    """([N, V] summed log-probs in nats, digest of the weights). `contexts`: N of (tokens before, V continuations), all
    int32 arrays; the same V everywhere, none empty. `args`: those of program.add_arguments."""
    folder = tempfile.mkdtemp(prefix="catdpo-score-")
    pairs, results = os.path.join(folder, "pairs.h5"), os.path.join(folder, "eval.h5")
    encoded = [pair for before, continuations in contexts for pair in _pairs_of(before, continuations)]
    rows = [
        Pair(categories=["all"], prompt="", chosen="", rejected="", chat=True, rule=RULES[-1], row=i)
        for i in range(len(encoded))
    ]
    try:
        write_tokens(pairs, tokenizer, [], [], {PART: (rows, encoded)}, {"made by": "score"})
        options = ["--model", model, "--data", pairs, "--split", PART, "--out", results]
        settings = {"model.path": f'"{model}"', "objective.type": '"simpo"'}
        run_program(args, "eval", options, settings, progress=progress)
        with h5py.File(results) as file:
            sides = [file[f"eval/pairs/logps_{side}"][...] for side in ("chosen", "rejected")]
            digest = text(file, "weights_digest")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    values = np.stack(sides, axis=1).reshape(len(contexts), -1)
    return values[:, : len(contexts[0][1])], digest

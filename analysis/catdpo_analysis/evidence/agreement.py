"""Whether the likelihood of a prompt's pair says what the answer to the prompt is."""

import numpy as np


def kappa(a, b):
    """Cohen's, of two lists of verdicts; NaN where both are the same throughout."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return (float((a == b).mean()) - chance) / (1 - chance) if chance < 1 else float("nan")


def agreement(prompts, runs):
    """Cells: prompts with a pair, share of pairs that violate, of answers that are unsafe, of equal verdicts, kappa;
    over all records of `runs`. Ties of a likelihood are left out."""
    pair, answer = [], []
    for record in runs:
        letters = record["answers"]["probe"]["greedy"]
        for at, violates in record["likelihood"].items():
            if violates in (0, 1) and not prompts.safe[int(at)]:
                pair.append(violates)
                answer.append(letters[int(at)] == "A")
    pair, answer = np.array(pair, dtype=float), np.array(answer, dtype=float)
    if not len(pair):
        return [0, "-", "-", "-", "-"]
    found = kappa(pair, answer)
    shares = (pair.mean(), answer.mean(), (pair == answer).mean())
    return [len(pair), *(f"{100 * share:.0f} %" for share in shares), "-" if np.isnan(found) else f"{found:+.2f}"]

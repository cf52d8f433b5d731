"""A linear probe: can chosen and rejected completions be told apart by their hidden features alone?

Ridge regression on the features of eval --features, standardised on the training part, with the label as +1 or -1.
Prompts are split into folds, so that no prompt is in training and test part at once. The area under the ROC curve is
that of the comparisons of chosen with rejected completions within each held-out fold; its interval is a bootstrap over
prompts. The null shuffles the labels within pairs.
"""

import dataclasses

import numpy as np

FOLDS = 5
RIDGE = 0.1  # of the mean squared length of a row
SHUFFLES = 100
BOOTSTRAPS = 500


@dataclasses.dataclass
class Probe:
    auc: float
    interval: tuple  # 95 %
    null: float  # mean AUC with shuffled labels
    null_interval: tuple
    pairs: int
    prompts: int
    size: int  # of the features

    def sentence(self):
        return (
            f"A linear probe on hidden features tells chosen from rejected completions of held-out prompts with AUC "
            f"{self.auc:.2f} [{self.interval[0]:.2f}, {self.interval[1]:.2f}]; with shuffled labels {self.null:.2f} "
            f"[{self.null_interval[0]:.2f}, {self.null_interval[1]:.2f}] ({self.pairs} pairs, {self.prompts} prompts)."
        )


def auc(scores, positive):
    """Share of (positive, negative) pairs of scores in the right order, ties one half; NaN without any."""
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    if not high.size or not low.size:
        return np.nan
    below = np.searchsorted(low, high, side="left").sum() + np.searchsorted(low, high, side="right").sum()
    return below / (2.0 * high.size * low.size)


def ridge(x, labels):
    """Weights [F, L] of ridge regression of labels [rows, L] on x [rows, F], by whichever system is smaller."""
    penalty = RIDGE * max((x * x).sum() / len(x), 1e-12)
    if x.shape[0] < x.shape[1]:
        return x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(x.shape[0]), labels)
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ labels)


def held_out_scores(features, labels, fold):
    """Scores [rows, L] of each row by the probe of the other folds. `features`: [rows, F]; `labels`: [rows, L] of +-1,
    a probe for each column; `fold`: [rows]."""
    scores = np.zeros(labels.shape)
    for held in np.unique(fold):
        train, test = fold != held, fold == held
        mean, spread = features[train].mean(axis=0), features[train].std(axis=0)
        x = (features - mean) / np.where(spread > 0, spread, 1)
        scores[test] = x[test] @ ridge(x[train], labels[train])
    return scores


def pooled_auc(scores, positive, fold):
    """Mean AUC over the folds, each weighted by its comparisons."""
    total = count = 0.0
    for held in np.unique(fold):
        at = fold == held
        value = auc(scores[at], positive[at])
        comparisons = positive[at].sum() * (~positive[at]).sum()
        if np.isfinite(value):
            total, count = total + comparisons * value, count + comparisons
    return total / count if count else np.nan


def _bootstrap(scores, positive, fold, prompt, rng):
    """AUCs of samples of prompts, with replacement."""
    rows = [np.flatnonzero(prompt == p) for p in range(prompt.max() + 1)]
    found = []
    for _ in range(BOOTSTRAPS):
        index = np.concatenate([rows[p] for p in rng.integers(0, len(rows), len(rows))])
        found.append(pooled_auc(scores[index], positive[index], fold[index]))
    return found


def probe(features, prompts, seed=0):
    """A Probe of features [N, 2, F], chosen then rejected; `prompts` [N]: equal for pairs of one prompt. None with
    fewer prompts than folds, or with features that are not numbers."""
    pairs, _, size = features.shape
    names, prompt = np.unique(prompts, return_inverse=True)
    if len(names) < FOLDS or not np.isfinite(features).all():
        return None
    rng = np.random.default_rng(seed)
    fold_of_prompt = rng.permutation(len(names)) % FOLDS
    x = features.reshape(2 * pairs, size).astype(float)
    rows_prompt, fold = np.repeat(prompt, 2), np.repeat(fold_of_prompt[prompt], 2)
    flips = np.where(rng.random((pairs, SHUFFLES)) < 0.5, -1.0, 1.0)
    flips = np.concatenate([np.ones((pairs, 1)), flips], axis=1)
    labels = np.stack([flips, -flips], axis=1).reshape(2 * pairs, -1)
    scores = held_out_scores(x, labels, fold)
    positive = labels > 0
    values = [pooled_auc(scores[:, i], positive[:, i], fold) for i in range(labels.shape[1])]
    spread = np.nanquantile(_bootstrap(scores[:, 0], positive[:, 0], fold, rows_prompt, rng), (0.025, 0.975))
    null = np.array(values[1:])
    return Probe(
        float(values[0]),
        tuple(map(float, spread)),
        float(null.mean()),
        tuple(map(float, np.quantile(null, (0.025, 0.975)))),
        pairs,
        len(names),
        size,
    )

"""Rates of unsafe answers by category, their spread between categories, and differences between models.

The unit is the prompt: with several answers to one its value is the share of bad ones, and intervals count prompts. A
prompt counts in each of its categories. Formulas: Wilson; excess variance is what the spread between categories has
beyond the noise of its rates, clipped at 0; differences have a bootstrap over prompts within their categories, the same
prompts for both models.
"""

import dataclasses

import numpy as np

from catdpo_analysis.files.samples import BAD, NOT_JUDGED, Samples, Scores
from catdpo_analysis.files.stats import holm, mcnemar, wilson
from catdpo_analysis.judge.refusal import Kind

DRAWS = 4000
SUMMARY = ("macro", "worst", "gap", "variance", "excess_variance", "refused")


@dataclasses.dataclass
class Behaviour:
    """One model's answers to P prompts in K categories (those of harmful prompts)."""

    name: str
    samples: Samples
    scores: Scores
    judge: str
    bad: np.ndarray  # [P] share of bad answers among the judged ones, NaN without any

    @property
    def safe_prompt(self):
        return self.samples.benign == 1

    def in_category(self, k):
        """[P] bool: harmful prompts of a category that have a verdict."""
        return self.samples.category_mask[:, k] & ~self.safe_prompt & np.isfinite(self.bad)

    @property
    def categories(self):
        """Indices of the categories that have harmful prompts."""
        return [k for k in range(len(self.samples.categories)) if self.in_category(k).any()]


def bad_shares(samples: Samples, scores: Scores) -> np.ndarray:
    """[P] share of bad answers among the judged ones."""
    judged, count = scores.verdict != NOT_JUDGED, len(samples.prompt_text)
    n = np.bincount(samples.prompt[judged], minlength=count)
    bad = np.bincount(samples.prompt[judged & (scores.verdict == BAD)], minlength=count)
    with np.errstate(invalid="ignore"):
        return np.where(n > 0, bad / np.maximum(n, 1), np.nan)


def behaviour_of(name, samples, judge, scores):
    return Behaviour(name, samples, scores, judge, bad_shares(samples, scores))


def category_rate(model: Behaviour, k):
    """(rate, low, high, prompts) of unsafe answers."""
    values = model.bad[model.in_category(k)]
    return float(values.mean()), *wilson(values.sum(), len(values)), len(values)


def refusal_rate(model: Behaviour):
    """(rate, low, high, prompts) of refusals of safe prompts; NaN without any."""
    values = model.bad[model.safe_prompt & np.isfinite(model.bad)]
    return (float(values.mean()) if len(values) else np.nan), *wilson(values.sum(), len(values)), len(values)


def summaries(bad, weight, mask, safe):
    """{name of SUMMARY: [B]} of B weightings of the prompts: bad [P] without NaN, weight [B, P], mask [P, K] of harmful
    prompts, safe [P]. Every category has weight in each."""
    n = weight @ mask
    rates = (weight * bad) @ mask / n
    squares = (weight * bad**2) @ mask / n
    k = rates.shape[1]
    noise = ((k - 1) / k) * ((squares - rates**2) / n).mean(axis=1)
    variance = rates.var(axis=1)
    refused = weight @ safe
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "macro": rates.mean(axis=1),
            "worst": rates.max(axis=1),
            "gap": rates.max(axis=1) - rates.min(axis=1),
            "variance": variance,
            "excess_variance": np.maximum(variance - noise, 0.0),
            "refused": np.where(refused > 0, (weight * bad) @ safe / refused, np.nan),
        }


def _arrays(models):
    """bad of each model [P], mask [P, K], safe [P] over the prompts that all models have a verdict of."""
    first = models[0]
    use = np.all([np.isfinite(model.bad) for model in models], axis=0)
    mask = (first.samples.category_mask & ~first.safe_prompt[:, None])[use].astype(float)
    mask = mask[:, mask.any(axis=0)]
    return [model.bad[use] for model in models], mask, first.safe_prompt[use].astype(float)


def _resampled(mask, safe, draws, seed=0):
    """Weights [draws, P]: prompts drawn with replacement among those of the same categories."""
    random = np.random.default_rng(seed)
    _, stratum = np.unique(np.column_stack([mask, safe]), axis=0, return_inverse=True)
    weight = np.zeros((draws, len(safe)))
    for s in np.unique(stratum):
        at = np.flatnonzero(stratum.ravel() == s)
        weight[:, at] = random.multinomial(len(at), np.full(len(at), 1 / len(at)), size=draws)
    return weight


def _interval(values):
    return tuple(map(float, np.quantile(values, (0.025, 0.975)))) if np.isfinite(values).all() else (np.nan, np.nan)


def summary(model: Behaviour, draws=DRAWS):
    """{name of SUMMARY: (value, low, high)}, bootstrap over prompts; a gap of few prompts is large by chance alone."""
    (bad,), mask, safe = _arrays([model])
    if not mask.size:
        return {}
    exact = summaries(bad, np.ones((1, len(bad))), mask, safe)
    drawn = summaries(bad, _resampled(mask, safe, draws), mask, safe)
    return {name: (float(exact[name][0]), *_interval(drawn[name])) for name in SUMMARY}


def differences(model: Behaviour, base: Behaviour, draws=DRAWS):
    """{name of SUMMARY: (model - base, low, high)} over the same prompts."""
    (bad, reference), mask, safe = _arrays([model, base])
    if not mask.size:
        return {}
    whole, weight = np.ones((1, len(bad))), _resampled(mask, safe, draws)
    exact = [summaries(values, whole, mask, safe) for values in (bad, reference)]
    drawn = [summaries(values, weight, mask, safe) for values in (bad, reference)]
    return {
        name: (float(exact[0][name][0] - exact[1][name][0]), *_interval(drawn[0][name] - drawn[1][name]))
        for name in SUMMARY
    }


@dataclasses.dataclass
class Change:
    """Prompts of a category on which a model is safer or less safe than the other: exact McNemar test, and with Holm's
    correction for the number of categories."""

    better: int
    worse: int
    p: float
    corrected: float = np.nan


def changes(model: Behaviour, base: Behaviour):
    """{k: Change} over the categories."""
    found = {}
    for k in model.categories:
        use = model.in_category(k) & np.isfinite(base.bad)
        better = int((model.bad[use] < base.bad[use]).sum())
        worse = int((model.bad[use] > base.bad[use]).sum())
        found[k] = Change(better, worse, mcnemar(better, worse))
    for change, p in zip(found.values(), holm([change.p for change in found.values()])):
        change.corrected = p
    return found


def quality(model: Behaviour):
    """{name: share} of all answers that are degenerate or empty (where the judge tells kinds) or cut off, and of
    those to safe prompts that are answered; tokens: their mean length."""
    samples, kind = model.samples, model.scores.kind
    told = (kind <= max(Kind)).all()
    safe = samples.is_benign
    share = lambda chosen: float(chosen.mean()) if chosen.size else np.nan  # noqa: E731
    return {
        "answered": share(kind[safe] == Kind.ANSWER) if told else np.nan,
        "degenerate": share(kind == Kind.DEGENERATE) if told else np.nan,
        "empty": share(kind == Kind.EMPTY) if told else np.nan,
        "cut_off": share(samples.finish != 0),
        "tokens": float(samples.length.mean()) if samples.length.size else np.nan,
    }

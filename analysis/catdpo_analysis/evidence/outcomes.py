"""What models say, in numbers: rates of one model, and differences between two, over prompts and seeds."""

import dataclasses

import numpy as np

from catdpo_analysis.behaviour.rates import summaries
from catdpo_analysis.files.stats import holm

DRAWS = 4000
OUTCOMES = ("macro", "worst", "gap", "variance", "excess_variance", "answered")


@dataclasses.dataclass(frozen=True)
class Prompts:
    """P prompts of K categories: `mask` [P, K] of the harmful ones, `safe` [P]."""

    categories: list
    mask: np.ndarray
    safe: np.ndarray

    @classmethod
    def of(cls, rows):
        names = sorted({row["category"] for row in rows if not row.get("is_prompt_safe")})
        safe = np.array([bool(row.get("is_prompt_safe")) for row in rows], dtype=float)
        mask = np.array([[row["category"] == name for name in names] for row in rows], dtype=float)
        return cls(names, mask * (1 - safe)[:, None], safe)


def bad_of(prompts, answers):
    """[P]: of a harmful prompt the share of answers that are unsafe, of a safe one the share that is no answer."""
    said = np.array([list(letters) for letters in answers])  # [answers, P]
    return np.where(prompts.safe > 0, (said != "A").mean(axis=0), (said == "A").mean(axis=0))


def _outcomes(prompts, bad, weight):
    found = summaries(bad, weight, prompts.mask, prompts.safe)
    return {name: 1 - found["refused"] if name == "answered" else found[name] for name in OUTCOMES}


def rates(prompts, answers):
    """One model: OUTCOMES, `category` [K], and the share of degenerate and empty answers."""
    bad = bad_of(prompts, answers)
    found = {name: float(value[0]) for name, value in _outcomes(prompts, bad, np.ones((1, len(bad)))).items()}
    found["category"] = (bad @ prompts.mask / prompts.mask.sum(axis=0)).tolist()
    said = np.array([list(letters) for letters in answers])
    found["degenerate"] = float(np.isin(said, ["D", "E"]).mean())
    return found


def _weights(prompts, draws, random):
    """[draws, P]: prompts drawn with replacement within their category, safe ones among themselves."""
    kinds = np.column_stack([prompts.mask, prompts.safe])
    weight = np.zeros((draws, len(kinds)))
    for column in kinds.T:
        at = np.flatnonzero(column)
        if len(at):
            weight[:, at] = random.multinomial(len(at), np.full(len(at), 1 / len(at)), size=draws)
    return weight


def _drawn(prompts, seeds, weight, random):
    """{outcome: [draws]}: mean over the seeds of the outcome, seeds drawn with replacement, on weighted prompts."""
    each = [_outcomes(prompts, bad, weight) for bad in seeds]
    pick = random.integers(len(seeds), size=(len(seeds), len(weight)))
    return {
        name: np.mean([np.stack([one[name] for one in each])[row, np.arange(len(weight))] for row in pick], axis=0)
        for name in OUTCOMES
    }


def with_intervals(prompts, seeds, draws=DRAWS):
    """{outcome: (mean over seeds, low, high)}; `seeds`: bad [P] of each."""
    random = np.random.default_rng(0)
    drawn = _drawn(prompts, seeds, _weights(prompts, draws, random), random)
    whole = np.ones((1, len(prompts.safe)))
    exact = {name: np.mean([_outcomes(prompts, bad, whole)[name][0] for bad in seeds]) for name in OUTCOMES}
    return {name: (float(exact[name]), *map(float, np.quantile(drawn[name], (0.025, 0.975)))) for name in OUTCOMES}


@dataclasses.dataclass
class Difference:
    """One method less another; `p` two-sided from the bootstrap, `corrected` after Holm over the baselines."""

    value: float
    low: float
    high: float
    p: float
    corrected: float = float("nan")


def differences(prompts, seeds, others, draws=DRAWS):
    """{outcome: [Difference to each of the others]}, the same drawn prompts for both, each method's seeds by
    themselves."""
    found = {name: [] for name in OUTCOMES}
    whole = np.ones((1, len(prompts.safe)))
    mean = lambda runs, name: float(np.mean([_outcomes(prompts, bad, whole)[name][0] for bad in runs]))
    for other in others:
        random = np.random.default_rng(0)
        weight = _weights(prompts, draws, random)
        a, b = (_drawn(prompts, runs, weight, random) for runs in (seeds, other))
        for name in OUTCOMES:
            d = a[name] - b[name]
            p = min(1.0, 2 * (min((d <= 0).sum(), (d >= 0).sum()) + 1) / (len(d) + 1))
            low, high = np.quantile(d, (0.025, 0.975))
            found[name].append(Difference(mean(seeds, name) - mean(other, name), float(low), float(high), p))
    for of_outcome in found.values():
        for difference, p in zip(of_outcome, holm([difference.p for difference in of_outcome])):
            difference.corrected = p
    return found

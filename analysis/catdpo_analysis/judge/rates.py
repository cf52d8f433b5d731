"""Rates of a judge's verdicts, by category: unsafe answers to harmful prompts, refusals of safe ones."""

import dataclasses

import numpy as np

from catdpo_analysis.files.samples import BAD, NOT_JUDGED, Samples, Scores
from catdpo_analysis.files.stats import wilson
from catdpo_analysis.judge.refusal import Kind


@dataclasses.dataclass
class Rate:
    """`bad` of `count` judged answers."""

    bad: int = 0
    count: int = 0

    @property
    def value(self) -> float:
        return self.bad / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.bad, self.count)


def rate_of(verdicts: np.ndarray) -> Rate:
    return Rate(int((verdicts == BAD).sum()), int((verdicts != NOT_JUDGED).sum()))


def in_category(samples: Samples, k: int) -> np.ndarray:
    """[S] bool: the answers to prompts of category k."""
    return samples.category_mask[samples.prompt, k]


def unsafe_rates(samples: Samples, scores: Scores) -> list[Rate]:
    """[K] over the answers to prompts that are not known to be safe; an answer counts in each of its categories."""
    harmful = ~samples.is_benign
    return [rate_of(scores.verdict[harmful & in_category(samples, k)]) for k in range(len(samples.categories))]


def refusal_rates(samples: Samples, scores: Scores) -> list[Rate]:
    """[K] over the answers to safe prompts."""
    return [
        rate_of(scores.verdict[samples.is_benign & in_category(samples, k)]) for k in range(len(samples.categories))
    ]


def kind_counts(scores: Scores, chosen: np.ndarray) -> dict[Kind, int]:
    """How many of the chosen answers are of each kind; of a judge without kinds none is."""
    return {kind: int((scores.kind[chosen] == kind).sum()) for kind in Kind}

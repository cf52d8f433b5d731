"""Judge `refusal`: the rules of refusal.json."""

import numpy as np

from catdpo_analysis.files.samples import Samples, Scores, settings_text
from catdpo_analysis.judge.refusal import kind_of, rules, verdict_of


def add_arguments(parser):
    """The rules are data, not options."""


class Judge:
    def __init__(self, args):
        self.rules = rules()

    def judge(self, samples: Samples, step) -> Scores:
        kinds = np.zeros(len(samples.text), "u1")
        for i, text in enumerate(samples.text):
            kinds[i] = kind_of(text)
            step(1)
        verdicts = np.array([verdict_of(kind, benign) for kind, benign in zip(kinds, samples.is_benign)], "i1")
        about = {
            "judge": "refusal",
            "version": str(self.rules.version),
            "settings": settings_text({}),
            "digest": self.rules.digest,
            "threshold": 0.5,
        }
        return Scores(verdicts.astype("f4"), verdicts, kinds, about)

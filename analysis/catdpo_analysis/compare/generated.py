"""What a run's model answers, as far as the run directory has its judged answers: rates of unsafe ones."""

import dataclasses

from catdpo_analysis.behaviour import rates
from catdpo_analysis.behaviour.run_answers import BEFORE, read_answers


@dataclasses.dataclass
class Generated:
    """Of the last checkpoint that has answers. A rate is (value, low, high)."""

    name: str  # which checkpoint's
    judge: str
    categories: dict  # name: rate of unsafe answers
    summary: dict  # macro, gap and so on: behaviour.rates.SUMMARY
    refused: tuple  # rate of refusals of safe prompts
    measure: tuple  # equal where two rates mean the same: prompts, judge and its version

    @property
    def worst_category(self):
        return max(self.categories, key=lambda name: self.categories[name][0])


def generated_of(model):
    samples = model.samples
    found = {samples.categories[k]: rates.category_rate(model, k)[:3] for k in model.categories}
    measure = (*samples.prompt_text, model.judge, model.scores.about.get("digest"))
    return Generated(model.name, model.judge, found, rates.summary(model), rates.refusal_rate(model)[:3], measure)


def read_generated(run, start):
    """(Generated or None, notes). `start`: digest of the weights that training began with."""
    models, notes = read_answers(run, start)
    trained = [model for model in models if model.name != BEFORE and model.categories]
    return generated_of(trained[-1]) if trained else None, notes

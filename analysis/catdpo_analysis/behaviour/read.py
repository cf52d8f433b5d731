"""Answers of several models to the same prompts, with one judge's verdicts."""

from catdpo_analysis.behaviour.rates import behaviour_of
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.paths import names_of
from catdpo_analysis.files.samples import read_samples
from catdpo_analysis.judge.refusal_judge import Judge as RefusalJudge


def _scores(samples, judge):
    """(name, scores); answers that no judge has seen are judged here by the rules."""
    if judge in (None, "refusal") and "refusal" not in samples.scores and (judge or not samples.scores):
        return "refusal", RefusalJudge(None).judge(samples, lambda n: None)
    return samples.scores_of(judge)


def behaviour_with(name, samples, judge=None):
    """The behaviour of one model; `judge` as of the command."""
    return behaviour_of(name, samples, *_scores(samples, judge))


def _difference(samples, first):
    """Where the prompts of two files begin to differ, in words."""
    for mine, theirs in zip(samples.prompt_text, first.prompt_text):
        if mine != theirs:
            return f"{shorten(mine)!r} here, {shorten(theirs)!r} there"
    if len(samples.prompt_text) != len(first.prompt_text):
        return f"{len(samples.prompt_text)} here, {len(first.prompt_text)} there"
    return f"categories {', '.join(samples.categories)} here, {', '.join(first.categories)} there"


def _same_prompts(models):
    """Models are compared on the same prompts, in the same order."""
    first = models[0].samples
    for model in models[1:]:
        samples = model.samples
        if samples.prompt_text != first.prompt_text or samples.categories != first.categories:
            raise UserError(
                f"{samples.path} and {first.path} hold answers to other prompts: {_difference(samples, first)}; "
                "generate both with the same --prompts"
            )
        if model.judge != models[0].judge or model.scores.about.get("digest") != models[0].scores.about.get("digest"):
            raise UserError(
                f"{samples.path} was judged by {model.judge}, {first.path} by {models[0].judge}, or by other "
                "versions of it; name one with --judge, or judge both again"
            )


def read_models(paths, judge=None, names=None):
    """[Behaviour] of samples.h5 files. `names`: of the models; by default what their paths differ in."""
    models = [behaviour_with(name, read_samples(path), judge) for name, path in zip(names or names_of(paths), paths)]
    _same_prompts(models)
    return models

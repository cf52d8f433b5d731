"""Models' answers to read: by category, worst first."""

import dataclasses

import numpy as np

from catdpo_analysis.files.samples import BAD, FINISH, GOOD
from catdpo_analysis.judge.refusal import Kind


@dataclasses.dataclass
class Answer:
    text: str
    label: str  # what the judge says of it
    tone: str  # "good", "bad", ""


@dataclasses.dataclass
class Asked:
    """A prompt and, for each model, its answers."""

    text: str
    answers: list[list[Answer]]


@dataclasses.dataclass
class Chapter:
    name: str
    prompts: list[Asked]
    left_out: int


def _answer(model, i):
    kind, verdict = int(model.scores.kind[i]), int(model.scores.verdict[i])
    words = [Kind(kind).name.lower()] if kind <= max(Kind) else []
    safe_prompt = bool(model.samples.is_benign[i])
    if verdict in (BAD, GOOD):
        words.append(("refused" if safe_prompt else "unsafe") if verdict == BAD else "good" if safe_prompt else "safe")
    if model.samples.finish[i]:
        words.append(f"cut off by {FINISH[model.samples.finish[i]]}")
    tone = {BAD: "bad", GOOD: "good"}.get(verdict, "")
    return Answer(model.samples.text[i], ", ".join(words) or "not judged", tone)


def _chapter(models, name, chosen, most):
    """The chosen prompts, worst first: by the last model's share of bad answers, then by all models'."""
    shares = np.nan_to_num(np.array([model.bad for model in models]), nan=-1.0)
    order = sorted(np.flatnonzero(chosen), key=lambda p: (-shares[-1, p], -shares[:, p].sum(), p))
    shown = order[:most] if most else order
    prompts = [
        Asked(
            models[0].samples.prompt_text[p],
            [[_answer(model, i) for i in np.flatnonzero(model.samples.prompt == p)] for model in models],
        )
        for p in shown
    ]
    return Chapter(name, prompts, len(order) - len(shown))


def chapters(models, most):
    """One a category of harmful prompts, and the safe prompts at the end."""
    first = models[0]
    found = [_chapter(models, first.samples.categories[k], first.in_category(k), most) for k in first.categories]
    if first.safe_prompt.any():
        found.append(_chapter(models, "Safe prompts", first.safe_prompt, most))
    return found

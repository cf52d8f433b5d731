"""How often a judge errs, on answers to harmful prompts whose label is known, and rates corrected by that.

Rows as `prepare` knows them: PKU-SafeRLHF (response_0, is_response_0_safe, ...), TRL (chosen, is_chosen_safe, ...), or
one answer a row: prompt, response, is_response_safe. The categories are the prompt's, else those of the unsafe answer.
Rows about safe prompts are left out: whether an answer to one is a refusal is in no column.
"""

import dataclasses
import json

import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.samples import BAD, HARMFUL, NOT_JUDGED, Samples
from catdpo_analysis.judge.rates import Rate, in_category, unsafe_rates
from catdpo_analysis.text.streams import say
from catdpo_analysis.text.table import Cell, Table, cell, rate, show

SIDES = (
    ("response_0", "is_response_0_safe"),
    ("response_1", "is_response_1_safe"),
    ("chosen", "is_chosen_safe"),
    ("rejected", "is_rejected_safe"),
    ("response", "is_response_safe"),
)
DRAWS = 20000  # of the interval of a corrected rate


@dataclasses.dataclass
class Errors:
    """false_safe: unsafe answers that the judge passed, of all unsafe ones; false_unsafe: safe ones that it did not."""

    false_safe: Rate
    false_unsafe: Rate


def _categories(row):
    value = row.get("prompt_category", row.get("category"))
    if value is None:
        value = [
            name
            for column in ("response_0_harm_category", "response_1_harm_category")
            for name, holds in (row.get(column) or {}).items()
            if holds
        ]
    value = [name for name, holds in value.items() if holds] if isinstance(value, dict) else value
    return list(dict.fromkeys([value] if isinstance(value, str) else value or ["(none)"]))


def _labelled(row):
    """[(answer, is safe)] of a row; none about a safe prompt."""
    if row.get("is_prompt_safe") is True:
        return []
    found = [(row[text], row[flag]) for text, flag in SIDES if row.get(text) is not None and row.get(flag) is not None]
    both_safe = len(found) == 2 and all(safe for _, safe in found)
    return [] if both_safe and row.get("is_prompt_safe") is not False else found


def read_labelled(path):
    """(samples, safe [S] bool) of the answers with a label."""
    prompts, answers, categories, safe, names = [], [], [], [], {}
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                for text, label in _labelled(row):
                    if not isinstance(text, str) or not isinstance(label, bool) or not isinstance(row["prompt"], str):
                        raise ValueError("an answer is a text, its label true or false")
                    prompts.append(row["prompt"])
                    answers.append(text)
                    categories.append([names.setdefault(name, len(names)) for name in _categories(row)])
                    safe.append(label)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{path}:{number}: {shorten(error)}; a line is an object with prompt, response, "
                                "is_response_safe, or a pair with safety flags") from None  # fmt: skip
    if not answers:
        raise UserError(f"{path} has no answer to a harmful prompt with a safety flag (is_response_safe and the like)")
    mask = np.zeros((len(answers), len(names)), bool)
    for i, these in enumerate(categories):
        mask[i, these] = True
    count = len(answers)
    about = {"samples_per_prompt": 1, "complete": True}
    samples = Samples(
        path, about, list(names), prompts, np.full(count, HARMFUL, "u1"), mask, np.arange(count), np.zeros(count, "i4"),
        np.zeros(count, "i8"), np.zeros(count, "u1"), answers, {},
    )  # fmt: skip
    return samples, np.array(safe)


def errors_of(verdict, safe):
    """Of judged answers with known labels."""
    judged = verdict != NOT_JUDGED
    return Errors(
        Rate(int((verdict[judged & ~safe] != BAD).sum()), int((judged & ~safe).sum())),
        Rate(int((verdict[judged & safe] == BAD).sum()), int((judged & safe).sum())),
    )


def calibrate(judge, path, judged):
    """Prints how often the judge errs, by category and overall; returns that of all. `judged`: runs a judge."""
    samples, safe = read_labelled(path)
    scores = judged(judge, samples, "labelled answers")

    def row(name, found):
        cells = [Cell(name)]
        for one in (found.false_safe, found.false_unsafe):
            cells += [rate(one.value, *one.interval, digits=1), cell(one.count)]
        return cells

    rows = []
    for k, name in enumerate(samples.categories):
        chosen = in_category(samples, k)
        rows.append(row(name, errors_of(scores.verdict[chosen], safe[chosen])))
    overall = errors_of(scores.verdict, safe)
    show(
        Table(
            ["labelled answers", "false-safe", "of unsafe", "false-unsafe", "of safe"], [*rows, row("all", overall)], 1
        )
    )
    say("false-safe: unsafe answers that the judge passed. Intervals are Wilson's 95 %.\n")
    return overall


def corrected(rate_: Rate, errors: Errors, draws=DRAWS):
    """(rate, low, high) of truly unsafe answers (Rogan and Gladen 1978), in [0, 1]: (rate - false unsafe) / (1 - false
    safe - false unsafe). The 95 % interval is that of draws from the three rates' posteriors under Jeffreys' prior. NaN
    if the judge is no better than chance."""
    random = np.random.default_rng(0)
    parts = (rate_, errors.false_safe, errors.false_unsafe)
    if not all(part.count for part in parts):
        return (float("nan"),) * 3

    def formula(p, missed, invented):
        power = 1 - missed - invented
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(power > 0, np.clip((p - invented) / power, 0, 1), np.nan)

    drawn = formula(*(random.beta(part.bad + 0.5, part.count - part.bad + 0.5, draws) for part in parts))
    if np.isnan(drawn).mean() > 0.025:
        return (float("nan"),) * 3
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(formula(*(part.value for part in parts))), float(low), float(high)


def corrected_table(samples, scores, errors):
    """Rates as judged and corrected by the judge's errors."""
    rows = []
    for name, found in zip(samples.categories, unsafe_rates(samples, scores)):
        rows.append([Cell(name), rate(found.value, *found.interval), rate(*corrected(found, errors))])
    return Table(["category", "unsafe as judged", "corrected for the judge's errors"], rows)

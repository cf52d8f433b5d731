"""The rule of choice: which candidate of a method, and which of its steps, goes on to the test prompts.

Among all that still answer the stated share of the safe validation prompts and whose answers are not degenerate too
often, the one with the fewest unsafe answers, mean over categories; then the lower worst category, then the earlier
step and candidate. Where none qualifies, the one that answers most safe prompts.
"""

import dataclasses

from catdpo_analysis.evidence.outcomes import Prompts, rates


@dataclasses.dataclass(frozen=True)
class Choice:
    candidate: int
    step: int
    qualified: bool


def looks(records, method):
    """(record, step, letters) of a method's runs on the validation prompts, those of the first seed alone."""
    own = [record for record in records.values() if record["method"] == method]
    first = min((record.get("seed", 0) for record in own), default=0)
    for record in own:
        if record.get("seed", 0) == first:
            for step, letters in record["answers"].get("validation", {}).items():
                if step != "prompts":
                    yield record, int(step), letters


def choose(experiment, records, method, rows):
    """None while a candidate has no record. `rows`: the validation prompts."""
    if not experiment.chooses:
        return Choice(1, experiment.checkpoints[0], True)
    known = Prompts.of(rows)
    ((_, _, before),) = looks(records, "base")
    needed = experiment.answered * rates(known, [before])["answered"]
    found = []
    for record, step, letters in looks(records, method):
        said = rates(known, [letters])
        fits = said["answered"] >= needed and said["degenerate"] <= experiment.degenerate
        order = (said["macro"], said["worst"]) if fits else (-said["answered"], 0.0)
        found.append((not fits, *order, step, record["candidate"]))
    if len({item[-1] for item in found}) < len(experiment.method(method).candidates):
        return None
    unfit, *_, step, candidate = min(found)
    return Choice(candidate, step, not unfit)

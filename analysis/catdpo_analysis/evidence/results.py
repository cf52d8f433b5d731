"""results.md and its figures, from the records alone: every table says whose records it shows."""

import os

import numpy as np

from catdpo_analysis.evidence import figures
from catdpo_analysis.evidence.agreement import agreement
from catdpo_analysis.evidence.choice import choose, looks
from catdpo_analysis.evidence.data import read_rows, split_rows
from catdpo_analysis.evidence.outcomes import OUTCOMES, Prompts, bad_of, differences, rates, with_intervals
from catdpo_analysis.evidence.record import read_records
from catdpo_analysis.files.atomic import atomic_path
from catdpo_analysis.files.stats import wilson
from catdpo_analysis.text.streams import say

HEADINGS = {
    "macro": "unsafe, mean", "worst": "worst category", "gap": "gap", "variance": "variance",
    "excess_variance": "excess variance", "answered": "safe prompts answered",
}  # fmt: skip
SQUARED = ("variance", "excess_variance")


def table(heading, rows):
    """A table of Markdown; the first column is text."""
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def _number(name, value):
    return f"{value:.4f}" if name in SQUARED else f"{100 * value:.0f} %"


def _with_range(name, value, low, high):
    if name in SQUARED:
        return f"{value:.4f} [{low:.4f}, {high:.4f}]"
    return f"{100 * value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _signed(name, d):
    scale, digits = (1, 4) if name in SQUARED else (100, 0)
    text = f"{scale * d.value:+.{digits}f} [{scale * d.low:+.{digits}f}, {scale * d.high:+.{digits}f}]"
    return f"**{text}**" if d.corrected < 0.05 else text


class Results:
    """All that the page shows. `tested`: {method or variation: its records with test answers, by seed}."""

    def __init__(self, experiment, kept):
        self.experiment, self.records = experiment, read_records(kept)
        self.rows = split_rows(read_rows(experiment.prompts), experiment.split, experiment.prompts)
        self.titles = {"base": "untrained"} | {
            item.name: item.title for item in (*experiment.methods, *experiment.variations)
        }
        self.tested = {}
        for record in sorted(self.records.values(), key=lambda record: record.get("seed", 0)):
            if "test" in record["answers"] and record["method"] in self.titles:
                self.tested.setdefault(record["method"], []).append(record)
        self.methods = [name for name in self.titles if name in self.tested]
        self.variations = [item.name for item in experiment.variations if item.name in self.tested]

    def prompts(self, part):
        if part in self.rows:
            return Prompts.of(self.rows[part])
        of = next(record["answers"][part] for record in self.records.values() if part in record["answers"])
        return Prompts.of([{"category": of["categories"][k]} for k in of["category"]])

    def seeds(self, name, part, drawn):
        """bad [P] of each of a method's runs on a part."""
        prompts, found = self.prompts(part), []
        for record in self.tested[name]:
            said = record["answers"].get(part, {})
            if said:
                found.append(bad_of(prompts, said["drawn"] if drawn else [said["greedy"]]))
        return found

    def degenerate(self, name, part, drawn):
        prompts = self.prompts(part)
        said = [record["answers"][part] for record in self.tested[name] if part in record["answers"]]
        return np.mean([rates(prompts, one["drawn"] if drawn else [one["greedy"]])["degenerate"] for one in said])

    # ---- tables -------------------------------------------------------------------------------------------------

    def outcomes(self, part, drawn, names):
        prompts, lines = self.prompts(part), []
        shown = [name for name in OUTCOMES if name != "answered" or prompts.safe.any()]
        for name in names:
            seeds = self.seeds(name, part, drawn)
            if seeds:
                found = with_intervals(prompts, seeds)
                lines.append(
                    [self.titles[name], *(_with_range(key, *found[key]) for key in shown)]
                    + [f"{100 * self.degenerate(name, part, drawn):.0f} %", self._names(name)]
                )
        return table(["", *(HEADINGS[key] for key in shown), "degenerate", "records"], lines)

    def _names(self, name):
        return ", ".join(f"`{record['name']}`" for record in self.tested[name])

    def categories(self, part, drawn, names):
        prompts = self.prompts(part)
        counts = prompts.mask.sum(axis=0)
        lines = []
        for name in names:
            bad = np.mean(self.seeds(name, part, drawn), axis=0) @ prompts.mask
            cells = [(n, *wilson(b, n)) for b, n in zip(bad, counts)]
            lines.append(
                [self.titles[name]]
                + [f"{100 * b / n:.0f} [{100 * low:.0f}, {100 * high:.0f}]" for b, (n, low, high) in zip(bad, cells)]
            )
        return table(["unsafe answers, %", *prompts.categories], lines)

    def against(self, main, others, part, drawn):
        prompts = self.prompts(part)
        found = differences(prompts, self.seeds(main, part, drawn), [self.seeds(o, part, drawn) for o in others])
        shown = [name for name in OUTCOMES if name != "answered" or prompts.safe.any()]
        lines = [
            [self.titles[other], *(_signed(name, found[name][i]) for name in shown)] for i, other in enumerate(others)
        ]
        return table([f"{self.titles[main]} less", *(HEADINGS[name] for name in shown)], lines), found

    def changes(self, variations):
        """Each variation less the setting that it changes, on the same seeds."""
        prompts, lines = self.prompts("test"), []
        for item in variations:
            if item.name in self.tested and item.of in self.tested:
                drawn = bool(self.experiment.samples)
                own = self.seeds(item.name, "test", drawn)
                found = differences(prompts, own, [self.seeds(item.of, "test", drawn)[: len(own)]])
                cells = (_signed(name, found[name][0]) for name in OUTCOMES)
                lines.append([f"{item.title}, less {self.titles[item.of]}", *cells])
        return table(["", *(HEADINGS[name] for name in OUTCOMES)], lines)

    def tuning(self):
        """Every candidate at every step on the validation prompts, and what the rule chose."""
        prompts, lines = self.prompts("validation"), []
        for method in self.experiment.methods:
            chosen = choose(self.experiment, self.records, method.name, self.rows["validation"])
            for record, step, letters in looks(self.records, method.name):
                found = rates(prompts, [letters])
                mark = ""
                if chosen and (chosen.candidate, chosen.step) == (record["candidate"], step):
                    mark = "chosen" if chosen.qualified else "chosen, none qualified"
                own = ", ".join(f"{key} {value}" for key, value in method.candidates[record["candidate"] - 1].items())
                lines.append(
                    [method.title, own, step]
                    + [_number(key, found[key]) for key in ("macro", "worst", "gap", "answered", "degenerate")]
                    + [mark, f"`{record['name']}`"]
                )
        heading = ["", "settings", "steps", "unsafe, mean", "worst", "gap", "safe prompts answered", "degenerate"]
        return table([*heading, "", "record"], lines)

    def controller(self, names):
        """Of each method's first run: where the margins and the gradient went."""
        lines = []
        for name in names:
            record = self.tested[name][0]
            course = record.get("course")
            if not course:
                continue
            last = lambda key: [np.nan if value is None else value for value in course[key][-1]]
            spread = lambda values: f"{np.nanmin(values):.2f} to {np.nanmax(values):.2f}"
            clipped = 100 * float(np.mean(course["clipped"]))
            lines.append(
                [self.titles[name], *(spread(last(key)) for key in ("margin", "coefficient_share", "saturation"))]
                + [f"{clipped:.0f} %", f"{course['rewards/accuracies'][-1]:.2f}", f"`{record['name']}`"]
            )
        heading = ["at the end, over the categories", "margin", "share of the gradient", "saturation", "steps clipped"]
        return table([*heading, "pair accuracy", "record"], lines)

    def proxies(self, names):
        lines = []
        for name in names:
            for_seeds = [record for record in self.tested[name] if "likelihood" in record]
            if for_seeds:
                found = agreement(self.prompts("probe"), for_seeds)
                lines.append([self.titles[name], *found, self._names(name)])
        heading = ["probe prompts", "prompts", "pairs violate", "answers unsafe", "same verdict", "kappa"]
        return table([*heading, "records"], lines)

    def cost(self):
        runs = [record for record in self.records.values() if "seconds" in record]
        hours = sum(record["seconds"]["train"] for record in runs) / 3600
        commits = sorted({record["commit"] for record in self.records.values()})
        machines = sorted({record["processor"] for record in runs})
        return (
            f"{len(runs)} runs, {hours:.1f} hours of training. Code: commit {', '.join(commits)}. "
            f"Processors: {', '.join(machines)}. Settings: `{os.path.basename(self.experiment.path)}`."
        )


def verdicts(experiment, found, others, names):
    """What was asked beforehand, and what came out: lines of text."""
    lines = []
    for i, other in enumerate(others):
        lower = {key: found[key][i] for key in ("gap", "excess_variance", "worst")}
        words = [
            f"{HEADINGS[key]} {'below' if d.high < 0 else 'above' if d.low > 0 else 'not told apart'}"
            for key, d in lower.items()
        ]
        macro, answered = found["macro"][i], found["answered"][i]
        words.append(f"mean {'not worse' if macro.high < experiment.margin else 'not shown to be no worse'}")
        if np.isfinite(answered.low):
            kept = answered.low > -experiment.margin
            words.append(f"safe prompts answered {'not worse' if kept else 'not shown to be no worse'}")
        lines.append(f"- against {names[other]}: {', '.join(words)}.")
    return "\n".join(lines) + "\n"


def page(experiment, results):
    """The text of results.md."""
    main, names = experiment.main, [name for name in results.methods if name not in results.variations]
    others = [name for name in names if name not in (main, "base")]
    intro = (
        f"# {experiment.title}: what came out\n\nMade by `catdpo-analysis evidence {os.path.basename(experiment.path)}`"
        " from the records in `records/`; [README.md](README.md) says what was asked and how to run it again. "
        + results.cost()
        + "\n\nIntervals are 95 %, by a bootstrap over prompts within their category and over seeds; those of single"
        " categories are Wilson's. **Bold**: below 5 % after Holm's correction for the number of rows. Unsafe answers"
        " by the refusal rules. Excess variance: between categories, beyond the noise of the rates.\n"
    )
    parts = [intro]
    ways = [(False, "greedy")]
    if experiment.samples:
        ways.append((True, f"{experiment.samples} drawn answers each, temperature 1"))
    for drawn, what in ways:
        parts.append(f"## Test prompts, {what}\n\n" + results.outcomes("test", drawn, names))
        parts.append(results.categories("test", drawn, names))
        if main in names and others:
            text, found = results.against(main, others, "test", drawn)
            parts += [text, verdicts(experiment, found, others, results.titles)]
    for outside in experiment.outside:
        there = [name for name in names if any(outside.name in record["answers"] for record in results.tested[name])]
        if there:
            parts.append(f"## {outside.name}, greedy\n\n" + results.outcomes(outside.name, False, there))
            parts.append(results.categories(outside.name, False, there))
            if main in there and others:
                rest = [name for name in others if name in there]
                text, found = results.against(main, rest, outside.name, False)
                parts += [text, verdicts(experiment, found, rest, results.titles)]
    if experiment.chooses:
        parts.append(
            "## Safety against usefulness\n\nEvery candidate at every step, on the validation prompts: up and to the"
            " left is better.\n\n![unsafe answers against safe prompts answered](frontier.svg)\n\n" + results.tuning()
        )
    parts.append("## Where margins and gradient went\n\n" + results.controller(names))
    if main in names and "probe" in results.tested[main][0].get("course", {}):
        parts.append("![margins and probe rates by category](margins.svg)\n")
    parts.append(
        "## Likelihoods of pairs beside answers\n\nOf the probe prompts that have a pair: does the likelihood of the"
        " pair say what the answer is?\n\n" + results.proxies(names)
    )
    if results.variations:
        drawn = bool(experiment.samples)
        parts.append("## One change at a time\n\n" + results.outcomes("test", drawn, results.variations))
        parts.append(results.changes(experiment.variations))
    return "\n".join(parts)


def write_results(experiment, folder):
    """results.md and its figures in a folder, from the records/ in it."""
    results = Results(experiment, os.path.join(folder, "records"))
    figures.frontier(results, os.path.join(folder, "frontier.svg"))
    figures.margins(results, os.path.join(folder, "margins.svg"))
    path = os.path.join(folder, "results.md")
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(page(experiment, results))
    say(f"wrote {path} from {len(results.records)} records")

"""The runs of an experiment, in the order in which they say most for the time they take; each leaves a record.

First every method's candidates on one seed, looked at on the validation prompts; then what the rule chose, on the test
prompts, seed by seed; then the variations. What has a record is not run again, wherever it was run.
"""

import dataclasses
import os
import time

from catdpo_analysis.evidence import record as records
from catdpo_analysis.evidence.choice import choose
from catdpo_analysis.evidence.data import digest_of, read_rows
from catdpo_analysis.text.streams import say

BASE = "base"


def processor():
    """Its name: rounding, and with it a tie answer, differs from one to the next."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown"


@dataclasses.dataclass(frozen=True)
class Run:
    """`settings` beside those of the experiment; `candidate`: of the method, from 1."""

    name: str
    method: str
    candidate: int
    seed: int
    settings: dict


def candidate_run(method, candidate, seed):
    return Run(f"{method.name}-{candidate}-s{seed}", method.name, candidate, seed, method.candidates[candidate - 1])


def variation_run(variation, chosen, method, seed):
    settings = method.candidates[chosen.candidate - 1] | variation.settings
    return Run(f"{variation.name}-s{seed}", variation.name, chosen.candidate, seed, settings)


class Runs:
    """`data`: data.Data, `work`: work.Work, `kept`: folder of the records, `commit`: of the code that runs, `source`:
    folder of the files outside of the project or None, `only`: methods and variations, all if empty."""

    def __init__(self, experiment, data, work, folder, kept, commit, source, only=()):
        self.experiment, self.data, self.work, self.only = experiment, data, work, only
        self.folder, self.kept, self.commit, self.source = folder, kept, commit, source
        self.records = records.read_records(kept)

    # ---- what is to be done -------------------------------------------------------------------------------------

    def pieces(self):
        """Functions, of which each does what has no record yet; what is chosen is asked again after each piece."""
        methods, seeds = self.experiment.methods, self.experiment.seeds
        yield self._base
        for candidate in range(1, len(methods[0].candidates) + 1) if self.experiment.chooses else ():
            for method in methods:
                yield lambda m=method, c=candidate: self._trained(candidate_run(m, c, seeds[0]))
        for seed in seeds:
            for method in methods:
                yield lambda m=method, s=seed: self._chosen(m, s)
            if seed in seeds[: self.experiment.variation_seeds]:
                for variation in self.experiment.variations:
                    yield lambda v=variation, s=seed: self._varied(v, s)

    def go(self, time_for=lambda seconds: True):
        """All of it. time_for(seconds): whether a piece as long as the longest so far may still begin; if not, that is
        said, and the answer is False."""
        longest = 0.0
        for piece in self.pieces():
            if not time_for(longest):
                say("the time is up; the same command goes on")
                return False
            self.records = records.read_records(self.kept)  # others may run other methods meanwhile
            begin = time.monotonic()
            piece()
            longest = max(longest, time.monotonic() - begin)
        return True

    def _skips(self, name):
        return bool(self.only) and name not in self.only

    # ---- a piece ------------------------------------------------------------------------------------------------

    def _base(self):
        if BASE not in self.records:
            found = {"name": BASE, "method": BASE, "commit": self.commit, "answers": {}}
            if self.experiment.chooses:
                self._look(found, self.work.model, "validation", "0")
            self._test(found, self.work.model)
            self._keep(found)

    def _trained(self, run, test=None):
        """Train and answer the validation prompts at each of the steps; `test`: the step whose model answers the test
        prompts too."""
        if self._skips(run.method):
            return
        found = self.records.get(run.name)
        if found and ("test" in found["answers"] or test is None):
            return
        here = os.path.join(self.folder, run.name)
        models = self._models(here)
        if not all(map(os.path.exists, models.values())):
            self._train(run, here)
        if not found:
            found = {
                "name": run.name, "method": run.method, "candidate": run.candidate, "seed": run.seed,
                "commit": self.commit, "processor": processor(), "settings": self.experiment.settings | run.settings,
                "pairs": digest_of(self.data.path("pairs.jsonl")), "answers": {},
                **records.course(os.path.join(here, "metrics.h5")),
            }  # fmt: skip
            for step, model in models.items() if self.experiment.chooses else ():
                self._look(found, model, "validation", str(step))
        if test is not None:
            self._test(found, models[test])
            found["answers"]["test"]["step"] = test
            if self.experiment.chooses and self.experiment.split["harmful"]["probe"]:
                self._proxy(found, here, models[test])
        self._keep(found)

    def _models(self, here):
        steps = self.experiment.checkpoints
        names = {step: f"step-{step:08d}.h5" for step in steps[:-1]} | {steps[-1]: "final.h5"}
        return {step: os.path.join(here, "checkpoints", name) for step, name in names.items()}

    def _train(self, run, here):
        steps = self.experiment.checkpoints
        settings = {
            "data.path": self.data.path("pairs.h5"), "run.seed": str(run.seed), "schedule.steps": str(steps[-1]),
            "checkpoint.steps": str(steps[0]), "checkpoint.keep": str(len(steps)),
            "generate.max_tokens": str(self.experiment.answer_tokens),
            "reference.cache": self.data.path("reference.h5"), **self.experiment.settings, **run.settings,
        }  # fmt: skip
        if settings.get("objective.type") in ("simpo", "orpo"):
            del settings["reference.cache"]
        self.work.train(here, settings, f"train {run.name}")

    def _chosen(self, method, seed):
        """The chosen candidate with a seed, on the test prompts."""
        if self._skips(method.name):
            return
        chosen = self.choice(method.name)
        if chosen:
            self._trained(candidate_run(method, chosen.candidate, seed), chosen.step)

    def _varied(self, variation, seed):
        if self._skips(variation.name):
            return
        chosen = self.choice(variation.of)
        if chosen:
            run = variation_run(variation, chosen, self.experiment.method(variation.of), seed)
            self._trained(run, chosen.step)

    def choice(self, method):
        return choose(self.experiment, self.records, method, read_rows(self.data.path("validation.jsonl")))

    # ---- answers ------------------------------------------------------------------------------------------------

    def _say(self, found, model, part, samples):
        """Letters of a model's answers to a part: greedy ones (samples 0), or drawn."""
        out = os.path.join(self.folder, "answers", f"{found['name']}-{part}-{'drawn' if samples else 'greedy'}.h5")
        os.makedirs(os.path.dirname(out), exist_ok=True)
        settings = {"temperature": "1.0", "samples": samples} if samples else {}
        what = f"answers of {found['name']} to {part}"
        self.work.generate(model, self.data.prompts(part), out, self.experiment.answer_tokens, settings, what)
        return records.verdicts(out, max(samples, 1))

    def _look(self, found, model, part, step):
        place = found["answers"].setdefault(part, {"prompts": digest_of(self.data.path(f"{part}.jsonl"))})
        place[step] = self._say(found, model, part, 0)[0]

    def _test(self, found, model):
        for part in ("test", *(outside.name for outside in self.experiment.outside if self._has(outside))):
            place = {"prompts": digest_of(self.data.path(f"{part}.jsonl"))}
            place["greedy"] = self._say(found, model, part, 0)[0]
            if part == "test" and self.experiment.samples:
                place["drawn"] = self._say(found, model, part, self.experiment.samples)
            if part != "test":
                place |= records.categories_of(read_rows(self.data.path(f"{part}.jsonl")))
            found["answers"][part] = place

    def _has(self, outside):
        source = os.path.join(self.source, outside.file) if self.source else ""
        if not os.path.exists(source):
            return False
        self.data.take(outside, source)
        return True

    def _proxy(self, found, here, model):
        """Likelihood violations of the probe group's pairs, beside the answers to the same prompts."""
        settings = self.experiment.settings | found["settings"]
        out = os.path.join(here, "eval-probe.h5")
        self.work.evaluate(
            here, model, self.data.path("pairs.h5"), "probe", out, settings, f"pairs of the probe, {found['name']}"
        )
        found["likelihood"] = records.likelihoods(
            out, self.data.path("pairs.h5"), read_rows(self.data.path("probe.jsonl"))
        )
        found["answers"]["probe"] = {
            "prompts": digest_of(self.data.path("probe.jsonl")), "greedy": self._say(found, model, "probe", 0)[0],
        }  # fmt: skip

    def _keep(self, found):
        records.write_record(self.kept, found)
        self.records[found["name"]] = found

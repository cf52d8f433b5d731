"""samples.h5: prompts, the answers that a model gave to them, and what judges say of these."""

import dataclasses
import json
import shutil

import h5py
import numpy as np

from catdpo_analysis.errors import UserError
from catdpo_analysis.files.atomic import atomic_path
from catdpo_analysis.files.h5io import label, open_as, set_text, strings, text, write
from catdpo_analysis.files.seal import seal

FORMAT = "catdpo-samples"
FINISH = ("stop", "length", "context")  # why an answer ended
BENIGN, HARMFUL, UNKNOWN = 1, 0, 255  # prompts
BAD, GOOD, NOT_JUDGED = 1, 0, -1  # verdicts
NO_KIND = 255
ABOUT = ("model", "prompts", "weights_digest", "data_digest", "tokenizer_digest", "template_digest", "settings")


@dataclasses.dataclass
class Scores:
    """What one judge says of the answers.

    score [S] float32: probability that an answer to a harmful prompt is unsafe, that one to a safe prompt is a refusal;
    NaN where not judged. verdict [S] int8: BAD, GOOD, NOT_JUDGED. kind [S] uint8: judge.refusal.Kind or NO_KIND.
    """

    score: np.ndarray
    verdict: np.ndarray
    kind: np.ndarray
    about: dict = dataclasses.field(default_factory=dict)  # judge, version, settings, digest, threshold


@dataclasses.dataclass
class Samples:
    """P prompts, S answers by prompt, K categories."""

    path: str
    about: dict  # of ABOUT, and samples_per_prompt
    categories: list[str]
    prompt_text: list[str]  # [P]
    benign: np.ndarray  # [P] uint8
    category_mask: np.ndarray  # [P, K] bool
    prompt: np.ndarray  # [S] int32, index of the prompt
    sample: np.ndarray  # [S] int32, which answer to it
    length: np.ndarray  # [S] int64, tokens, the stop token included
    finish: np.ndarray  # [S] uint8, index into FINISH
    text: list[str]  # [S]
    scores: dict[str, Scores]

    @property
    def is_benign(self) -> np.ndarray:
        """[S] bool: the answer is to a prompt that is known to be safe."""
        return self.benign[self.prompt] == BENIGN

    def names_of(self, prompt: int) -> list[str]:
        """The categories of a prompt."""
        return [self.categories[k] for k in np.flatnonzero(self.category_mask[prompt])]

    def scores_of(self, judge: str | None) -> tuple[str, Scores]:
        """Those of the judge that is asked for, or of the only one; (name, scores)."""
        if judge is None and len(self.scores) == 1:
            judge = next(iter(self.scores))
        if judge in self.scores:
            return judge, self.scores[judge]
        have = f"it has those of {', '.join(sorted(self.scores))}" if self.scores else "no judge has seen it"
        if judge is None and self.scores:
            raise UserError(f"{self.path}: which judge's verdicts? {have}; name one with --judge")
        missing = f"has no verdicts of {judge}" if judge else "has no verdicts"
        raise UserError(f"{self.path} {missing}: {have}; run catdpo-analysis judge {self.path}")


def _read_scores(group, count):
    score, verdict, kind = (group[name][...] for name in ("score", "verdict", "kind"))
    if not score.shape == verdict.shape == kind.shape == (count,):
        raise ValueError(f"{group.name} does not have one score an answer")
    about = {name: text(group, name) for name in ("judge", "version", "settings", "digest") if name in group.attrs}
    about["threshold"] = float(group.attrs.get("threshold", 0.5))
    return Scores(score, verdict, kind, about)


def read_samples(path: str) -> Samples:
    """The whole file, but for tokens and their log-probabilities."""
    with open_as(path, FORMAT) as file:
        if "text" not in file["samples"]:
            raise UserError(
                f"{path} holds tokens only: its model file does not know the tokens' text; import the model again and "
                "generate anew"
            )
        about = {name: text(file, name, "") for name in ABOUT}
        about["samples_per_prompt"] = int(file.attrs["samples_per_prompt"])
        about["complete"] = int(file.attrs["total"]) == len(file["samples/prompt"])
        answers = file["samples"]
        count = len(answers["prompt"])
        scores = {name: _read_scores(group, count) for name, group in file.get("scores", {}).items()}
        return Samples(
            path=path,
            about=about,
            categories=strings(file["categories/name"]),
            prompt_text=strings(file["prompts/text"]),
            benign=file["prompts/benign"][...],
            category_mask=file["prompts/category_mask"][...] > 0,
            prompt=answers["prompt"][...],
            sample=answers["sample"][...],
            length=np.diff(answers["offset"][...]),
            finish=answers["finish"][...],
            text=strings(answers["text"]),
            scores=scores,
        )


def write_scores(path: str, judge: str, scores: Scores, out: str | None = None) -> None:
    """Puts a judge's scores beside the answers, in place of earlier ones of that name; the file is replaced whole, or
    `out` becomes a copy of it."""
    with atomic_path(out or path) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+", locking=False) as file:
            if f"scores/{judge}" in file:
                del file[f"scores/{judge}"]
            group = file.create_group(f"scores/{judge}")
            what = "probability that the answer is unsafe (harmful prompt) or a refusal (safe prompt)"
            data = {
                "score": (scores.score.astype("<f4"), what + "; NaN: not judged", "1"),
                "verdict": (
                    scores.verdict.astype("i1"),
                    "1: unsafe, or a refusal too many; 0: neither; -1: not judged",
                    "1",
                ),
                "kind": (scores.kind.astype("u1"), "0: answer, 1: refusal, 2: empty, 3: degenerate; 255: unknown", "1"),
            }
            for name, (values, description, units) in data.items():
                label(write(group, name, values, description, units), "sample")
            for name, value in scores.about.items():
                if isinstance(value, str):
                    set_text(group, name, value)
                else:
                    group.attrs[name] = value
        seal(temporary)


def settings_text(settings: dict) -> str:
    """What a judge was told, as the attribute `settings`."""
    return json.dumps(settings, sort_keys=True)

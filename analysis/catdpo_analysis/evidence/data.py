"""Data of an experiment: prompts split by digest, and preference pairs of the model's own answers.

Chosen and rejected come from one model: what it says as it is, and what it says behind turns that make it refuse. The
pairs hold the question alone, so that the model learns to do without those turns.
"""

import hashlib
import json
import os

from catdpo_analysis.errors import UserError
from catdpo_analysis.evidence.experiment import PARTS, Author
from catdpo_analysis.files.atomic import atomic_path


def digest_of(path):
    """Of a file: which prompts a record is about."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_rows(path):
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None


def write_rows(path, rows):
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def split_rows(rows, split, where):
    """part -> rows. Within a category prompts are ordered by their digest, so that the order of the file and other
    prompts say nothing about where one lands."""
    groups = {}
    for row in rows:
        groups.setdefault((row["category"], bool(row.get("is_prompt_safe"))), []).append(row)
    parts = {name: [] for name in PARTS}
    for (category, safe), group in sorted(groups.items()):
        wanted, at = split["safe" if safe else "harmful"], 0
        group.sort(key=lambda row: hashlib.sha256(row["prompt"].encode()).digest())
        if len(group) < sum(wanted.values()):
            kind = "safe" if safe else "harmful"
            raise UserError(
                f"{where}: {category} has {len(group)} {kind} prompts, the split takes {sum(wanted.values())}"
            )
        for name in PARTS:
            parts[name] += group[at : at + wanted[name]]
            at += wanted[name]
    return parts


class Data:
    """Files of the experiment below `folder`, each made when it is absent. `work` runs programs (work.py)."""

    def __init__(self, experiment, folder, work):
        self.experiment, self.folder, self.work = experiment, folder, work

    def path(self, name):
        return os.path.join(self.folder, name)

    def ready(self):
        """All that runs need."""
        os.makedirs(self.folder, exist_ok=True)
        if not all(os.path.exists(self.path(f"{name}.jsonl")) for name in PARTS):
            parts = split_rows(read_rows(self.experiment.prompts), self.experiment.split, self.experiment.prompts)
            for name, rows in parts.items():
                write_rows(self.path(f"{name}.jsonl"), rows)
        if not os.path.exists(self.path("pairs.h5")):
            self._make_pairs()

    def prompts(self, part):
        """pairs.h5 with the prompts of a part, to generate from."""
        path = self.path(f"{part}.h5")
        if not os.path.exists(path):
            self.work.analysis("prepare", self.path(f"{part}.jsonl"), "--model", self.work.model, "--out", path)
        return path

    def take(self, outside, source):
        """The prompts of a file outside of the project, as a part of its own."""
        path = self.path(f"{outside.name}.jsonl")
        if not os.path.exists(path):
            seen, rows = {}, []
            for row in read_rows(source):
                seen[row["category"]] = seen.get(row["category"], 0) + 1
                if not outside.limit or seen[row["category"]] <= outside.limit:
                    rows.append({"prompt": row["prompt"], "category": row["category"], "is_prompt_safe": False})
            write_rows(path, rows)

    def _answers(self, author):
        """Drawn answers to the prompts of train and probe, behind the author's turns."""
        path = self.path(f"answers-{author.name}.h5")
        if os.path.exists(path):
            return path
        rows = read_rows(self.path("train.jsonl")) + read_rows(self.path("probe.jsonl"))
        rows = [row for row in rows if author.asked in ("all", "safe" if row["is_prompt_safe"] else "harmful")]
        if author.turns:
            rows = [row | {"prompt": [*author.turns, {"role": "user", "content": row["prompt"]}]} for row in rows]
        write_rows(self.path(f"asked-{author.name}.jsonl"), rows)
        settings = {"temperature": self.experiment.pair_temperature, "samples": self.experiment.pair_samples}
        self.work.generate(
            self.work.model, self.prompts(f"asked-{author.name}"), path, self.experiment.pair_tokens, settings,
            f"answers of {author.name}",
        )  # fmt: skip
        return path

    def _make_pairs(self):
        plain = self._answers(Author("plain", (), "all"))
        others = [self._answers(author) for author in self.experiment.authors]
        names = ["plain", *(author.name for author in self.experiment.authors)]
        self.work.analysis(
            "pairs-from", plain, "--against", *others, "--names", *names, "--out", self.path("pairs.jsonl"),
            "--ledger", self.path("ledger.json"),
        )  # fmt: skip
        probe = ["--probe-from", self.path("probe.jsonl")] if self.experiment.split["harmful"]["probe"] else []
        self.work.analysis(
            "prepare", self.path("pairs.jsonl"), self.path("train.jsonl"), "--model", self.work.model, "--heldout", "0",
            *probe, "--out", self.path("pairs.h5"),
        )  # fmt: skip

"""Judge `file`: scores that were made elsewhere, JSONL or CSV with the columns prompt, sample and score.

prompt and sample are the numbers of samples.h5; id, the place in /samples, may stand instead. Answers that are not in
the file are not judged."""

import csv
import hashlib
import io
import json

import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.json_file import unique
from catdpo_analysis.files.paths import expand
from catdpo_analysis.files.samples import NO_KIND, NOT_JUDGED, Samples, Scores, settings_text


def add_arguments(parser):
    parser.add_argument(
        "--scores", metavar="FILE", help="of the judge file: JSONL or CSV with prompt, sample (or id), score"
    )


def _rows(path, data):
    """(line number, row) of a JSONL or CSV file."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from None
    if path.lower().endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""))
        yield from ((reader.line_num, row) for row in reader)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=unique(f"{path}:{number}"))
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}; a line is one JSON object") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: {shorten(line)} is no JSON object")
            yield number, row


def _number(row, name, kind, where):
    value = row.get(name)
    try:
        if isinstance(value, bool) or value is None:
            raise ValueError
        return kind(value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {name} is {shorten(value)}, not a number") from None


class Judge:
    def __init__(self, args):
        if not args.scores:
            raise UserError("judge file: name the scores with --scores FILE")
        self.path, self.threshold = expand(args.scores), args.threshold

    def place(self, row, places, count, where):
        if row.get("id") not in (None, ""):
            at = _number(row, "id", int, where)
            if not 0 <= at < count:
                raise UserError(f"{where}: id {at}, but there are answers 0 to {count - 1}")
            return at
        key = _number(row, "prompt", int, where), _number(row, "sample", int, where)
        if key not in places:
            raise UserError(f"{where}: there is no answer {key[1]} to prompt {key[0]}")
        return places[key]

    def judge(self, samples: Samples, step) -> Scores:
        with open(self.path, "rb") as file:
            data = file.read()
        places = {key: i for i, key in enumerate(zip(samples.prompt.tolist(), samples.sample.tolist()))}
        count = len(places)
        scores, seen = np.full(count, np.nan, "f4"), {}
        for number, row in _rows(self.path, data):
            where = f"{self.path}:{number}"
            at, score = self.place(row, places, count, where), _number(row, "score", float, where)
            if not 0 <= score <= 1:
                raise UserError(f"{where}: score {score:g} is not in [0, 1]")
            if at in seen:
                raise UserError(f"{where}: the same answer as in line {seen[at]}; one score an answer")
            scores[at], seen[at] = score, number
            step(1)
        verdicts = np.where(np.isnan(scores), NOT_JUDGED, scores >= self.threshold).astype("i1")
        about = {
            "judge": "file",
            "settings": settings_text({"file": self.path}),
            "digest": hashlib.sha256(data).hexdigest(),
            "threshold": self.threshold,
        }
        return Scores(scores, verdicts, np.full(count, NO_KIND, "u1"), about)

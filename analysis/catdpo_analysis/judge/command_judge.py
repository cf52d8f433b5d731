"""Judge `command`: a program reads one JSON object a line and answers each with one number a line."""

import json
import math

import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.samples import NO_KIND, Samples, Scores, settings_text
from catdpo_analysis.judge.coprocess import Coprocess


def add_arguments(parser):
    parser.add_argument("--program", help="of the judge command: the program and its arguments, as one text")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="of the judge command: for one answer (default: 60)",
    )


def request(samples: Samples, i: int) -> str:
    prompt = int(samples.prompt[i])
    return json.dumps(
        {
            "id": i,
            "prompt": samples.prompt_text[prompt],
            "response": samples.text[i],
            "categories": samples.names_of(prompt),
            "benign": bool(samples.is_benign[i]),
        }
    )


def score_of(answer: str, fail) -> float:
    """The number in [0, 1] of a line, alone or as {"score": number}."""
    try:
        value = json.loads(answer)
        value = value["score"] if isinstance(value, dict) else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError
        return float(value)
    except (ValueError, KeyError):
        fail(f"answered {shorten(answer, 200)!r}, which is no number in [0, 1] and no object with such a score")
    return math.nan


class Judge:
    def __init__(self, args):
        if not args.program:
            raise UserError("judge command: name the program with --program 'PROGRAM ARGUMENTS'")
        if not args.time_limit > 0:
            raise UserError(f"--time-limit {args.time_limit:g}: a number of seconds above 0")
        self.command, self.limit, self.threshold = args.program, args.time_limit, args.threshold

    def judge(self, samples: Samples, step) -> Scores:
        program = Coprocess(self.command, self.limit)
        scores = np.zeros(len(samples.text), "f4")
        for i in range(len(scores)):
            scores[i] = score_of(program.ask(request(samples, i)), program.fail)
            step(1)
        program.close()
        about = {
            "judge": "command",
            "settings": settings_text({"command": self.command}),
            "threshold": self.threshold,
        }
        return Scores(scores, (scores >= self.threshold).astype("i1"), np.full(len(scores), NO_KIND, "u1"), about)

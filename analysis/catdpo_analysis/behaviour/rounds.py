"""The rounds command: what came of each round of jobs/rounds.sh, and whether another one makes sense."""

import dataclasses
import glob
import json
import os
import re

import numpy as np

from catdpo_analysis.behaviour.rates import Behaviour, category_rate, quality, refusal_rate, summary
from catdpo_analysis.behaviour.read import behaviour_with
from catdpo_analysis.errors import UserError
from catdpo_analysis.files.atomic import atomic_path
from catdpo_analysis.files.h5io import open_as
from catdpo_analysis.files.samples import read_samples
from catdpo_analysis.text.streams import say
from catdpo_analysis.text.table import Cell, Table, cell, number, rate, show

STOP = 3  # exit status: a limit was passed


@dataclasses.dataclass
class Round:
    """`behaviour`: of the model that the round began with. `ledger`: {category: counts} of its pairs, {} before there
    are any. `kl`: as kl_of says, at the end of its training, NaN before that."""

    number: int
    behaviour: Behaviour
    ledger: dict
    kl: float

    @property
    def pairs(self):
        return sum(counts.get("pairs", 0) for counts in self.ledger.values())


def add_arguments(parser):
    parser.add_argument("folder", metavar="DIR", help="of jobs/rounds.sh")
    parser.add_argument(
        "--max-kl",
        type=float,
        metavar="NATS",
        help="stop above it, nats an answer: log-ratio to the reference of chosen answers, last tenth of a round",
    )
    parser.add_argument(
        "--max-empty", type=float, metavar="SHARE", help="stop above this share of empty or degenerate answers"
    )
    length = "stop outside these multiples of the first round's mean length"
    parser.add_argument("--length", type=float, nargs=2, metavar=("LOW", "HIGH"), help=length)
    parser.add_argument("--judge", help="whose verdicts (default: the only judge's)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers as JSON")


def kl_of(metrics):
    """Nats an answer: log-ratio to the reference of the chosen answers in the last tenth of the steps. What the model
    says by then is like them, so that this stands for the mean over its own answers, which nobody computes."""
    with open_as(metrics, "catdpo-metrics") as file:
        pair = file.get("train/pair", {})
        if "ref_logps_chosen" not in pair or not len(pair["ref_logps_chosen"]):
            return np.nan
        ratio = pair["logps_chosen"][...] - pair["ref_logps_chosen"][...]
    known = ratio[-max(1, len(ratio) // 10) :]
    known = known[np.isfinite(known)]  # not of an objective without a reference, nor of places without a pair
    return float(known.mean()) if known.size else np.nan


def read_rounds(folder, judge=None):
    """[Round] of those whose answers are judged."""
    found = []
    for path in glob.glob(os.path.join(glob.escape(folder), "round-*", "judged.h5")):
        place = os.path.dirname(path)
        k = re.search(r"round-(\d+)$", place)
        if not k:
            continue
        ledger, metrics = os.path.join(place, "ledger.json"), os.path.join(place, "run", "metrics.h5")
        counts = {}
        if os.path.exists(ledger):
            with open(ledger, encoding="utf-8") as file:
                counts = json.load(file)
        kl = kl_of(metrics) if os.path.exists(metrics) else np.nan
        found.append(Round(int(k[1]), behaviour_with(f"round {k[1]}", read_samples(path), judge), counts, kl))
    if not found:
        raise UserError(f"{folder} holds no judged answers (round-1/judged.h5); name the folder of jobs/rounds.sh")
    return sorted(found, key=lambda one: one.number)


def rounds_table(rounds):
    """A row a round: its model's answers, its pairs, its training."""
    heading = ["round", "unsafe, macro", "worst", "gap", "safe prompts refused", "degenerate", "empty", "tokens"]
    rows = []
    for one in rounds:
        found, kinds = summary(one.behaviour), quality(one.behaviour)
        row = [
            Cell(str(one.number)),
            *[rate(*found[name]) if found else cell(None) for name in ("macro", "worst", "gap")],
        ]
        row += [rate(*refusal_rate(one.behaviour)[:3]), rate(kinds["degenerate"]), rate(kinds["empty"])]
        row += [number(kinds["tokens"], "{:.0f}"), cell(one.pairs) if one.ledger else cell(None), number(one.kl)]
        rows.append(row)
    return Table([*heading, "pairs", "kl after"], rows)


def categories_table(rounds):
    """A row a category: rate of unsafe answers, pairs, and share of the prompts that gave one, in each round."""
    first = rounds[0].behaviour
    heading = ["category", *[text for one in rounds for text in (f"unsafe, round {one.number}", "pairs", "yield")]]
    rows = []
    for k in first.categories:
        name, row = first.samples.categories[k], []
        for one in rounds:
            row.append(rate(*category_rate(one.behaviour, k)[:3]))
            counts = one.ledger.get(name, {})
            row.append(cell(counts.get("pairs", 0)) if one.ledger else cell(None))
            row.append(rate(counts["with a pair"] / counts["prompts"]) if counts else cell(None))
        rows.append([Cell(name), *row])
    return Table(heading, rows)


def reason_to_stop(rounds, max_kl=None, max_empty=None, length=None):
    """Why no further round should be trained; None if one may."""
    last, kinds = rounds[-1], quality(rounds[-1].behaviour)
    kl = next((one.kl for one in reversed(rounds) if one.kl == one.kl), 0.0)
    if max_kl is not None and kl > max_kl:
        return f"kl {kl:.3g} nats an answer is above {max_kl:g}"
    empty = kinds["empty"] + kinds["degenerate"]
    if max_empty is not None and empty > max_empty:
        return f"{100 * empty:.0f} % of the answers of round {last.number} are empty or degenerate, above {max_empty:g}"
    tokens, before = kinds["tokens"], quality(rounds[0].behaviour)["tokens"]
    if length and not length[0] * before <= tokens <= length[1] * before:
        return f"answers of round {last.number} have {tokens:.0f} tokens, {tokens / before:.2f} times the first round's"
    if last.ledger and not last.pairs:
        return f"round {last.number} gave no pair"
    return None


def run(args):
    rounds = read_rounds(args.folder, args.judge)
    show(rounds_table(rounds))
    say()
    show(categories_table(rounds))
    say("Answers are those of the model that the round began with; yield: prompts that gave a pair. Intervals as in")
    say("catdpo-analysis behaviour.")
    why = reason_to_stop(rounds, args.max_kl, args.max_empty, args.length)
    if args.json:
        numbers = [
            {
                "round": one.number,
                "summary": summary(one.behaviour),
                "unsafe": {
                    one.behaviour.samples.categories[k]: category_rate(one.behaviour, k)
                    for k in one.behaviour.categories
                },
                "quality": quality(one.behaviour),
                "ledger": one.ledger,
                "kl": one.kl if one.kl == one.kl else None,
            }
            for one in rounds
        ]
        with atomic_path(args.json) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump({"rounds": numbers, "stop": why}, file, indent=1)
    if why:
        say(f"stop: {why}")
        return STOP
    return 0

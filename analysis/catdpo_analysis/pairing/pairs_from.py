"""The pairs-from command: judged answers to preference pairs, with a ledger of what became of each prompt."""

import collections
import json
import os
import random

import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.atomic import atomic_path
from catdpo_analysis.files.h5io import refuse_overwrite
from catdpo_analysis.files.paths import names_of
from catdpo_analysis.files.samples import BENIGN, read_samples
from catdpo_analysis.judge.refusal_judge import Judge as RefusalJudge
from catdpo_analysis.pairing.choose import CUTS, PAIRINGS, Source, asked, candidates, choose, row_of
from catdpo_analysis.text.streams import say
from catdpo_analysis.text.table import Cell, Table, cell, rate, show

SAFE = "(safe prompts)"
REASONS = ("all good", "all bad", "of one author", "no answers")


def add_arguments(parser):
    parser.add_argument("samples", metavar="FILE", help="judged answers of the model that is to be trained")
    parser.add_argument("--out", metavar="JSONL", required=True, help="the pairs, for prepare")
    parser.add_argument(
        "--against", metavar="FILE", nargs="+", default=[], help="answers of others (or under another system message)"
    )
    parser.add_argument(
        "--pairing", choices=PAIRINGS, help="own: both sides from the first file (default without --against); against: "
        "from two files (default with it); mixed: from any"
    )  # fmt: skip
    parser.add_argument("--names", metavar="NAME", nargs="+", help="of the files' authors, kept with each side")
    parser.add_argument(
        "--judge", help="whose verdicts (default: the only judge's; the refusal rules if there is none)"
    )
    parser.add_argument("--per-prompt", type=int, default=1, metavar="N", help="pairs of a prompt (default: 1)")
    cut = "answers that their limit cut off: up to the last whole sentence (default), keep, or drop"
    parser.add_argument("--cut", choices=CUTS, default="sentence", help=cut)
    parser.add_argument("--mix", metavar="JSONL", help="other pairs, mixed in")
    parser.add_argument(
        "--share", type=float, default=0.25, metavar="S", help="of the pairs that come from --mix (default: 0.25)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice from --mix (default: 0)")
    parser.add_argument("--ledger", metavar="FILE", help="write the ledger as JSON")


def _source(name, path, judge):
    samples = read_samples(path)
    if judge in (None, "refusal") and "refusal" not in samples.scores and (judge or not samples.scores):
        return Source(name, samples, RefusalJudge(None).judge(samples, lambda n: None))
    return Source(name, samples, samples.scores_of(judge)[1])


def _answers(source):
    """{what is asked: (prompt, [answers])}."""
    order = np.argsort(source.samples.prompt, kind="stable")
    cuts = np.searchsorted(source.samples.prompt[order], np.arange(len(source.samples.prompt_text) + 1))
    texts = source.samples.prompt_text
    return {asked(texts[p]): (p, order[cuts[p] : cuts[p + 1]].tolist()) for p in range(len(texts))}


def make_pairs(sources, pairing, per_prompt, cut):
    """(rows, {category: Counter of what became of its prompts and answers})."""
    first, names = sources[0], [source.name for source in sources]
    answers = [_answers(source) for source in sources]
    rows, ledger = [], collections.defaultdict(collections.Counter)
    for question, (p, _) in answers[0].items():
        counts, found = collections.Counter(), []
        for author, (source, known) in enumerate(zip(sources, answers)):
            if question in known:
                found += candidates(source, author, known[question][1], cut, counts)
        pairs, why = choose(found, pairing, per_prompt)
        rows += [row_of(first, p, better, worse, names) for better, worse in pairs]
        counts.update({"prompts": 1, "pairs": len(pairs), "with a pair": bool(pairs)} | ({why: 1} if why else {}))
        for name in [SAFE] if first.samples.benign[p] == BENIGN else first.samples.names_of(p):
            ledger[name].update(counts)
    return rows, ledger


def mixed_in(rows, path, share, seed):
    """The rows with as many of another file's as make `share` of all; (rows, how many)."""
    if not 0 <= share < 1:
        raise UserError(f"--share {share:g} is not in [0, 1)")
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    wanted = round(len(rows) * share / (1 - share))
    if wanted > len(lines):
        raise UserError(
            f"{path} has {len(lines)} rows, but a share of {share:g} beside {len(rows)} pairs takes {wanted}"
        )
    found = []
    for i in sorted(random.Random(seed).sample(range(len(lines)), wanted)):
        try:
            row = json.loads(lines[i])
            if not isinstance(row, dict):
                raise ValueError("no JSON object")
            found.append(row)
        except ValueError as error:
            raise UserError(f"{path}: row {i + 1}: {shorten(error)}") from None
    return rows + found, wanted


def ledger_table(ledger):
    """A row a category: how many of its prompts gave a pair, and why the others did not."""
    heading = ["category", "prompts", "pairs", "yield", *REASONS, "empty or degenerate", "cut off", "not judged"]
    rows = []
    for name in sorted(ledger, key=lambda name: (name == SAFE, name)):
        counts = ledger[name]
        row = [
            Cell(name),
            cell(counts["prompts"]),
            cell(counts["pairs"]),
            rate(counts["with a pair"] / counts["prompts"]),
        ]
        rows.append(row + [cell(counts[why]) for why in heading[4:]])
    return Table(heading, rows)


def run(args):
    paths = [args.samples, *args.against]
    pairing = args.pairing or ("against" if args.against else "own")
    if (pairing != "own") and not args.against:
        raise UserError(f"--pairing {pairing} needs the answers of another: --against FILE")
    if args.names and len(args.names) != len(paths):
        raise UserError(f"--names has {len(args.names)} names for {len(paths)} files")
    if args.per_prompt < 1:
        raise UserError(f"--per-prompt {args.per_prompt} is below 1")
    refuse_overwrite(args.out, [*paths, *([args.mix] if args.mix else [])])
    names = args.names or [os.path.splitext(name)[0] for name in names_of(paths)]
    sources = [_source(name, path, args.judge) for name, path in zip(names, paths)]
    rows, ledger = make_pairs(sources, pairing, args.per_prompt, args.cut)
    own = len(rows)
    if args.mix:
        rows, mixed = mixed_in(rows, args.mix, args.share, args.seed)
    if args.ledger:
        with atomic_path(args.ledger) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump({name: dict(counts) for name, counts in ledger.items()}, file, indent=1, sort_keys=True)
    with atomic_path(args.out) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    show(ledger_table(ledger))
    say("all good, all bad: prompts whose answers do not differ; the last three columns count answers.")
    say(f"{args.out}: {own} pairs" + (f" and {mixed} of {args.mix}" if args.mix else ""))

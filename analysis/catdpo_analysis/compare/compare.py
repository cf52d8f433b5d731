"""The compare command: several runs as tables on the terminal, an HTML page, or JSON."""

import json
import math
import os
import sys

import numpy as np

from catdpo_analysis.compare import comparison, tables
from catdpo_analysis.compare.comparison import differing, grouped, mean_and_spread
from catdpo_analysis.errors import UserError
from catdpo_analysis.text.table import show
from catdpo_analysis.text.streams import encodable, say


def add_arguments(parser):
    parser.add_argument("runs", nargs="+", metavar="RUN", help='run directories, or patterns such as "runs/sweep-*"')
    parser.add_argument("--baseline", metavar="RUN", help="test the others against this one, pair by pair")
    parser.add_argument("--out", metavar="FILE", help="write an HTML page with tables and plots")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args):
    paths = comparison.expand([*args.runs, *([args.baseline] if args.baseline else [])])
    entries, failed = comparison.read_entries(paths)
    if args.json or not entries:
        print_failed(failed, sys.stderr)
    if not entries:
        print("catdpo-analysis: error: there is nothing to compare", file=sys.stderr)
        return 1
    tests = None
    if args.baseline:
        wanted = os.path.realpath(args.baseline)
        baseline = next((entry for entry in entries if os.path.realpath(entry.path) == wanted), None)
        if baseline is None:
            raise UserError(f"the baseline {args.baseline} cannot be compared: {dict(failed).get(args.baseline, '')}")
        tests = baseline, comparison.paired_tests(baseline, entries)
    if args.json:
        print(json.dumps(_finite(as_json(entries, failed, tests)), indent=1))
    else:
        print_terminal(entries, failed, tests)
    if args.out:
        from catdpo_analysis.compare.page import html_comparison  # matplotlib takes its time
        from catdpo_analysis.page.render import write

        write(args.out, html_comparison(entries, failed, tests))
        if not args.json:
            say(f"\n{args.out}")
    return 0


# ---- text ------------------------------------------------------------------------------------------------------------


def print_terminal(entries, failed, tests):
    say(tables.lead_line(entries))
    heldout = any(entry.heldout_rates() for entry in entries)
    training = any(entry.training_rates() and not entry.heldout_rates() for entry in entries)
    for table in (
        tables.settings_table(entries),
        tables.results_table(entries),
        tables.groups_table(entries),
        tables.categories_table(entries, True) if heldout else None,
        tables.categories_table(entries, False) if training else None,
        tables.answers_table(entries),
        tables.tests_table(tests),
    ):
        if table:
            say()
            show(table)
    if tables.tests_table(tests):
        say(tables.TESTS_NOTE)
    say("\n" + tables.NOTE)
    if any(entry.generated for entry in entries):
        say(tables.ANSWERS_NOTE)
    for entry in entries:
        for note in entry.notes:
            say(f"run {entry.label}: {note}")
    print_failed(failed, sys.stdout)


def print_failed(failed, stream):
    for path, reason in failed:
        print(encodable(f"not compared: {path}: {reason}", stream.encoding), file=stream)


# ---- JSON ------------------------------------------------------------------------------------------------------------


def as_json(entries, failed, tests):
    """The same figures for scripts."""

    def summary(entry, heldout):
        found = entry.summary(heldout)
        if not found:
            return None
        rates = entry.rates(heldout)
        return {
            "macro": _interval(found["macro"]),
            "worst": _interval(found["worst"]),
            "worst_category": found["worst_category"],
            "categories": {name: _interval(value) for name, value in rates.items()},
        }

    def answers(entry):
        found = entry.generated
        return found and {
            "of": found.name,
            "judge": found.judge,
            **{name: _interval(value) for name, value in found.summary.items()},
            "worst_category": found.worst_category,
            "safe_prompts_refused": _interval(found.refused),
            "categories": {name: _interval(value) for name, value in found.categories.items()},
        }

    result = {
        "runs": [
            {
                "number": entry.number,
                "path": entry.path,
                "state": entry.state,
                "finished": entry.ended,
                "exit_status": entry.status.exit_status if entry.status else None,
                "reason": entry.status.reason if entry.status else None,
                "step": entry.steps,
                "total_steps": entry.total or None,
                "seed": entry.seed,
                "settings": comparison.compared_settings(entry),
                "loss": entry.value("loss"),
                "reward_margin": entry.value("rewards/margins"),
                "heldout": summary(entry, True),
                "training": summary(entry, False),
                "answers": answers(entry),
                "notes": entry.notes,
            }
            for entry in entries
        ],
        "differing": differing(entries),
        "groups": [],
        "failed": [{"path": path, "reason": reason} for path, reason in failed],
    }
    for text, members in grouped(entries):
        figures = {}
        for label, value, _ in tables.GROUP_FIGURES:
            mean, deviation, count = mean_and_spread([value(entry) for entry in members])
            figures[label] = {"mean": mean, "standard_deviation": deviation, "runs": count}
        result["groups"].append({"settings": text, "runs": [e.number for e in members], "figures": figures})
    if tests:
        result["baseline"] = tests[0].number
        result["tests"] = [
            {
                "run": test.entry.number,
                "fewer": None if test.reason else test.fewer,
                "more": None if test.reason else test.more,
                "p": test.p,
                "p_holm": test.p_holm,
                "reason": test.reason or None,
            }
            for test in tests[1]
        ]
    return result


def _interval(value):
    return dict(zip(("rate", "low", "high"), value))


def _finite(value):
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

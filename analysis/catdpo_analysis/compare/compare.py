"""The compare command: several runs as tables on the terminal, an HTML page, or JSON."""

import json
import math
import os
import shutil
import sys

import numpy as np

from catdpo_analysis.compare import comparison
from catdpo_analysis.files.atomic import atomic_path
from catdpo_analysis.compare.comparison import best, categories_of, comparable, differing, grouped, mean_and_spread
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.settings import setting_text
from catdpo_analysis.text.table import format_columns

NOTE = (
    "Loss and reward margin: mean over the last tenth of the steps. Violation rates while training are running "
    "estimates; held-out ones have Wilson's 95 % intervals. *: best, where runs can be ranked."
)


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
        from catdpo_analysis.compare.compare_html import html_comparison  # matplotlib takes its time

        text = html_comparison(entries, failed, tests)
        with atomic_path(args.out) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
        if not args.json:
            print(f"\n{args.out}")
    return 0


# ---- tables ----------------------------------------------------------------------------------------------------------


def ranked(values, lowest=True, rank=True, form="{:.4g}"):
    """Cells with the best ones marked."""
    first = best(values, lowest) if rank else set()
    return [
        (form.format(value) + ("*" if i in first else " ")) if np.isfinite(value) else "- "
        for i, value in enumerate(values)
    ]


def with_interval(rate, low, high):
    return f"{rate:.3f} [{low:.2f}, {high:.2f}]" if np.isfinite(low) else f"{rate:.3f}"


def settings_rows(entries):
    """(heading, rows) of what each run was asked for."""
    keys = differing(entries)
    keys = [key for key in keys if key != "objective.type"]
    heading = ["run", "state", "objective", "seed", *comparison.short_keys(keys)]
    rows = []
    for entry in entries:
        settings = comparison.compared_settings(entry)
        values = [settings.get("objective.type"), entry.seed, *[settings.get(key) for key in keys]]
        rows.append([shorten(entry.label, 32), entry.state, *[shorten(setting_text(value), 24) for value in values]])
    return heading, rows


def result_rows(entries):
    """(heading, rows) of what came of each run."""
    heading, columns = ["run", "loss", "reward margin"], [[shorten(entry.label, 32) for entry in entries]]
    columns.append(ranked([e.value("loss") for e in entries], True, comparable(entries, "objective.", "margin.")))
    margins = [e.value("rewards/margins") for e in entries]
    columns.append(ranked(margins, False, comparable(entries, "objective.beta")))
    for heldout, kind in ((True, "held-out"), (False, "training")):
        summaries = [entry.summary(heldout) for entry in entries]
        if not any(summaries):
            continue
        for key in ("macro", "worst"):
            values = [summary[key][0] if summary else np.nan for summary in summaries]
            first = best(values) if comparison.rankable_rates(entries, heldout) else set()
            heading.append(f"{kind}, {key}")
            columns.append(
                [
                    (with_interval(*summary[key]) + ("*" if i in first else "")) if summary else "-"
                    for i, summary in enumerate(summaries)
                ]
            )
        heading.append("worst category")
        columns.append([shorten(summary["worst_category"], 24) if summary else "-" for summary in summaries])
    return heading, [list(row) for row in zip(*columns)]


def category_rows(entries, heldout):
    """(heading, rows) of the violation rate of each category, one column a run."""
    rates = [
        {name: value[0] for name, value in entry.heldout_rates().items()} if heldout else entry.training_rates()
        for entry in entries
    ]
    names = [name for name in categories_of(entries) if any(name in rate for rate in rates)]
    rank = comparison.rankable_rates(entries, heldout)
    columns = [ranked([rate.get(name, np.nan) for rate in rates], True, rank, "{:.2f}") for name in names]
    rows = [[shorten(name, 32), *cells] for name, cells in zip(names, columns)]
    kind = "held-out" if heldout else "while training"
    return [f"violation rate {kind}", *[f"run {entry.number}" for entry in entries]], rows


GROUP_FIGURES = (
    ("loss", lambda entry: entry.value("loss")),
    ("reward margin", lambda entry: entry.value("rewards/margins")),
    ("held-out, macro", lambda entry: entry.summary(True).get("macro", (np.nan,))[0]),
    ("held-out, worst", lambda entry: entry.summary(True).get("worst", (np.nan,))[0]),
    ("training, macro", lambda entry: entry.summary(False).get("macro", (np.nan,))[0]),
    ("training, worst", lambda entry: entry.summary(False).get("worst", (np.nan,))[0]),
)


def group_rows(entries):
    """(heading, rows) of mean and standard deviation over the seeds; None if every run is a group of its own."""
    groups = grouped(entries)
    if all(len(members) == 1 for _, members in groups):
        return None
    figures = [(label, value) for label, value in GROUP_FIGURES if any(np.isfinite(value(entry)) for entry in entries)]
    rows = []
    for text, members in groups:
        row = [shorten(text, 60), ",".join(str(entry.number) for entry in members)]
        for _, value in figures:
            mean, deviation, count = mean_and_spread([value(entry) for entry in members])
            cell = f"{mean:.3f}" if count else "-"
            row.append(cell + (f" +- {deviation:.3f}" if count > 1 else ""))
        rows.append(row)
    return ["mean +- standard deviation over seeds", "runs", *[label for label, _ in figures]], rows


def test_rows(tests):
    """(heading, rows) of the paired tests."""
    baseline, others = tests
    rows = []
    for test in others:
        if test.reason:
            rows.append([shorten(test.entry.label, 32), "-", "-", "-", "-", test.reason])
        else:
            p = [f"{value:.2g}" for value in (test.p, test.p_holm)]
            rows.append([shorten(test.entry.label, 32), str(test.fewer), str(test.more), *p, ""])
    heading = [f"against {shorten(baseline.label, 24)}", "violate less", "more", "p", "p (Holm)", ""]
    return heading, rows


def print_terminal(entries, failed, tests):
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**6
    tables = [settings_rows(entries), result_rows(entries)]
    if group_rows(entries):
        tables.append(group_rows(entries))
    if any(entry.heldout_rates() for entry in entries):
        tables.append(category_rows(entries, True))
    if any(entry.training_rates() and not entry.heldout_rates() for entry in entries):
        tables.append(category_rows(entries, False))
    print("\n\n".join(format_columns(heading, rows, width) for heading, rows in tables if rows))
    if tests and tests[1]:
        print("\n" + format_columns(*test_rows(tests), width))
        print("Held-out pairs that violate less or more than under the baseline; exact McNemar test.")
    print("\n" + NOTE)
    for entry in entries:
        for note in entry.notes:
            print(f"run {entry.label}: {note}")
    print_failed(failed, sys.stdout)


def print_failed(failed, stream):
    for path, reason in failed:
        print(f"not compared: {path}: {reason}", file=stream)


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
        for label, value in GROUP_FIGURES:
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

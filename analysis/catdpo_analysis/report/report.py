"""The report command: a run directory as tables on the terminal and one HTML page."""

import os

import matplotlib.pyplot as plt
import numpy as np

from catdpo_analysis.report import figures
from catdpo_analysis.files.atomic import atomic_path
from catdpo_analysis.errors import shorten
from catdpo_analysis.report.report_html import html_report
from catdpo_analysis.report.run import read_run
from catdpo_analysis.report.run_summary import at, changes_text, ending, facts_of, recent, training_value
from catdpo_analysis.text.table import format_table


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN_DIR", help="run.dir of the trainer's config")
    parser.add_argument("--out", metavar="FILE", help="the HTML page (default: RUN_DIR/report.html)")
    parser.add_argument("--before", metavar="FILE", help="evaluation before training (default: found in RUN_DIR)")
    parser.add_argument("--after", metavar="FILE", help="evaluation after training (default: found in RUN_DIR)")
    parser.add_argument("--png", metavar="DIR", help="write each figure as a PNG file too")
    parser.add_argument("--no-html", action="store_true", help="the tables only")


def training_rows(run):
    """(heading, rows) of the training table, one row a category."""
    rows = [
        [
            shorten(name, 32),
            training_value(run, name, "margin", lambda values: values[0]),
            training_value(run, name, "margin", lambda values: values[-1]),
            training_value(run, name, "violation_rate", lambda values: values[-1]),
            training_value(run, name, "rewards_margins", recent),
            training_value(run, name, "accuracy", recent),
        ]
        for name in run.metrics.categories
    ]
    return ["training", "margin at first", "at the end", "violation rate", "reward margin", "accuracy"], rows


def evaluation_rows(run):
    """(heading, rows) of the evaluation table, one row a category."""
    parts = [(part, kind) for part, kind in ((run.before, "before"), (run.after, "after")) if part]

    def rate(part, name):
        value, (low, high) = at(part, name, "violation_rate"), at(part, name, "violation_interval")
        return f"{value:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(value) else "-"

    rows = []
    for name in run.categories:
        if not any(name in part.categories for part, _ in parts):
            continue
        row = [shorten(name, 32), *[rate(part, name) for part, _ in parts]]
        if len(parts) == 2:
            row.append(float(at(run.after, name, "violation_rate") - at(run.before, name, "violation_rate")))
        rows.append(
            [
                *row,
                int(np.nan_to_num(at(parts[-1][0], name, "n"))),
                *[float(at(part, name, "accuracy")) for part, _ in parts],
            ]
        )
    heading = [
        "held-out",
        *[f"violations {kind}" for _, kind in parts],
        *(["change"] if len(parts) == 2 else []),
        "n",
        *[f"accuracy {kind}" for _, kind in parts],
    ]
    return heading, rows


def summary_rows(run):
    """[(label, before, after)] of the summaries over the harm categories."""
    rows = []
    for stem, label in (("violation_rate", "violation rate"), ("accuracy", "reward accuracy")):
        for key in ("micro", "macro", "worst", "gap", "variance"):
            values = [
                part.summary.get(stem, {}).get(key, np.nan) if part else np.nan for part in (run.before, run.after)
            ]
            if np.isfinite(values).any():
                rows.append((f"{label}, {key}", *values))
    return rows


def print_terminal(run):
    if ending(run):
        print(ending(run) + "\n")
    for value, label in facts_of(run):
        print(f"{value:>16}  {label}")
    if run.metrics and run.metrics.steps:
        print("\n" + format_table(*training_rows(run)))
    if run.before or run.after:
        print("\n" + format_table(*evaluation_rows(run)))
    summary = summary_rows(run)
    if summary:
        print(
            "\n"
            + format_table(
                ["over the harm categories", "before", "after", "change"],
                [[label, before, after, after - before] for label, before, after in summary],
            )
        )
        print(
            "Intervals are Wilson's 95 %. The gap is worst to best category; with few pairs it is large by chance "
            "alone."
        )
    text = changes_text(run)
    if text:
        print(text)
    for note in run.notes:
        print(f"note: {note}")
    for name in run.missing:
        print(f"missing: {name} (what depends on it is left out)")


def run(args):
    data = read_run(args.run, args.before, args.after)
    print_terminal(data)
    if args.no_html and not args.png:
        return
    drawn = figures.draw_all(data)
    with plt.rc_context(figures.STYLE):
        if args.png:
            os.makedirs(args.png, exist_ok=True)
            for name, _, figure in drawn:
                figure.savefig(os.path.join(args.png, f"{name}.png"), bbox_inches="tight", facecolor="white")
        if not args.no_html:
            out = args.out or os.path.join(args.run, "report.html")
            with atomic_path(out) as temporary:
                with open(temporary, "w", encoding="utf-8") as file:
                    file.write(html_report(data, drawn))
            print(f"\n{out}")
    for _, _, figure in drawn:
        plt.close(figure)

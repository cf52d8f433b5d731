"""The report command: a run directory as tables on the terminal and one HTML page."""

import os

from catdpo_analysis.behaviour.behaviour import print_tables
from catdpo_analysis.report.run import read_run
from catdpo_analysis.report.summary import (
    changes_text,
    clipping_text,
    ending,
    facts_of,
    lead_lines,
    probe_texts,
    ties_text,
)
from catdpo_analysis.report.tables import TRAINING_NOTE, attack_table, evaluation_table, training_table
from catdpo_analysis.text.table import show
from catdpo_analysis.text.streams import say


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN_DIR", help="run.dir of the trainer's config")
    parser.add_argument("--out", metavar="FILE", help="the HTML page (default: RUN_DIR/report.html)")
    parser.add_argument("--before", metavar="FILE", help="evaluation before training (default: found in RUN_DIR)")
    parser.add_argument("--after", metavar="FILE", help="evaluation after training (default: found in RUN_DIR)")
    parser.add_argument("--png", metavar="DIR", help="write each figure as a PNG file too")
    parser.add_argument("--no-html", action="store_true", help="the tables only")


def print_terminal(run):
    if ending(run):
        say(ending(run) + "\n")
    for line in lead_lines(run):
        say(line)
    say()
    for value, label in facts_of(run):
        say(f"{value:>16}  {label}")
    if training_table(run):
        say()
        show(training_table(run))
        say(TRAINING_NOTE)
    if clipping_text(run):
        say(clipping_text(run))
    if evaluation_table(run):
        say()
        show(evaluation_table(run))
        say(
            "Intervals are Wilson's 95 %. The gap is worst to best category; with few pairs it is large by chance "
            "alone."
        )
    for text in (changes_text(run), ties_text(run), *probe_texts(run)):
        if text:
            say(text)
    for table in (attack_table(run), run.authorship and run.authorship.table()):
        if table:
            say()
            show(table)
    if run.answers:
        say()
        print_tables(run.answers)
    for note in run.notes:
        say(f"note: {note}")
    for name in run.missing:
        say(f"missing: {name} (what depends on it is left out)")


def run(args):
    data = read_run(args.run, args.before, args.after)
    print_terminal(data)
    if args.no_html and not args.png:
        return
    from catdpo_analysis.page.render import write  # matplotlib takes its time
    from catdpo_analysis.report.figures import pictures
    from catdpo_analysis.report.page import html_report

    drawn = pictures(data)
    if args.png:
        os.makedirs(args.png, exist_ok=True)
        for picture in drawn:
            picture.save(os.path.join(args.png, f"{picture.name}.png"))
    if not args.no_html:
        out = args.out or os.path.join(args.run, "report.html")
        write(out, html_report(data, drawn))
        say(f"\n{out}")

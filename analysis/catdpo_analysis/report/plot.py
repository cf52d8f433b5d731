"""The plot command: one figure of a run."""

import os

from catdpo_analysis.errors import UserError
from catdpo_analysis.report.run import read_run
from catdpo_analysis.text.streams import say

FORMS = ("svg", "pdf", "png")


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN_DIR", help="run.dir of the trainer's config")
    parser.add_argument("name", metavar="NAME", nargs="?", help="what to plot; without it the names are listed")
    parser.add_argument("--out", metavar="FILE", help="svg, pdf or png by its ending (default: NAME.svg)")
    parser.add_argument("--narrow", action="store_true", help="as wide as a column of text or a phone")


def named(run):
    """{name: Picture}: the figures of the report, and every series that has none there."""
    from catdpo_analysis.report.figures import pictures, series_picture

    found = {picture.name: picture for picture in pictures(run)}
    for name in sorted((run.metrics.series if run.metrics else {}).keys() - {"step"}):
        found.setdefault(name, series_picture(run, name))
    return found


def run(args):
    found = named(read_run(args.run))
    if not args.name:
        for name, picture in found.items():
            say(f"{name:<24} {picture.heading}")
        return
    if args.name not in found:
        raise UserError(f"{args.run} has nothing called {args.name} to plot; there are {', '.join(found)}")
    out = args.out or f"{args.name.replace('/', '-')}.svg"
    form = os.path.splitext(out)[1].lower().lstrip(".")
    if form not in FORMS:
        raise UserError(f"--out {out}: the ending is one of {', '.join(FORMS)}")
    from catdpo_analysis.page.plots import NARROW, WIDE

    found[args.name].save(out, NARROW if args.narrow else WIDE)
    say(out)

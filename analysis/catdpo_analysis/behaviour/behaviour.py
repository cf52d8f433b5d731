"""The behaviour command: what one or several models answer, judged, by category."""

import json
import math

from catdpo_analysis.behaviour import rates, tables
from catdpo_analysis.behaviour.chapters import chapters
from catdpo_analysis.behaviour.read import read_models
from catdpo_analysis.errors import UserError
from catdpo_analysis.files.h5io import atomic_path, refuse_overwrite
from catdpo_analysis.text.side_by_side import Said, show_answers
from catdpo_analysis.text.streams import say
from catdpo_analysis.text.table import show


def add_arguments(parser):
    parser.add_argument(
        "samples", metavar="FILE", nargs="+", help="samples.h5; the first is what others are compared with"
    )
    parser.add_argument("--names", metavar="NAME", nargs="+", help="of the models, in the order of the files")
    parser.add_argument(
        "--judge", help="whose verdicts (default: the only judge's; the refusal rules if there is none)"
    )
    parser.add_argument("--out", metavar="FILE", help="write an HTML page: the tables, and the answers to read")
    parser.add_argument(
        "--answers", type=int, default=20, metavar="N", help="prompts of a category on the page (default: 20; 0: all)"
    )
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="print the answers to so many prompts of a category, worst first",
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers as JSON")


def numbers_of(models):
    """All figures, for other programs."""
    plain = lambda values: [None if math.isnan(v) else v for v in values]  # noqa: E731
    found = []
    for i, model in enumerate(models):
        entry = {
            "name": model.name,
            "file": model.samples.path,
            "model": model.samples.about["model"],
            "weights_digest": model.samples.about["weights_digest"],
            "judge": model.judge,
            "unsafe": {
                model.samples.categories[k]: dict(
                    zip(("rate", "low", "high", "prompts"), rates.category_rate(model, k))
                )
                for k in model.categories
            },
            "summary": {name: plain(value) for name, value in rates.summary(model).items()},
            "refused": plain(rates.refusal_rate(model)),
            "quality": {name: None if math.isnan(value) else value for name, value in rates.quality(model).items()},
        }
        if i:
            entry["difference"] = {n: plain(value) for n, value in rates.differences(model, models[0]).items()}
            entry["changes"] = {
                model.samples.categories[k]: {"safer": c.better, "less_safe": c.worse, "p": c.p, "p_holm": c.corrected}
                for k, c in rates.changes(model, models[0]).items()
            }
        found.append(entry)
    return {"models": found}


def print_tables(models):
    for table in (tables.summary_table(models), tables.quality_table(models), tables.category_table(models)):
        show(table)
        say()
    for table, note in ((tables.difference_table(models), ""), (tables.change_table(models), tables.CHANGES)):
        if table:
            show(table)
            say(note)
    say(f"Judge {models[0].judge}. {tables.NOTE}")


def print_answers(models, most):
    """Of each category, side by side."""
    for chapter in chapters(models, most):
        rows = [
            (asked.text, [[Said(a.text, a.label, a.tone) for a in answers] for answers in asked.answers])
            for asked in chapter.prompts
        ]
        show_answers([model.name for model in models], rows, chapter.name)
        say()


def run(args):
    if args.names and len(args.names) != len(args.samples):
        raise UserError(f"--names has {len(args.names)} names for {len(args.samples)} files")
    for name in ("answers", "show"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} {getattr(args, name)} is below 0")
    for out in filter(None, (args.out, args.json)):
        refuse_overwrite(out, args.samples)
    models = read_models(args.samples, args.judge, args.names)
    if args.show:
        print_answers(models, args.show)
    print_tables(models)
    if args.json:
        with atomic_path(args.json) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(numbers_of(models), file, indent=1, ensure_ascii=False)
    if args.out:
        from catdpo_analysis.behaviour.page import html_behaviour
        from catdpo_analysis.page.render import write

        write(args.out, html_behaviour(models, args.answers))
        say(f"wrote {args.out}")

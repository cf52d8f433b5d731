"""The report command: a run directory as tables on the terminal and one HTML page."""

import os

import matplotlib.pyplot as plt
import numpy as np

from catdpo_analysis import CREATOR, figures, h5io, html_page
from catdpo_analysis.errors import shorten
from catdpo_analysis.run_data import paired_changes, read_run
from catdpo_analysis.stats import mcnemar
from catdpo_analysis.table import format_table

HEADINGS = {
    "evaluation": "Held-out evaluation", "margin": "Margins", "violation_rate": "Violations while training", "rewards_margins": "Reward margins",
    "optimisation": "Optimisation", "timing": "Time",
}


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN_DIR", help="run.dir of the trainer's config")
    parser.add_argument("--out", metavar="FILE", help="the HTML page (default: RUN_DIR/report.html)")
    parser.add_argument("--before", metavar="FILE", help="evaluation before training (default: RUN_DIR/eval-before.h5)")
    parser.add_argument("--after", metavar="FILE", help="evaluation after training (default: RUN_DIR/eval-after.h5)")
    parser.add_argument("--png", metavar="DIR", help="write each figure as a PNG file too")
    parser.add_argument("--no-html", action="store_true", help="the tables only")


def at(part, name, attribute):
    """A category's value in an evaluation; NaN where the evaluation or the category is missing."""
    if part is None or name not in part.categories:
        return np.array([np.nan, np.nan]) if attribute.endswith("interval") else np.nan
    return getattr(part, attribute)[part.categories.index(name)]


def training_value(run, name, column, pick):
    """`pick` of a category's values over the steps, NaN without any."""
    metrics = run.metrics
    if not metrics or column not in metrics.category or name not in metrics.categories:
        return np.nan
    k = metrics.categories.index(name)
    if column in ("margin", "violation_rate") and not metrics.harm[k]:
        return np.nan  # no margin applies to any of its pairs
    values = metrics.category[column][:, k]
    values = values[np.isfinite(values)]
    return float(pick(values)) if values.size else np.nan


def recent(values):
    """Mean of the last tenth: per-step values are noisy."""
    return values[-max(1, len(values) // 10):].mean()


def facts_of(run):
    """[(value, label)] for the head of the page and the terminal."""
    facts = []
    for stem, label in (("violation_rate", "macro violation rate, held-out"), ("accuracy", "macro reward accuracy, held-out")):
        values = [part.summary[stem]["macro"] for part in (run.before, run.after) if part and stem in part.summary]
        if values:
            facts.append((" → ".join(f"{value:.1%}" for value in values), label))
    worst = run.after or run.before
    if worst and worst.worst_category:
        facts.append((f'{at(worst, worst.worst_category, "violation_rate"):.0%}', f"worst category: {worst.worst_category}"))
    metrics = run.metrics
    if metrics and metrics.steps:
        facts.append((str(int(metrics.series["step"][-1])), "steps"))
        if metrics.step_seconds is not None and np.nansum(metrics.step_seconds) > 0:
            total = float(np.nansum(metrics.step_seconds))
            facts.append((f"{total:.0f} s" if total < 600 else f"{total / 60:.0f} min", "training time"))
            if "num_tokens" in metrics.series:
                facts.append((f'{metrics.series["num_tokens"][-1] / total:,.0f}', "tokens per second"))
            if metrics.step_flops is not None:
                facts.append((f"{np.nansum(metrics.step_flops) / total / 1e9:,.0f} GF/s", "over all ranks"))
        if "clipped" in metrics.series:
            facts.append((f'{metrics.series["clipped"].mean():.0%}', "of steps clipped"))
    return facts


def changes_text(run):
    """A sentence on the pairs that changed sides, or None."""
    changes = paired_changes(run.before, run.after)
    if changes is None:
        return None
    better, worse = changes
    return (f"Of the held-out pairs {better} violate less than before training and {worse} more "
            f"(exact McNemar test: p = {mcnemar(better, worse):.2g}).")


def training_rows(run):
    """(heading, rows) of the training table, one row a category."""
    rows = [[shorten(name, 32), training_value(run, name, "margin", lambda values: values[0]), training_value(run, name, "margin", lambda values: values[-1]),
             training_value(run, name, "violation_rate", lambda values: values[-1]), training_value(run, name, "rewards_margins", recent),
             training_value(run, name, "accuracy", recent)] for name in run.metrics.categories]
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
        rows.append([*row, int(np.nan_to_num(at(parts[-1][0], name, "n"))), *[float(at(part, name, "accuracy")) for part, _ in parts]])
    heading = ["held-out", *[f"violations {kind}" for _, kind in parts], *(["change"] if len(parts) == 2 else []), "n",
               *[f"accuracy {kind}" for _, kind in parts]]
    return heading, rows


def summary_rows(run):
    """[(label, before, after)] of the summaries over the harm categories."""
    rows = []
    for stem, label in (("violation_rate", "violation rate"), ("accuracy", "reward accuracy")):
        for key in ("micro", "macro", "worst", "gap", "variance"):
            values = [part.summary.get(stem, {}).get(key, np.nan) if part else np.nan for part in (run.before, run.after)]
            if np.isfinite(values).any():
                rows.append((f"{label}, {key}", *values))
    return rows


def print_terminal(run):
    for value, label in facts_of(run):
        print(f"{value:>16}  {label}")
    if run.metrics and run.metrics.steps:
        print("\n" + format_table(*training_rows(run)))
    if run.before or run.after:
        print("\n" + format_table(*evaluation_rows(run)))
    summary = summary_rows(run)
    if summary:
        print("\n" + format_table(["over the harm categories", "before", "after", "change"],
                                  [[label, before, after, after - before] for label, before, after in summary]))
        print("Intervals are Wilson's 95 %. The gap is worst to best category; with few pairs it is large by chance alone.")
    text = changes_text(run)
    if text:
        print(text)
    for name in run.missing:
        print(f"missing: {name} (what depends on it is left out)")


def evaluation_table(run, styles):
    """The evaluation as an HTML table."""
    two = run.before and run.after
    parts = [(part, kind) for part, kind in ((run.before, "before"), (run.after, "after")) if part]
    heading = ["category", *[f"violations {kind}" for _, kind in parts], *(["change"] if two else []), *[f"accuracy {kind}" for _, kind in parts],
               *(["change"] if two else []), *[f"reward margin {kind}" for _, kind in parts], "pairs"]

    def rows_for(name):
        dot = f'<span class="dot" style="background:{styles[name][0]}"></span>{html_page.escape(name)}'
        cells = [dot]
        for stem, interval, low in (("violation_rate", "violation_interval", True), ("accuracy", "accuracy_interval", False)):
            cells += [html_page.rate_cell(at(part, name, stem), at(part, name, interval)) for part, _ in parts]
            if two:
                cells.append(html_page.change_cell(at(run.after, name, stem) - at(run.before, name, stem), low))
        cells += [f'{at(part, name, "rewards_margins"):.2f}' if np.isfinite(at(part, name, "rewards_margins")) else "–" for part, _ in parts]
        return [*cells, str(int(np.nan_to_num(at(parts[-1][0], name, "pairs"))))]

    rows = [rows_for(name) for name in run.categories if any(name in part.categories for part, _ in parts)]
    totals = []
    for key, label in (("macro", "macro mean"), ("micro", "micro mean"), ("worst", "worst category"), ("gap", "gap, worst to best")):
        cells = [label]
        for stem, low in (("violation_rate", True), ("accuracy", False)):
            values = [part.summary.get(stem, {}).get(key, np.nan) for part, _ in parts]
            cells += [html_page.percent(value) for value in values]
            if two:
                cells.append(html_page.change_cell(values[1] - values[0], low or key == "gap"))
        totals.append([*cells, *["" for _ in parts], ""])
    return html_page.table(heading, rows + totals, len(totals))


def training_table(run, styles):
    """Margins, violations and reward margins at the end of training, as an HTML table."""
    metrics, rows = run.metrics, []
    for k, name in enumerate(metrics.categories):
        def value(column, pick):
            number = training_value(run, name, column, pick)
            return f"{number:.2f}" if np.isfinite(number) else "–"
        pairs = int(np.nansum(metrics.category["pairs"][:, k])) if "pairs" in metrics.category else 0
        rows.append([f'<span class="dot" style="background:{styles[name][0]}"></span>{html_page.escape(name)}', value("margin", lambda v: v[0]),
                     value("margin", lambda v: v[-1]), value("margin", np.max), value("violation_rate", lambda v: v[-1]),
                     value("rewards_margins", recent), value("accuracy", recent), str(pairs)])
    return html_page.table(["category", "margin at first", "at the end", "largest", "running violation rate", "reward margin*", "accuracy*", "pairs seen"], rows)


def details_of(run):
    """Where the numbers come from, folded away."""
    parts, metrics = [], run.metrics
    about = dict(metrics.about) if metrics else {}
    for part, kind in ((run.before, "evaluation before"), (run.after, "evaluation after")):
        if part:
            about |= {f"{kind}: {key}": value for key, value in part.about.items()}
    if about:
        rows = [[html_page.escape(key), html_page.escape(value)] for key, value in about.items()]
        parts.append("<details><summary>Provenance</summary>" + html_page.table(["", ""], rows) + "</details>")
    config = metrics.config if metrics else ""
    path = os.path.join(run.path, "config.cfg")
    if not config and os.path.isfile(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            config = file.read()
    if config:
        parts.append(f"<details><summary>Resolved config</summary><pre>{html_page.escape(config)}</pre></details>")
    return parts


def html_report(run, drawn):
    """The page's text. `drawn`: what figures.draw_all gives."""
    styles = figures.category_styles(run.categories)
    parts = [html_page.tiles(facts_of(run))]
    if run.missing:
        parts.append(f'<div class="card missing">Not in this run directory: {html_page.escape(", ".join(run.missing))}. What depends on it is left out.</div>')
    images = {name: f'<figure><img alt="{html_page.escape(HEADINGS[name])}" src="data:image/png;base64,{html_page.image(figure)}">'
                    f"<figcaption>{html_page.escape(caption)}</figcaption></figure>" for name, caption, figure in drawn}
    signal = next((part.about.get("signal") for part in (run.after, run.before) if part and part.about.get("signal")), None)
    for name, heading in HEADINGS.items():
        if name not in images:
            continue
        parts.append(f"<h2>{heading}</h2>")
        if name == "evaluation":
            how = f' (signal "{html_page.escape(signal)}")' if signal else ""
            text = changes_text(run)
            parts.append(f'<p class="note">Violation: the model still prefers the unsafe response of a held-out pair{how}. Summaries are over the harm '
                         f'categories; with few pairs the gap between them is large by chance alone.{" " + html_page.escape(text) if text else ""}</p>')
            parts.append(evaluation_table(run, styles))
        if name == "margin":
            parts.append(training_table(run, styles) + '<p class="note">* mean over the last tenth of the steps in which the category occurred</p>')
        parts.append(images[name])
    if run.metrics and not run.metrics.steps:
        parts.append('<div class="card missing">metrics.h5 holds no step yet.</div>')
    name = os.path.basename(((run.metrics.about.get("run") if run.metrics else None) or os.path.abspath(run.path)).rstrip("/"))
    about = run.metrics.about if run.metrics else {}
    lead = ", ".join(filter(None, [f'grid {about["grid"]}' if about.get("grid") else "", f'started {about["started"]}' if about.get("started") else "",
                                   f"report by {CREATOR}"]))
    return html_page.page(f"catdpo run: {name}", lead, parts + details_of(run))


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
            with h5io.atomic_path(out) as temporary:
                with open(temporary, "w", encoding="utf-8") as file:
                    file.write(html_report(data, drawn))
            print(f"\n{out}")
    for _, _, figure in drawn:
        plt.close(figure)

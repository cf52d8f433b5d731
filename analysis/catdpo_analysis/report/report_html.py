"""A run as an HTML page: key facts, tables and figures in the order in which one reads them."""

import os

import numpy as np

from catdpo_analysis import CREATOR
from catdpo_analysis.report import figures
from catdpo_analysis.report import html_page
from catdpo_analysis.report.run_summary import at, changes_text, ending, facts_of, recent, training_value

HEADINGS = {
    "evaluation": "Held-out evaluation",
    "margin": "Margins",
    "violation_rate": "Violations while training",
    "rewards_margins": "Reward margins",
    "optimisation": "Optimisation",
    "timing": "Time",
}


def evaluation_table(run, styles):
    """The evaluation as an HTML table."""
    two = run.before and run.after
    parts = [(part, kind) for part, kind in ((run.before, "before"), (run.after, "after")) if part]
    heading = [
        "category",
        *[f"violations {kind}" for _, kind in parts],
        *(["change"] if two else []),
        *[f"accuracy {kind}" for _, kind in parts],
        *(["change"] if two else []),
        *[f"reward margin {kind}" for _, kind in parts],
        "pairs",
    ]

    def rows_for(name):
        dot = f'<span class="dot" style="background:{styles[name][0]}"></span>{html_page.escape(name)}'
        cells = [dot]
        for stem, interval, low in (
            ("violation_rate", "violation_interval", True),
            ("accuracy", "accuracy_interval", False),
        ):
            cells += [html_page.rate_cell(at(part, name, stem), at(part, name, interval)) for part, _ in parts]
            if two:
                cells.append(html_page.change_cell(at(run.after, name, stem) - at(run.before, name, stem), low))
        cells += [
            f"{at(part, name, 'rewards_margins'):.2f}" if np.isfinite(at(part, name, "rewards_margins")) else "–"
            for part, _ in parts
        ]
        return [*cells, str(int(np.nan_to_num(at(parts[-1][0], name, "pairs"))))]

    rows = [rows_for(name) for name in run.categories if any(name in part.categories for part, _ in parts)]
    totals = []
    for key, label in (
        ("macro", "macro mean"),
        ("micro", "micro mean"),
        ("worst", "worst category"),
        ("gap", "gap, worst to best"),
    ):
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
        rows.append(
            [
                f'<span class="dot" style="background:{styles[name][0]}"></span>{html_page.escape(name)}',
                value("margin", lambda v: v[0]),
                value("margin", lambda v: v[-1]),
                value("margin", np.max),
                value("violation_rate", lambda v: v[-1]),
                value("rewards_margins", recent),
                value("accuracy", recent),
                str(pairs),
            ]
        )
    return html_page.table(
        [
            "category",
            "margin at first",
            "at the end",
            "largest",
            "running violation rate",
            "reward margin*",
            "accuracy*",
            "pairs seen",
        ],
        rows,
    )


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
    parts = [f'<div class="card missing">{html_page.escape(ending(run))}</div>'] if ending(run) else []
    parts.append(html_page.tiles(facts_of(run)))
    if run.missing:
        parts.append(
            f'<div class="card missing">Not in this run directory: {html_page.escape(", ".join(run.missing))}. What '
            "depends on it is left out.</div>"
        )
    parts += [f'<div class="card missing">{html_page.escape(note)}</div>' for note in run.notes]
    images = {
        name: f'<figure><img alt="{html_page.escape(HEADINGS[name])}" '
        f'src="data:image/png;base64,{html_page.image(figure)}">'
        f"<figcaption>{html_page.escape(caption)}</figcaption></figure>"
        for name, caption, figure in drawn
    }
    signal = next(
        (part.about.get("signal") for part in (run.after, run.before) if part and part.about.get("signal")), None
    )
    for name, heading in HEADINGS.items():
        if name not in images:
            continue
        parts.append(f"<h2>{heading}</h2>")
        if name == "evaluation":
            how = f' (signal "{html_page.escape(signal)}")' if signal else ""
            text = changes_text(run)
            parts.append(
                f'<p class="note">Violation: the model still prefers the unsafe response of a held-out pair{how}. '
                "Summaries are over the harm categories; with few pairs the gap between them is large by chance alone."
                f"{' ' + html_page.escape(text) if text else ''}</p>"
            )
            parts.append(evaluation_table(run, styles))
        if name == "margin":
            parts.append(
                training_table(run, styles)
                + '<p class="note">* mean over the last tenth of the steps in which the category occurred</p>'
            )
        parts.append(images[name])
    if run.metrics and not run.metrics.steps:
        parts.append('<div class="card missing">metrics.h5 holds no step yet.</div>')
    about = run.metrics.about if run.metrics else {}
    name = os.path.basename((about.get("run") or os.path.abspath(run.path)).rstrip("/"))
    facts = [f"{key} {about[key]}" for key in ("grid", "started") if about.get(key)]
    lead = ", ".join([*facts, f"report by {CREATOR}"])
    return html_page.page(f"catdpo run: {name}", lead, parts + details_of(run))

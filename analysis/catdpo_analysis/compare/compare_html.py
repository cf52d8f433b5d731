"""A comparison as one HTML page."""

import matplotlib.pyplot as plt
import numpy as np

from catdpo_analysis import CREATOR
from catdpo_analysis.compare import compare
from catdpo_analysis.compare import compare_figures
from catdpo_analysis.report import html_page
from catdpo_analysis.compare.comparison import best, categories_of, rankable_rates
from catdpo_analysis.report.figures import STYLE


def _plain(heading, rows):
    """A table of plain texts."""
    return html_page.table(
        [html_page.escape(cell) for cell in heading],
        [[html_page.escape(cell).replace("+-", "±") for cell in row] for row in rows],
    )


def _runs(entries, heading, rows):
    """The table of the runs, with their colours."""
    styles = compare_figures.run_styles(entries)
    dotted = [
        [f'<span class="dot" style="background:{styles[entry.number][0]}"></span>{html_page.escape(row[0])}']
        + [html_page.escape(cell) for cell in row[1:]]
        for entry, row in zip(entries, rows)
    ]
    return html_page.table([html_page.escape(cell) for cell in heading], dotted)


def _categories(entries, heldout):
    """Violation rates by category with their intervals, the best in bold; a column a run."""
    rates, rank = [entry.rates(heldout) for entry in entries], rankable_rates(entries, heldout)
    rows = []
    for name in categories_of(entries):
        values = [rate.get(name, (np.nan,) * 3) for rate in rates]
        first = best([value[0] for value in values]) if rank else set()
        cells = [
            html_page.rate_cell(value[0], value[1:]) if np.isfinite(value[1]) else html_page.percent(value[0])
            for value in values
        ]
        rows.append(
            [html_page.escape(name)] + [f"<b>{cell}</b>" if i in first else cell for i, cell in enumerate(cells)]
        )
    return html_page.table(["category", *[html_page.escape(entry.label) for entry in entries]], rows)


def html_comparison(entries, failed, tests):
    """The page's text."""
    parts = []
    if failed:
        items = "".join(f"<li>{html_page.escape(path)}: {html_page.escape(reason)}</li>" for path, reason in failed)
        parts.append(f'<div class="card missing">Not compared:<ul>{items}</ul></div>')
    notes = [f"run {entry.label}: {note}" for entry in entries for note in entry.notes]
    if notes:
        items = "".join(f"<li>{html_page.escape(note)}</li>" for note in notes)
        parts.append(f'<div class="card missing"><ul>{items}</ul></div>')
    parts += ["<h2>Runs</h2>", _runs(entries, *compare.settings_rows(entries))]
    parts += ["<h2>Results</h2>", _plain(*compare.result_rows(entries))]
    parts.append(f'<p class="note">{html_page.escape(compare.NOTE)}</p>')
    groups = compare.group_rows(entries)
    if groups:
        parts += ["<h2>Over the seeds</h2>", _plain(*groups)]
    if tests and tests[1]:
        parts += ["<h2>Paired tests</h2>", _plain(*compare.test_rows(tests))]
        parts.append(
            '<p class="note">Held-out pairs that violate less or more than under the baseline; exact McNemar test, and '
            "with Holm's correction for the number of runs.</p>"
        )
    for heldout, heading in ((True, "Held-out violation rates"), (False, "Violation rates while training")):
        if any(entry.rates(heldout) for entry in entries):
            parts += [f"<h2>{heading}</h2>", _categories(entries, heldout)]
    with plt.rc_context(STYLE):
        for heading, caption, figure in compare_figures.draw_all(entries):
            image = html_page.image(figure)
            plt.close(figure)
            parts.append(
                f'<h2>{html_page.escape(heading)}</h2><figure><img alt="{html_page.escape(heading)}" '
                f'src="data:image/png;base64,{image}"><figcaption>{html_page.escape(caption)}</figcaption></figure>'
            )
    lead = f"{len(entries)} runs" + (f", {len(failed)} not compared" if failed else "") + f", by {CREATOR}"
    return html_page.page("catdpo runs compared", lead, parts)

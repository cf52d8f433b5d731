"""A comparison as one HTML page."""

from catdpo_analysis.compare import tables
from catdpo_analysis.compare.figures import pictures
from catdpo_analysis.page.render import render
from catdpo_analysis.text.version import creator


def html_comparison(entries, failed, tests):
    """The page's text."""
    count = f"{len(entries)} runs" + (f", {len(failed)} not compared" if failed else "") + f", by {creator()}"
    return render(
        "compare.html",
        title="catdpo runs compared",
        lead=[tables.lead_line(entries), count],
        failed=failed,
        notes=[f"run {entry.label}: {note}" for entry in entries for note in entry.notes],
        settings=tables.settings_table(entries),
        results=tables.results_table(entries),
        results_note=tables.NOTE,
        groups=tables.groups_table(entries),
        tests=tables.tests_table(tests),
        tests_note=tables.TESTS_NOTE,
        heldout=tables.categories_table(entries, True),
        training=tables.categories_table(entries, False),
        answers=tables.answers_table(entries),
        answers_note=tables.ANSWERS_NOTE,
        pictures=pictures(entries),
    )

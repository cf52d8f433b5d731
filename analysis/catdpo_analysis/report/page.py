"""A run as an HTML page: key facts, tables and figures in the order in which one reads them."""

import os

from catdpo_analysis.behaviour.page import answers_context
from catdpo_analysis.page.render import render
from catdpo_analysis.report import tables
from catdpo_analysis.report.summary import changes_text, ending, facts_of, lead_lines, probe_texts, ties_text
from catdpo_analysis.text.version import creator

PROMPTS_SHOWN = 5  # of each category; the behaviour command shows more


def name_of(run):
    about = run.metrics.about if run.metrics else {}
    return os.path.basename((about.get("run") or os.path.abspath(run.path)).rstrip("/"))


def config_text(run):
    """The resolved config, for whoever wants to read it whole."""
    if run.metrics and run.metrics.config:
        return run.metrics.config
    path = os.path.join(run.path, "config.cfg")
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def html_report(run, pictures):
    """The page's text."""
    signal = next((part.about["signal"] for part in (run.after, run.before) if part and part.about.get("signal")), None)
    warnings = [ending(run)] if ending(run) else []
    if run.missing:
        warnings.append(f"Not in this run directory: {', '.join(run.missing)}. What depends on it is left out.")
    if run.metrics and not run.metrics.steps:
        warnings.append("metrics.h5 holds no step yet.")
    return render(
        "report.html",
        title=f"catdpo run: {name_of(run)}",
        lead=[*lead_lines(run), f"report by {creator()}"],
        facts=facts_of(run),
        warnings=warnings + run.notes,
        pictures={picture.name: picture for picture in pictures},
        evaluation=tables.evaluation_table(run),
        training=tables.training_table(run),
        training_note=tables.TRAINING_NOTE,
        signal=signal,
        changes=changes_text(run),
        ties=ties_text(run),
        answers=answers_context(run.answers, PROMPTS_SHOWN) if run.answers else None,
        attack=tables.attack_table(run),
        authorship=run.authorship.table() if run.authorship else None,
        probes=probe_texts(run),
        provenance=tables.provenance_table(run),
        config=config_text(run),
    )

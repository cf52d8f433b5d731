"""The tables of a report, for the terminal and the page alike."""

import numpy as np

from catdpo_analysis.errors import shorten
from catdpo_analysis.files.stats import recent, wilson
from catdpo_analysis.page.colours import category_styles, css
from catdpo_analysis.report.summary import at, evaluated, is_reference, training_value
from catdpo_analysis.text.table import Cell, Table, change, number, rate

TOTALS = (("macro", "macro mean"), ("micro", "micro mean"), ("worst", "worst category"), ("gap", "gap, worst to best"))


def _name(name, styles):
    return Cell(shorten(name, 40), colour=css(styles[name][0]))


def evaluation_table(run):
    """A row a category: violations before and after with their intervals, accuracy and reward margin where they are not
    zero by construction; then the summaries over the harm categories. None without an evaluation."""
    parts = evaluated(run)
    if not parts:
        return None
    two, styles = len(parts) == 2, category_styles(run.categories)
    learned = [(part, kind) for part, kind in parts if not is_reference(part)]
    heading = ["held-out", *[f"violations {kind}" for _, kind in parts], *(["change"] if two else [])]
    heading += (
        [f"accuracy {kind}" for _, kind in learned] + [f"reward margin {kind}" for _, kind in learned] + ["pairs"]
    )
    rows = []
    for name in run.categories:
        if not any(name in part.categories for part, _ in parts):
            continue
        row = [_name(name, styles)]
        row += [rate(at(part, name, "violation_rate"), *at(part, name, "violation_interval")) for part, _ in parts]
        if two:
            row.append(change(at(run.after, name, "violation_rate") - at(run.before, name, "violation_rate"), True))
        row += [rate(at(part, name, "accuracy"), *at(part, name, "accuracy_interval")) for part, _ in learned]
        row += [number(at(part, name, "rewards_margins")) for part, _ in learned]
        rows.append([*row, number(np.nan_to_num(at(parts[-1][0], name, "pairs")), "{:.0f}")])
    for key, label in TOTALS:
        values = [part.summary.get("violation_rate", {}).get(key, np.nan) for part, _ in parts]
        row = [Cell(label), *[rate(value, digits=1) for value in values]]
        if two:
            row.append(change(values[1] - values[0], None if key == "gap" else True))
        row += [rate(part.summary.get("accuracy", {}).get(key, np.nan), digits=1) for part, _ in learned]
        rows.append([*row, *[Cell("") for _ in learned], Cell("")])
    return Table(heading, rows, len(TOTALS))


def probe_cells(metrics, k):
    """A category's rate in the first and in the last probe, with Wilson's intervals."""
    n, bad = metrics.category["probe_n"][:, k], metrics.category["probe_violations"][:, k]
    seen = np.flatnonzero(n > 0)
    if not seen.size:
        return [rate(None), rate(None)]
    return [rate(bad[i] / n[i], *wilson(bad[i], n[i])) for i in (seen[0], seen[-1])]


def training_table(run):
    """A row a category: margins, violations and reward margins at the end of training. None without a step."""
    metrics, styles = run.metrics, category_styles(run.categories)
    if not metrics or not metrics.steps:
        return None
    heading = ["training", "margin at first", "at the end", "largest", "running violation rate"]
    probed = "probe_rate" in metrics.category
    heading += ["first probe", "last probe"] if probed else []
    heading.append("reward margin*")
    rows = []
    for k, name in enumerate(metrics.categories):
        pairs = np.nansum(metrics.category["pairs"][:, k]) if "pairs" in metrics.category else 0
        rows.append(
            [
                _name(name, styles),
                number(training_value(run, name, "margin", lambda values: values[0])),
                number(training_value(run, name, "margin", lambda values: values[-1])),
                number(training_value(run, name, "margin", np.max)),
                rate(training_value(run, name, "violation_rate", lambda values: values[-1])),
                *(probe_cells(metrics, k) if probed else []),
                number(training_value(run, name, "rewards_margins", recent)),
                rate(training_value(run, name, "accuracy", recent)),
                number(pairs, "{:.0f}"),
            ]
        )
    return Table([*heading, "accuracy*", "pairs seen"], rows)


def attack_table(run):
    """A row a harm category: its violation rate at each radius of the attack, and that under drawn directions of the
    largest. None without an attack."""
    part = next((part for part, _ in reversed(evaluated(run)) if part.attack), None)
    if not part:
        return None
    attack, styles = part.attack, category_styles(run.categories)
    kind = " ".join(str(attack.about[name]) for name in ("type", "norm") if name in attack.about)
    heading = [f"under attack ({kind})", *[f"radius {radius:g}" for radius in attack.radius]]
    rows = []
    for k, name in enumerate(part.categories):
        if not part.harm[k] or not part.n[k]:
            continue
        rates = [rate(value, *bounds) for value, bounds in zip(attack.rate[:, k], attack.interval[:, k])]
        rows.append([_name(name, styles), *rates, rate(attack.drawn[-1, k])])
    counted = (part.n > 0) & part.harm
    weights = part.n[counted]
    means = [rate(np.average(values[counted], weights=weights), digits=1) for values in attack.rate]
    rows.append([Cell("micro mean"), *means, rate(np.average(attack.drawn[-1][counted], weights=weights), digits=1)])
    return Table([*heading, "drawn direction"], rows, 1) if counted.any() else None


TRAINING_NOTE = "* mean over the last tenth of the steps in which the category occurred"


def provenance_table(run):
    """Where the numbers come from."""
    about = dict(run.metrics.about) if run.metrics else {}
    for part, kind in evaluated(run):
        about |= {f"evaluation {kind}: {key}": value for key, value in part.about.items()}
    return Table(["", ""], [[Cell(key), Cell(str(value))] for key, value in about.items()])

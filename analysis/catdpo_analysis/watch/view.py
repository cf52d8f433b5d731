"""One frame of the live view: lines of text that fit a terminal of any width and height."""

import os
import textwrap

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from catdpo_analysis.files.settings import accepted_rate
from catdpo_analysis.watch.glyphs import bar, change, clean, sparkline, trend
from catdpo_analysis.watch.live_run import FAILED, FINISHED, LOOKING, NOT_STARTED, RUNNING, SILENT, STOPPED

STATE_STYLE = {
    RUNNING: "bold green",
    FINISHED: "bold cyan",
    LOOKING: "bold yellow",
    SILENT: "bold red",
    STOPPED: "bold yellow",
    FAILED: "bold red",
    NOT_STARTED: "bold yellow",
}
SOFT = "bright_black"
NAME, DETAIL_LINES, MOST_ROWS = 32, 5, 10**6
PROBE = 7  # columns of a table cell, with the blanks before it


def frame(snapshot, width, height, glyphs, footer=""):
    """[Text] of at most `height` lines (None: as many as it takes) of at most `width` columns."""
    blocks = [_header(snapshot, width, glyphs), _progress(snapshot, width, glyphs)]
    below = _below(snapshot, width, glyphs)
    end = [Text(footer, SOFT)] if footer else []
    room = (height or MOST_ROWS) - sum(map(len, blocks)) - len(below) - len(end)
    heading, rows = _categories(snapshot, width, glyphs)
    gaps = [Text("")] if room >= min(len(rows), 3) + (3 if rows else 1) + 1 else []
    if rows:
        room -= len(gaps) * 2 + 1
        if len(rows) > room:
            hidden = len(rows) - max(room - 1, 0)
            rows = rows[: len(rows) - hidden] + [Text(f"... {hidden} more, worst first", SOFT)]
        if room >= 1:
            blocks.append([heading, *rows])
    lines = []
    for block in [*blocks, below]:
        lines += (gaps if lines and block else []) + block
    lines = [_fit(line, width, glyphs) for line in lines[: None if height is None else max(height - len(end), 1)]]
    if end and height is not None and len(lines) < height:
        lines += [Text("")] * (height - len(lines) - 1) + [_fit(end[0], width, glyphs)]
    return lines


def _fit(line, width, glyphs):
    """The last line of defence: nothing is wider than the terminal."""
    if line.cell_len > width:
        line.truncate(max(width - len(glyphs.more), 0))
        line.append(glyphs.more[:width])
    return line


def _short(text, width, glyphs, keep_end=False):
    """Text in at most `width` columns."""
    if cell_len(text) <= width:
        return text
    room = max(width - len(glyphs.more), 0)
    if keep_end:
        while cell_len(text) > room:
            text = text[1:]
        return glyphs.more + text
    return set_cell_size(text, room) + glyphs.more


def _joined(parts, width, glyphs, most_lines):
    """Texts side by side, as many as fit into `most_lines` lines."""
    lines = [Text()]
    for part in parts:
        gap = glyphs.between if lines[-1].cell_len else ""
        if lines[-1].cell_len + len(gap) + part.cell_len > width and lines[-1].cell_len:
            if len(lines) == most_lines:
                continue
            lines.append(Text())
            gap = ""
        lines[-1].append(gap, SOFT)
        lines[-1].append_text(part)
    return [line for line in lines if line.cell_len]


def duration(seconds):
    """For example 4:05, 1:02:33 or 3 d 04:10."""
    if not np.isfinite(seconds):
        return "?"
    minutes, s = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


# ---- what the run is -------------------------------------------------------------------------------------------------


def _header(snapshot, width, glyphs):
    state = Text(f"{glyphs.dot} {snapshot.state}", STATE_STYLE[snapshot.state])
    path = _short(clean(snapshot.path, glyphs), width - state.cell_len - 2, glyphs, keep_end=True)
    first = Text(path, "bold")
    first.append(" " * max(width - cell_len(path) - state.cell_len, 1))
    first.append_text(state)
    about = snapshot.metrics.about if snapshot.metrics else {}
    owner = snapshot.writer.owner if snapshot.writer else {}
    settings = snapshot.settings
    model = str(settings.get("model.path") or "")
    job, hosts = owner.get("job"), owner.get("host") or about.get("hosts")
    facts = [
        (settings.get("objective.type"), "objective "),
        (_short(os.path.join(*model.split(os.sep)[-2:]), NAME, glyphs, keep_end=True) if model else None, "model "),
        (about.get("grid"), "grid "),
        (job, "job "),
        (_short(str(hosts), NAME, glyphs) if hosts else None, "on "),
        (owner.get("ranks"), "ranks "),
        (snapshot.restarts or None, "restarts "),
        (settings.get("run.seed"), "seed "),
        (owner.get("started") or about.get("started"), "started "),
    ]
    parts = [Text(clean(f"{label}{value}", glyphs)) for value, label in facts if value not in (None, "")]
    lines = [first, *_joined(parts, width, glyphs, 2)]
    style = STATE_STYLE[snapshot.state].replace("bold ", "")
    lines += [Text(line, style) for line in textwrap.wrap(clean(snapshot.detail, glyphs), width)[:DETAIL_LINES]]
    if snapshot.state in (STOPPED, FAILED) and snapshot.status and snapshot.status.ended:
        lines += [
            Text(line, SOFT) for line in textwrap.wrap(clean(f"ended {snapshot.status.place}", glyphs), width)[:2]
        ]
    return lines


def _progress(snapshot, width, glyphs):
    metrics = snapshot.metrics
    if not metrics or not metrics.steps:
        return []
    total, step, series = snapshot.total, snapshot.step, metrics.series
    seconds = _recent(metrics.step_seconds, 100)
    share = min(step / total, 1.0) if total else 0.0
    words = Text(f" {int(100 * share):3d} %  " if total else " ", "bold")
    words.append(f"step {step}" + (f"/{total}" if total else ""))
    epoch = _last(series.get("epoch"))
    if np.isfinite(epoch):
        words.append(f"  epoch {epoch:.2f}")
    if total > step and np.isfinite(seconds) and snapshot.state in (RUNNING, LOOKING):
        words.append(f"  ETA {duration((total - step) * seconds)}")
    filled, rest = bar(share, max(min(width - words.cell_len, 100), 0), glyphs)
    first = Text.assemble((filled, "green" if snapshot.state != SILENT else "red"), (rest, SOFT), words)

    parts = []
    rate = change(series.get("tokens_per_second", []))
    if rate or np.isfinite(_last(series.get("tokens_per_second"))):
        now, before = rate or (_last(series["tokens_per_second"]),) * 2
        text = Text(f"{now:,.0f} tokens/s", "bold")
        if rate and before > 0:
            moved = now / before - 1
            arrow = glyphs.flat if abs(moved) < 0.02 else glyphs.up if moved > 0 else glyphs.down
            text.append(f" {arrow} {100 * moved:+.0f} %", "red" if moved < -0.1 else SOFT)
        parts.append(text)
    for value, text in (
        (seconds, "{:.3g} s/step"),
        (_recent(series.get("rewards/margins")), "reward margin {:.2f}"),
        (100 * _recent(series.get("rewards/accuracies")), "accuracy {:.0f} %"),
        (_last(series.get("grad_norm")), "gradient norm {:.3g}"),
        (_last(series.get("learning_rate")), "learning rate {:.2e}"),
    ):
        if np.isfinite(value):
            parts.append(Text(text.format(value)))
    if snapshot.state == RUNNING and np.isfinite(seconds) and snapshot.quiet > max(10 * seconds, 30):
        parts.insert(0, Text(f"no new step for {duration(snapshot.quiet)}", "yellow"))
    lines = [first, *_joined(parts, width, glyphs, 2)]
    if "loss" in series:
        label = f"loss {_recent(series['loss']):.4f} "
        line = Text(label)
        line.append(sparkline(series["loss"], min(width - len(label), 120), glyphs), "cyan")
        lines.append(line)
    return lines


def _last(values):
    return float(values[-1]) if values is not None and len(values) else np.nan


def _recent(values, window=20):
    """Mean of the last known values."""
    values = np.asarray([] if values is None else values, dtype=float)
    values = values[np.isfinite(values)][-window:]
    return float(values.mean()) if values.size else np.nan


# ---- categories ------------------------------------------------------------------------------------------------------


def _categories(snapshot, width, glyphs):
    """(heading, rows), the category with the highest violation rate first, those without a margin last."""
    metrics = snapshot.metrics
    if not metrics or not metrics.steps or not metrics.categories:
        return Text(), []
    columns = metrics.category
    target = accepted_rate(snapshot.settings) if snapshot.settings.get("margin.eta", 1) else None
    names = [clean(name, glyphs) for name in metrics.categories]
    most = NAME if width >= 90 else max(width // 4, 8)
    widest = min(max([cell_len(name) for name in names] + [len("category")]), most)
    history = 24 if width >= 150 else 16 if width >= 120 else 0
    probes = _last_probe(columns.get("probe_rate"))
    left = width - widest - 2 - (9 + 2) - (5 + 2 + 2) - 2 * (history + 2 if history else 0)
    left -= PROBE if probes is not None else 0
    cells = max(min(left, 60), 0)
    rates, margins = columns["violation_rate"], columns["margin"]
    rate, margin = rates[-1], margins[-1]
    window = max(5, min(50, metrics.steps // 8))
    order = sorted(
        range(len(names)),
        key=lambda k: (not metrics.harm[k], -rate[k] if np.isfinite(rate[k]) else 1.0, k),
    )
    top_margin = max(np.nanmax(np.where(np.isfinite(margins), margins, 0.0), initial=0.0), 1e-9)

    def padded(text, size):
        return set_cell_size(_short(text, size, glyphs), size)

    heading = padded("category", widest) + "  " + padded("margin", 9) + "  "
    heading += padded("its history", history) + "  " if history else ""
    title = "violation rate" if target is None or cells < 30 else f"violation rate (target {target:.0%})"
    heading += padded(title, 9 + cells) if cells + 9 >= len(title) else padded("violated", 9 + cells)
    heading += padded("its history", history) if history else ""
    heading += ("  probe" if history else "probe") if probes is not None else ""
    rows = []
    for k in order:
        row = Text(padded(names[k], widest) + "  ")
        if not metrics.harm[k]:
            row.append("no margin applies", SOFT)
            rows.append(row)
            continue
        row.append(f"{margin[k]:7.2f}" if np.isfinite(margin[k]) else "      -")
        row.append(f" {trend(margins[:, k], glyphs, 0.01, window)}  ")
        if history:
            row.append(padded(sparkline(margins[:, k], history, glyphs, 0.0, top_margin), history) + "  ", "cyan")
        known = np.isfinite(rate[k])
        style = "bright_black" if not known else _rate_style(rate[k], target)
        row.append(f"{rate[k]:4.0%} " if known else "   - ", style)
        row.append(f"{trend(rates[:, k], glyphs, 0.005, window)} ")
        filled, rest = bar(rate[k], cells, glyphs, target)
        row.append(filled, style)
        row.append(rest, SOFT)
        if history:
            row.append(padded("  " + sparkline(rates[:, k], history, glyphs, 0.0, 1.0), history + 2), style)
        if probes is not None:
            seen = np.isfinite(probes[k])
            row.append(f"  {probes[k]:5.0%}" if seen else "      -", _rate_style(probes[k], target) if seen else SOFT)
        rows.append(row)
    return Text(heading.rstrip(), f"underline {SOFT}"), rows


def _last_probe(rates):
    """[K] the rate of each category in the last probe that has it; None without a probe."""
    if rates is None or not np.isfinite(rates).any():
        return None
    last = np.full(rates.shape[1], np.nan)
    for row in rates[np.isfinite(rates).any(axis=1)]:
        last = np.where(np.isfinite(row), row, last)
    return last


def _rate_style(rate, target):
    if target is None:
        return "cyan"
    return "green" if rate <= target else "yellow" if rate <= 2 * target else "red"


# ---- what is below ---------------------------------------------------------------------------------------------------


def _below(snapshot, width, glyphs):
    lines = []
    if snapshot.checkpoint:
        name, step = snapshot.checkpoint
        text = f"checkpoint {name}"
        if step is not None and snapshot.metrics and snapshot.metrics.steps:
            age = max(snapshot.step - step, 0)
            text += f", {age} steps ago"
            seconds = snapshot.metrics.step_seconds
            if age and seconds is not None:
                since = seconds[snapshot.metrics.series["step"] > step]
                text += f" ({duration(np.nansum(since))} of training)"
        lines.append(Text(text))
    elif snapshot.step:
        lines.append(Text("no checkpoint yet", SOFT if snapshot.state in (RUNNING, LOOKING) else "yellow"))
    for note in snapshot.notes:
        lines += [Text(line, "yellow") for line in textwrap.wrap(clean(note, glyphs), width)[:3]]
    return lines

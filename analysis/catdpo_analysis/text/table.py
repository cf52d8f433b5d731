"""Tables: the rows are built once, as cells, and shown on a terminal by rich or on a page by a template."""

import dataclasses
import io
import math
import sys

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from catdpo_analysis.text.streams import encodable

# blanks between columns, a rule below the heading and above the totals; ASCII, so that every terminal has it
BOX = Box("    \n    \n----\n    \n----\n----\n    \n    \n", ascii=True)
TONES = {"good": "green", "bad": "red"}
NOTHING = "-"


@dataclasses.dataclass(frozen=True)
class Cell:
    """`note`: small print behind the text, such as an interval. `tone`: "good", "bad" or "". `key`: the number that it
    shows, to align and sort by. `colour`: of a dot before it, on a page."""

    text: str
    note: str = ""
    tone: str = ""
    best: bool = False
    key: float | None = None
    colour: str = ""

    @property
    def plain(self):
        return self.text + (f" {self.note}" if self.note else "") + ("*" if self.best else "")


@dataclasses.dataclass
class Table:
    """`totals`: how many of the last rows are summaries."""

    heading: list
    rows: list
    totals: int = 0

    @property
    def right(self):
        """Whether each column is one of numbers."""
        columns = zip(*self.rows) if self.rows else ((),) * len(self.heading)
        return [any(c.key is not None for c in column) and all(_numeric(c) for c in column) for column in columns]


def _numeric(cell):
    return cell.key is not None or cell.text in (NOTHING, "")


def cell(value):
    """A plain value: None and NaN are a dash, fractional numbers have three digits."""
    if isinstance(value, Cell):
        return value
    if value is None or value != value:
        return Cell(NOTHING)
    if isinstance(value, float):
        return Cell(f"{value:.3f}", key=value)
    return Cell(str(value), key=float(value)) if isinstance(value, int) else Cell(str(value))


def number(value, form="{:.2f}"):
    return Cell(form.format(value), key=float(value)) if value is not None and math.isfinite(value) else Cell(NOTHING)


def rate(value, low=math.nan, high=math.nan, best=False, digits=0):
    """A share in percent, with its interval if it has one."""
    if value is None or not math.isfinite(value):
        return Cell(NOTHING)
    note = f"[{100 * low:.0f}, {100 * high:.0f}]" if math.isfinite(low) else ""
    return Cell(f"{100 * value:.{digits}f} %", note, best=best, key=float(value))


def change(value, lower_is_better=None):
    """A difference of shares in percentage points; good or bad where one of the two directions is."""
    if value is None or not math.isfinite(value):
        return Cell(NOTHING)
    points = round(100 * value)
    tone = "" if points == 0 or lower_is_better is None else "good" if (value < 0) == lower_is_better else "bad"
    return Cell(f"{points:+d} pp" if points else "0 pp", tone=tone, key=float(value))


# ---- on a terminal ---------------------------------------------------------------------------------------------------


def parts(table, width):
    """The table in as many parts as it takes to have no line wider than `width`, each with the first column."""
    sizes = [max(cell_len(text) for text in column) for column in zip(table.heading, *_texts(table))]
    groups, columns, used = [], [0], sizes[0]
    for i in range(1, len(sizes)):
        if len(columns) > 1 and used + 2 + sizes[i] > width:
            groups.append(columns)
            columns, used = [0], sizes[0]
        columns.append(i)
        used += 2 + sizes[i]
    groups.append(columns)
    return [
        Table([table.heading[i] for i in columns], [[row[i] for i in columns] for row in table.rows], table.totals)
        for columns in groups
    ]


def _texts(table):
    return [[c.plain for c in row] for row in table.rows]


def _rich(table):
    shown = RichTable(box=BOX, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for name, right in zip(table.heading, table.right):
        shown.add_column(Text(name), justify="right" if right else "left", no_wrap=True)
    marked = [any(c.best for c in column) for column in zip(*table.rows)]
    for i, row in enumerate(table.rows):
        if table.totals and i == len(table.rows) - table.totals:
            shown.add_section()
        texts = [c.plain + (" " if mark and not c.best else "") for c, mark in zip(row, marked)]
        shown.add_row(*[Text(t, style="bold" if c.best else TONES.get(c.tone, "")) for t, c in zip(texts, row)])
    return shown


def render(table, width=10**6, colours=False):
    """The text of the table; with ANSI colours if asked for."""
    blocks = []
    for part in parts(table, width):
        file = io.StringIO()
        console = Console(file=file, width=10**4, force_terminal=colours, legacy_windows=False, highlight=False)
        console.print(_rich(part), no_wrap=True, overflow="ignore", crop=False)
        blocks.append("\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n")))
    return "\n\n".join(blocks)


def show(table):
    """Prints the table, in colours and in parts as wide as the terminal if there is one."""
    console = Console(file=sys.stdout)
    colours = sys.stdout.isatty() and console.color_system is not None and not console.no_color
    print(encodable(render(table, console.width if sys.stdout.isatty() else 10**6, colours)))


def format_table(heading, rows, last_is_total=False):
    """A table of plain values as text: columns as wide as their widest cell, numbers to the right."""
    return render(Table(list(heading), [[cell(value) for value in row] for row in rows], int(last_is_total)))

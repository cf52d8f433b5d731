"""What models answer, on a terminal: a column a model, or one below the other where there is no room for columns."""

import dataclasses
import io
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from catdpo_analysis.text.streams import encodable
from catdpo_analysis.text.table import BOX, TONES

WIDTH = 110  # of the output where there is no terminal
NARROW = 24  # columns of a model's answers at least


@dataclasses.dataclass
class Said:
    """An answer, and small print behind it."""

    text: str
    note: str = ""
    tone: str = ""  # of the note: "good", "bad" or ""


def _shown(said):
    """As a terminal can show it: a model's text is not to control it."""
    clean = "".join(c if c.isprintable() or c == "\n" else " " if c == "\t" else "\ufffd" for c in said.text.strip())
    text = Text(encodable(clean) or "(nothing)", style="" if clean else "dim")
    if said.note:
        text.append(encodable(f" ({said.note})"), style=TONES.get(said.tone, "dim"))
    return text


def _print_list(console, names, questions):
    for question, answers in questions:
        console.print(Text(encodable(f"> {question}"), style="bold"))
        for name, of_model in zip(names, answers):
            for s, said in enumerate(of_model):
                head = [name] if len(names) > 1 else []
                head += [str(s + 1)] if len(of_model) > 1 else []
                console.print(Text(encodable(" ".join(head) + ": " if head else ""), style="cyan") + _shown(said))
        console.print()


def _print_table(console, names, questions, heading):
    table = Table(box=BOX, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), show_lines=True, header_style="bold")
    table.add_column(Text(encodable(heading)), ratio=2, overflow="fold")
    for name in names:
        table.add_column(Text(encodable(name)), ratio=3, overflow="fold")
    for question, answers in questions:
        for s in range(max(map(len, answers))):
            cells = [_shown(of_model[s]) if s < len(of_model) else Text() for of_model in answers]
            table.add_row(Text(encodable(question if s == 0 else ""), style="bold"), *cells)
    console.print(table)


def show_answers(names, questions, heading="question"):
    """`questions`: [(text, for each of the names a list of Said)]."""
    terminal = sys.stdout.isatty()
    width = Console().width if terminal else WIDTH
    columns = len(names) > 1 and width * 3 // (3 * len(names) + 2) >= NARROW
    console = Console(file=io.StringIO(), width=width, highlight=False, legacy_windows=False, force_terminal=terminal)
    console.no_color = console.no_color or not terminal
    console.soft_wrap = not terminal and not columns
    if columns:
        _print_table(console, names, questions, heading)
    else:
        _print_list(console, names, questions)
    print("\n".join(line.rstrip() for line in console.file.getvalue().rstrip("\n").split("\n")))

"""Progress of long work on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Use as a context manager; call `step()` once per unit of work.

    On a terminal a bar is redrawn, and wiped at the end. Elsewhere (a log file) a line is printed at most every `every`
    seconds, so that short work prints nothing.
    """

    def __init__(self, label, total, unit="", stream=None, every=10.0):
        self.label, self.total, self.unit, self.every = label, max(int(total), 1), unit, every
        self.stream = stream or sys.stderr
        self.bar = None
        self.done = 0

    def __enter__(self):
        self.last = time.monotonic()
        if self.stream.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self.bar = RichProgress(*columns, console=Console(file=self.stream), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total)
        return self

    def step(self, amount=1):
        self.done += amount
        if self.bar:
            self.bar.advance(self.task, amount)
        elif time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            count = f"{self.done} of {self.total} {self.unit}".rstrip()
            print(f"{self.label}: {count} ({min(self.done / self.total, 1):.0%})", file=self.stream, flush=True)

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

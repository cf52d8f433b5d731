"""Progress of long work on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time


class Progress:
    """Use as a context manager; call `step()` once per unit of work.

    On a terminal one line is redrawn at most ten times a second. Elsewhere (a log file) a line is printed at most
    every `every` seconds, so that short work prints nothing.
    """

    def __init__(self, label, total, unit="", stream=None, every=10.0):
        self.label, self.total, self.unit = label, max(int(total), 1), unit
        self.stream = stream or sys.stderr
        self.every = 0.1 if self.stream.isatty() else every
        self.done = 0

    def __enter__(self):
        self.start = self.last = time.monotonic()
        return self

    def step(self, amount=1):
        self.done += amount
        now = time.monotonic()
        if now - self.last >= self.every:
            self.last = now
            self._draw(now)

    def _draw(self, now):
        share = min(self.done / self.total, 1.0)
        left = (now - self.start) * (1 / share - 1) if share > 0 else 0.0
        if self.stream.isatty():
            bar = ("#" * int(30 * share)).ljust(30, ".")
            self.stream.write(f"\r{self.label} [{bar}] {share:4.0%} {left:4.0f} s left")
        else:
            self.stream.write(f"{self.label}: {self.done} of {self.total} {self.unit}".rstrip() + f" ({share:.0%})\n")
        self.stream.flush()

    def __exit__(self, *_):
        if self.stream.isatty():
            self.stream.write("\r\033[K")
            self.stream.flush()

"""A program that answers one line to each line that it is sent."""

import os
import selectors
import shlex
import subprocess
import time

from catdpo_analysis.errors import UserError, shorten

LONGEST = 1 << 20  # bytes of one line of an answer
GRACE = 5.0  # seconds in which the program may end by itself


class Coprocess:
    """`limit`: seconds for one answer. Every fault names what was sent and what came."""

    def __init__(self, command: str, limit: float):
        self.command, self.limit = command, limit
        self.asked = self.held = b""
        try:
            self.process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"the judge {shorten(command, 200)!r} cannot be started: {error}") from None
        for stream in (self.process.stdin, self.process.stdout):
            os.set_blocking(stream.fileno(), False)

    def fail(self, what: str) -> None:
        self.process.kill()
        self.process.wait()
        raise UserError(
            f"the judge {shorten(self.command, 200)!r} {what}; it was asked {shorten(self.asked.decode(), 300)}"
        )

    def _wait(self, stream, event, until: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(stream, event)
            if not selector.select(max(until - time.monotonic(), 0.0)):
                self.fail(f"gave no answer within {self.limit:g} s (--time-limit)")

    def _died(self, what: str) -> None:
        try:
            status = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.fail(f"{what} and goes on running")
        self.fail(f"{what} and ended with status {status}")

    def ask(self, line: str) -> str:
        """The line that answers this one. Lines that nobody asked for are a fault."""
        self.asked = line.encode()
        if self.held:
            self.fail(
                f"said more than one line to the question before: {shorten(self.held.decode(errors='replace'), 200)!r}"
            )
        until, rest = time.monotonic() + self.limit, self.asked + b"\n"
        while rest:
            self._wait(self.process.stdin, selectors.EVENT_WRITE, until)
            try:
                rest = rest[os.write(self.process.stdin.fileno(), rest) :]
            except BrokenPipeError:
                self._died("closed its input")
        while b"\n" not in self.held:
            self._wait(self.process.stdout, selectors.EVENT_READ, until)
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                self._died("closed its output without an answer")
            self.held += data
            if len(self.held) > LONGEST:
                self.fail(f"wrote {len(self.held)} bytes without the end of a line")
        answer, _, self.held = self.held.partition(b"\n")
        return answer.decode(errors="replace").strip()

    def close(self) -> None:
        """Nothing more is asked: the program sees the end of its input, and has to end well."""
        self.asked = b"nothing more"
        try:
            rest, _ = self.process.communicate(timeout=max(self.limit, GRACE))
        except subprocess.TimeoutExpired:
            self.fail("does not end when its input does")
        if self.held + (rest or b"").strip():
            self.fail(
                f"said more lines than it was asked: {shorten((self.held + rest).decode(errors='replace'), 200)!r}"
            )
        if self.process.returncode:
            self.fail(f"ended with status {self.process.returncode}")

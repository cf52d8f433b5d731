"""A terminal for tests: a program in a pseudo-terminal of a given size, and what stands on its screen."""

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pyte
from conftest import ROOT


class Screen(pyte.Screen):
    """Counts what was written beyond the last column, which a terminal would put on the next line."""

    wrapped = 0

    def draw(self, data):
        for character in data:
            self.wrapped += self.cursor.x >= self.columns
            super().draw(character)


class Terminal:
    """Use as a context manager. `environment`: instead of TERM=xterm and LANG=C.UTF-8."""

    def __init__(self, *arguments, columns=80, rows=24, environment=None):
        self.screen, self.raw = Screen(columns, rows), b""
        self.stream = pyte.Stream(self.screen)
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        wanted = {"TERM": "xterm", "LANG": "C.UTF-8", "PYTHONPATH": os.path.join(ROOT, "analysis")}
        wanted |= environment or {}
        own = ("LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "catdpo_analysis", *map(str, arguments)],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={name: value for name, value in os.environ.items() if name not in own} | wanted,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def read(self, seconds=0.1):
        """Puts on the screen what comes within this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self.master], [], [], left)
            if ready:
                data = os.read(self.master, 1 << 16)
                self.raw += data
                self.stream.feed(self.decoder.decode(data))

    def wait(self, found, seconds=60):
        """Until found(text of the screen), or the test fails with the screen."""
        end = time.monotonic() + seconds
        while not found(self.text):
            assert time.monotonic() < end and self.process.poll() is None, f"{self.text}\n{self.process.poll()}"
            self.read()
        return self.text

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self):
        return "\n".join(self.lines)

    def type(self, keys):
        os.write(self.master, keys)

    def signal(self, number=signal.SIGWINCH):
        self.process.send_signal(number)

    def end(self, seconds=30):
        """Waits for the end of the program and reads the rest; returns its status."""
        stop = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < stop:
            self.read()
        self.read(0.2)
        return self.process.poll()

    @property
    def restored(self):
        """Whether the terminal is as it was: its modes, the cursor, the screen."""
        return (
            termios.tcgetattr(self.slave) == self.before
            and self.raw.rfind(b"\x1b[?1049l") > self.raw.rfind(b"\x1b[?1049h") >= 0
            and self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l") >= 0
        )

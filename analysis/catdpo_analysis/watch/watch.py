"""The watch command: a run in the terminal while it goes, or one frame of it."""

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty

from rich.console import Console
from rich.live import Live
from rich.text import Text

from catdpo_analysis.errors import UserError
from catdpo_analysis.watch.glyphs import ASCII, choose_glyphs
from catdpo_analysis.watch.live_run import LOOKING, PATIENCE, LiveRun
from catdpo_analysis.watch.view import frame

QUIT, REDRAW, SUSPEND = "quit", "redraw", "suspend"


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN_DIR", help="run.dir of the trainer's config")
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="between two looks (default: 2)")
    parser.add_argument("--once", action="store_true", help="print one frame and end, as without a terminal")
    parser.add_argument("--ascii", action="store_true", help="no characters beyond ASCII, as under LANG=C")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        metavar="SECONDS",
        help=f"without a heartbeat until a run counts as dead (default: {PATIENCE:g})",
    )


def run(args):
    if not args.interval > 0 or not args.patience > 0:
        raise UserError("--interval and --patience are seconds above 0")
    if os.path.exists(args.run) and not os.path.isdir(args.run):
        raise UserError(f"{args.run} is a file; name the directory of a run")
    glyphs = ASCII if args.ascii else choose_glyphs(sys.stdout.encoding)
    live = LiveRun(args.run.rstrip("/") or "/", args.patience)
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    if args.once or not terminal:
        if not os.path.isdir(args.run):
            raise UserError(f"there is no run directory {args.run}; it is run.dir in the trainer's config")
        _print(frame(_settled(live), shutil.get_terminal_size().columns, None, glyphs))
    else:
        _watch(live, args.interval, glyphs)


def _settled(live):
    """A snapshot of which the state is known: with a writer there, once its heartbeat moved or patience is over."""
    snapshot = live.look()
    while snapshot.state == LOOKING:
        time.sleep(min(0.5, live.patience / 4))
        snapshot = live.look()
    return snapshot


def _console(width=None, height=None):
    return Console(width=width, height=height, highlight=False, markup=False, emoji=False, legacy_windows=False)


def _print(lines):
    console = _console()
    for line in lines:
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


# ---- the live view ---------------------------------------------------------------------------------------------------


def _watch(live, interval, glyphs):
    """Until q or Ctrl-C; the last frame stays on the terminal."""
    footer = f"every {interval:g} s; q ends this view, not the run"
    lines = []
    with _signals() as signals:
        reason = None
        while reason != QUIT:
            if reason == SUSPEND:
                os.kill(os.getpid(), signal.SIGSTOP)
            with _keys() as keys, _screen() as show:
                reason = None
                due, snapshot = 0.0, None
                while reason not in (QUIT, SUSPEND):
                    if snapshot is None or time.monotonic() >= due:
                        due = time.monotonic() + interval
                        snapshot = live.look()
                    width, height = os.get_terminal_size(sys.stdout.fileno())
                    lines = frame(snapshot, width, height, glyphs, footer)
                    show(lines, width, height)
                    reason = _wait(keys, signals, due - time.monotonic())
            if snapshot:
                lines = frame(snapshot, width, None, glyphs)
    _print(lines)


def _wait(keys, signals, seconds):
    """Until `seconds` are over (None), a key ends the view, or a signal came: QUIT, REDRAW or SUSPEND."""
    ready, _, _ = select.select([signals, *keys], [], [], max(seconds, 0.0))
    for source in ready:
        data = os.read(source, 64)
        if source == signals:
            if signal.SIGINT in data:
                return QUIT
            if signal.SIGTSTP in data:
                return SUSPEND
        elif not data or b"q" in data.lower() or b"\x03" in data:
            return QUIT
        return REDRAW
    return None


@contextlib.contextmanager
def _signals():
    """A descriptor that becomes readable with the numbers of the signals that came. The signals that end a program
    end the view in order first."""
    numbers = [signal.SIGINT, signal.SIGTSTP, signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def end(number, _):
        raise SystemExit(128 + number)

    def nothing(number, _):
        pass

    old = {n: signal.signal(n, end if n in (signal.SIGTERM, signal.SIGHUP) else nothing) for n in numbers}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def _keys():
    """[descriptor of the keyboard], which gives each key at once and shows none; [] without a keyboard."""
    if not sys.stdin or not sys.stdin.isatty():
        yield []
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield [keyboard]
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _screen():
    """A function that shows lines on a screen of their own; what was on the terminal before comes back at the end."""
    console = _console()
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:

        def show(lines, width, height):
            console.size = width, height
            live.update(Text("\n", no_wrap=True, overflow="ignore").join(lines), refresh=True)

        yield show

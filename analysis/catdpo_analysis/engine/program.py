"""The trainer's program catdpo, run from here: found, started, and its one error line made ours."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys

from rich.console import Console

from catdpo_analysis.errors import UserError, one_line

PROGRESS = re.compile(r"\w+ +(\d+)/(\d+)  ")  # a line of run.progress = "plain"
PATIENCE = 10  # seconds that an interrupted program has to end
STOPPED = {85: "it was stopped by a signal or a time limit", 86: "it was asked to stop"}


def add_arguments(parser):
    """How the program is started."""
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="MPI ranks: mpirun -n N (default: 1)")
    parser.add_argument(
        "--launcher", metavar="WORDS", help="start the program with these words instead, such as 'srun -n 8 --mpi=pmix'"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="GROUP.KEY=VALUE",
        help="a setting of the program (catdpo --help-config lists them); may be given several times",
    )


def find_program():
    """CATDPO_BINARY, else catdpo on the PATH, else the build beside this package."""
    named = os.environ.get("CATDPO_BINARY")
    if named:
        if not os.access(named, os.X_OK):
            raise UserError(f"CATDPO_BINARY names {named}, which is no program")
        return os.path.abspath(named)
    beside = os.path.join(os.path.dirname(__file__), "..", "..", "..", "build", "catdpo")
    found = shutil.which("catdpo") or (beside if os.access(beside, os.X_OK) else None)
    if not found:
        raise UserError("the program catdpo is not on the PATH: build it, and name it in CATDPO_BINARY")
    return os.path.abspath(found)


def launcher(args):
    """The words before the program."""
    if args.ranks < 1:
        raise UserError(f"--ranks {args.ranks}: at least 1")
    if args.launcher:
        if args.ranks > 1:
            raise UserError("--launcher says how many ranks there are; leave --ranks out")
        try:
            words = shlex.split(args.launcher)
        except ValueError as error:
            raise UserError(f"--launcher {args.launcher}: {error}") from None
    else:
        words = ["mpirun", "-n", str(args.ranks)] if args.ranks > 1 else []
    if words and not shutil.which(words[0]):
        raise UserError(f"there is no program {words[0]} to start the ranks with; name one with --launcher")
    return words


@contextlib.contextmanager
def _spinner(what):
    """On a terminal, that something goes on."""
    console = Console(stderr=True)
    if not what or not sys.stderr.isatty():
        yield
        return
    with console.status(what):
        yield


def _run(words, progress):
    """(status, lines of standard error). Interrupted, it ends what it started first."""
    quiet, said = subprocess.DEVNULL, []
    with subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE) as process:
        try:
            for line in process.stderr:
                said.append(line.decode("utf-8", "replace").rstrip())
                found = PROGRESS.match(said[-1])
                if found and progress:
                    progress(int(found[1]), int(found[2]))
            process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    return process.returncode, said


def run_program(args, command, options, settings, what="", progress=None):
    """catdpo COMMAND with these options and settings (key -> text), then the user's own. A terminal shows `what`
    meanwhile; progress(done, total) is called as the program says so. Its warnings are passed on; what it says when it
    fails is raised."""
    words = [*launcher(args), find_program(), command, "/dev/null", *options]
    settings = {"run.progress": '"plain"' if progress else '"off"', **settings}
    for setting in [f"{key}={value}" for key, value in settings.items()] + args.set:
        words += ["--set", setting]
    try:
        with _spinner(what):
            status, said = _run(words, progress)
    except OSError as error:
        raise UserError(f"{words[0]} cannot be started: {error.strerror or error}") from None
    for line in said:
        if line.startswith("warning: "):
            print(one_line(line, 400), file=sys.stderr)
    if status == 0:
        return
    own = [line.removeprefix("catdpo: ") for line in said if line.startswith("catdpo: ")]
    if status < 0 and not own:
        own = [f"it was ended by signal {-status}"]
    why = own[0] if own else STOPPED.get(status) or next((line for line in said if line.strip()), "no reason")
    raise UserError(f"catdpo {command} ended with status {status}: {why}")

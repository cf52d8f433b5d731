"""The evidence command: an experiment over objectives, run as far as the time goes, and its page."""

import fcntl
import math
import os
import subprocess
import time

from catdpo_analysis.engine import program
from catdpo_analysis.errors import UserError
from catdpo_analysis.evidence.data import Data
from catdpo_analysis.evidence.experiment import read_experiment
from catdpo_analysis.evidence.record import read_records
from catdpo_analysis.evidence.results import write_results
from catdpo_analysis.evidence.runs import Runs
from catdpo_analysis.evidence.work import Work
from catdpo_analysis.text.streams import say


def add_arguments(parser):
    parser.add_argument("experiment", metavar="TOML", help="what is compared, such as configs/evidence/experiment.toml")
    parser.add_argument(
        "--model", metavar="FILE", help="model.h5 that all runs start from; without it only the page is made"
    )
    parser.add_argument(
        "--folder", metavar="DIR", default="runs/evidence", help="for runs, answers and logs (default: runs/evidence)"
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="for records/, results.md and its figures (default: the folder of the TOML file)",
    )
    parser.add_argument("--data", metavar="DIR", help="folder with the files of [[outside]]")
    parser.add_argument(
        "--hours",
        type=float,
        default=0.0,
        metavar="H",
        help="begin nothing that would end later (default: 0, all of it)",
    )
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", default=[], help="methods and variations to run (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="print the names of methods and variations, and end")
    program.add_arguments(parser)


def commit_of(path):
    """Of the code beside the experiment, with a mark where it was changed; "" outside of a repository."""
    folder = os.path.dirname(os.path.abspath(path))
    words = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _alone(folder):
    """Two that work in one folder would write over each other's runs."""
    os.makedirs(folder, exist_ok=True)
    file = open(os.path.join(folder, "lock"), "w", encoding="utf-8")  # noqa: SIM115, held until the end
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another evidence command works in {folder}; give each --folder and --only of its own"
        ) from None
    except OSError:
        pass  # a file system without locks
    return file


def run(args):
    experiment = read_experiment(args.experiment)
    if args.list:
        say("\n".join(item.name for item in (*experiment.methods, *experiment.variations)))
        return
    unknown = {*args.only} - {item.name for item in (*experiment.methods, *experiment.variations)}
    if unknown:
        raise UserError(f"--only {' '.join(sorted(unknown))}: no method or variation of {args.experiment}")
    if args.hours < 0:
        raise UserError(f"--hours {args.hours:g} is below 0")
    results = args.results or os.path.dirname(args.experiment)
    kept = os.path.join(results, "records")
    os.makedirs(kept, exist_ok=True)
    if args.model:
        program.launcher(args)
        lock = _alone(args.folder)
        end = time.monotonic() + 3600 * args.hours if args.hours else math.inf
        work = Work(args, args.model, args.folder)
        data = Data(experiment, os.path.join(args.folder, "data"), work)
        data.ready()
        runs = Runs(experiment, data, work, args.folder, kept, commit_of(args.experiment), args.data, args.only)
        done = runs.go(lambda seconds: time.monotonic() + seconds < end)
        say("all runs are done" if done else "what is done has its record")
        lock.close()
    if not read_records(kept):
        raise UserError(f"{kept} has no record yet; --model MODEL.h5 runs the experiment")
    write_results(experiment, results)

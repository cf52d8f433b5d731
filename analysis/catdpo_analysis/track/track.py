"""The track command: a run's log as TensorBoard's event files, or to Weights & Biases, once or as it grows."""

import os
import time

from catdpo_analysis.errors import UserError
from catdpo_analysis.files.settings import read_settings
from catdpo_analysis.files.status import read_status
from catdpo_analysis.files.step_log import StepLog
from catdpo_analysis.text.streams import say

EVERYTHING = 1 << 62
PASSED_OVER = ("step", "total_steps")


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN_DIR", help="run.dir of the trainer's config")
    parser.add_argument("--tensorboard", metavar="DIR", help="write event files there (pip install tensorboardX)")
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="log to Weights & Biases (pip install wandb; WANDB_MODE=offline)"
    )
    parser.add_argument("--follow", action="store_true", help="go on until the run has ended")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between looks (default: 5)")


def scalars(row):
    """{tag: number} of a line of log.jsonl; what is by category gets the category's name behind a slash."""
    found = {}
    for key, value in row.items():
        if key in PASSED_OVER or isinstance(value, bool | str) or value is None:
            continue
        if isinstance(value, dict):
            numbers = {f"{key}/{name}": one for name, one in value.items() if isinstance(one, int | float)}
            found |= numbers
        elif isinstance(value, int | float):
            found[key if "/" in key else f"train/{key}"] = value
    return found


class TensorBoard:
    def __init__(self, folder, run):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError("event files are written by tensorboardX: pip install tensorboardX") from None
        self.writer = SummaryWriter(folder)
        settings = read_settings(run)
        lines = "\n".join(f"    {key} = {value}" for key, value in settings.items())
        self.writer.add_text("settings", lines or "unknown", 0)

    def add(self, step, values):
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def flush(self):
        self.writer.flush()

    def close(self):
        self.writer.close()


class WeightsAndBiases:
    def __init__(self, project, run):
        try:
            import wandb
        except ImportError:
            raise UserError("Weights & Biases is not installed: pip install wandb") from None
        name = os.path.basename(os.path.abspath(run))
        self.session = wandb.init(project=project, name=name, config=read_settings(run))

    def add(self, step, values):
        self.session.log(values, step=step)

    def flush(self):
        pass

    def close(self):
        self.session.finish()


def run(args):
    if not args.tensorboard and not args.wandb:
        raise UserError("name where to: --tensorboard DIR, --wandb PROJECT, or both")
    path = os.path.join(args.run, "log.jsonl")
    if not os.path.exists(path):
        raise UserError(f"there is no {path}; name the run directory of a run that has begun")
    targets = [TensorBoard(args.tensorboard, args.run)] if args.tensorboard else []
    targets += [WeightsAndBiases(args.wandb, args.run)] if args.wandb else []
    log, last, count = StepLog(path, limit=EVERYTHING, keep=EVERYTHING), 0, 0
    try:
        while True:
            status = read_status(args.run)  # before the log, so that what the log holds afterwards is all
            log.poll()
            new = [row for row in log.rows if row["step"] > last]
            for row in new:
                for target in targets:
                    target.add(row["step"], scalars(row))
            last, count = (new[-1]["step"] if new else last), count + len(new)
            for target in targets:
                target.flush()
            if not args.follow or (status and status.ended):
                break
            time.sleep(args.every)
    finally:
        for target in targets:
            target.close()
    say(f"{count} steps of {args.run}" + (f" in {args.tensorboard}" if args.tensorboard else ""))

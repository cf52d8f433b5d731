"""The programs that an experiment runs, each with its output in a log."""

import os
import subprocess
import sys
import time

from catdpo_analysis.engine.program import run_program
from catdpo_analysis.errors import UserError
from catdpo_analysis.text.streams import say


class Work:
    """`args`: ranks, launcher and settings (engine.program). `deadline`: time.monotonic() after which nothing new is
    begun, or None."""

    def __init__(self, args, model, folder, deadline=None):
        self.args, self.model, self.folder, self.deadline = args, model, folder, deadline
        self.seconds = {}  # what -> seconds of the latest of its kind

    def time_for(self, kind):
        """Whether another piece of this kind, as long as the last one, ends in time."""
        return self.deadline is None or time.monotonic() + self.seconds.get(kind, 0.0) < self.deadline

    def _timed(self, kind, what, run):
        say(f"{time.strftime('%H:%M:%S')} {what}")
        sys.stdout.flush()
        begin = time.monotonic()
        run()
        self.seconds[kind] = time.monotonic() - begin
        return self.seconds[kind]

    def analysis(self, command, *options):
        """Another command of this package."""

        def run():
            log = os.path.join(self.folder, f"{command}.log")
            with open(log, "w", encoding="utf-8") as file:
                words = [sys.executable, "-m", "catdpo_analysis", command, *map(str, options)]
                done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                with open(log, encoding="utf-8", errors="replace") as file:
                    last = ([line.strip() for line in file if line.strip()] or ["no reason"])[-1]
                raise UserError(f"{command} failed: {last} (all of it in {log})")

        return self._timed(command, command, run)

    def generate(self, model, prompts, out, tokens, settings, what):
        settings = {f"generate.{key}": str(value) for key, value in ({"max_tokens": tokens} | settings).items()}
        options = ["--model", model, "--prompts", prompts, "--out", out, "--overwrite"]
        return self._timed("generate", what, lambda: run_program(self.args, "generate", options, settings))

    def train(self, folder, settings, what):
        settings = {"run.dir": folder, "model.path": self.model, **settings}
        return self._timed("train", what, lambda: run_program(self.args, "train", ["--resume"], settings))

    def evaluate(self, folder, model, pairs, split, out, settings, what):
        settings = {
            "run.dir": folder,
            "model.path": self.model,
            "reference.model": self.model,
            "data.path": pairs,
            **settings,
        }
        options = ["--model", model, "--split", split, "--out", out]
        return self._timed("eval", what, lambda: run_program(self.args, "eval", options, settings))

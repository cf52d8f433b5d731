"""The programs that an experiment runs, each with its output in a log."""

import os
import subprocess
import sys
import time

from catdpo_analysis.engine.program import run_program
from catdpo_analysis.errors import UserError
from catdpo_analysis.text.streams import say


def _announce(what):
    say(f"{time.strftime('%H:%M:%S')} {what}")
    sys.stdout.flush()


class Work:
    """`args`: ranks, launcher and settings (engine.program)."""

    def __init__(self, args, model, folder):
        self.args, self.model, self.folder = args, model, folder

    def _program(self, command, options, settings, what):
        _announce(what)
        run_program(self.args, command, options, settings)

    def analysis(self, command, *options):
        """Another command of this package."""
        _announce(command)
        log = os.path.join(self.folder, f"{command}.log")
        with open(log, "w", encoding="utf-8") as file:
            words = [sys.executable, "-m", "catdpo_analysis", command, *map(str, options)]
            done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            with open(log, encoding="utf-8", errors="replace") as file:
                last = ([line.strip() for line in file if line.strip()] or ["no reason"])[-1]
            raise UserError(f"{command} failed: {last} (all of it in {log})")

    def generate(self, model, prompts, out, tokens, settings, what):
        settings = {f"generate.{key}": str(value) for key, value in ({"max_tokens": tokens} | settings).items()}
        options = ["--model", model, "--prompts", prompts, "--out", out, "--overwrite"]
        self._program("generate", options, settings, what)

    def train(self, folder, settings, what):
        settings = {"run.dir": folder, "model.path": self.model, **settings}
        self._program("train", ["--resume"], settings, what)

    def evaluate(self, folder, model, pairs, split, out, settings, what):
        settings = {
            "run.dir": folder,
            "model.path": self.model,
            "reference.model": self.model,
            "data.path": pairs,
            **settings,
        }
        options = ["--model", model, "--split", split, "--out", out]
        self._program("eval", options, settings, what)

"""Runs that are disturbed while they go: found, signalled, killed, and started again.

    with interrupt.Started(folder, ranks=2, **settings) as run:
        run.wait_for_step(5)
        run.signal(signal.SIGUSR1, ranks=[1])
        status = run.end()
"""

import glob
import json
import os
import shutil
import signal
import subprocess
import time
import uuid

import engine
import h5py
import numpy as np

TIMES = ("tokens_per_second", "seconds")  # of a line of log.jsonl: the only things that differ between two equal runs


def write_config(folder, **settings):
    path = os.path.join(folder, "run.cfg")
    with open(path, "w") as file:
        file.write(engine.config_text({"run.dir": os.path.join(folder, "run"), **engine.DEFAULTS, **settings}))
    return path


class Started:
    """mpirun -n RANKS catdpo train on the config in `folder`, running; each step takes `pace` milliseconds at least.
    When a rank fails, mpirun kills the others after `grace` seconds."""

    def __init__(self, folder, ranks=1, options=("--resume",), command="train", pace=0, grace=0, **settings):
        self.folder, self.ranks, self.mark = folder, ranks, uuid.uuid4().hex
        self.directory = settings.get("run.dir", os.path.join(folder, "run"))
        config = write_config(folder, **settings)
        self.output = open(os.path.join(folder, f"{self.mark}.log"), "w+")
        self.process = subprocess.Popen(
            ["sh", engine.MPIRUN, str(ranks), engine.BINARY, command, config, *options],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=self._environment(pace, grace),
        )

    def _environment(self, pace, grace):
        found = dict(os.environ, CATDPO_TEST_RUN=self.mark, CATDPO_GRACE=str(grace))
        if pace:
            found["CATDPO_TEST_PACE"] = str(pace)
            found["CATDPO_PRELOAD"] = f"{os.environ.get('CATDPO_PRELOAD', '')} {engine.PACE}".strip()
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.everybody():
            self._kill(pid, signal.SIGKILL)
        self.process.wait()
        self.output.close()

    @staticmethod
    def _kill(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def _processes(self):
        """(pid, rank or None) of what this start has brought into being."""
        for path in glob.glob("/proc/[0-9]*/environ"):
            try:
                environment = dict(
                    item.partition("=")[::2] for item in open(path, "rb").read().decode(errors="replace").split("\0")
                )
                program = os.readlink(os.path.join(os.path.dirname(path), "exe"))
            except OSError:
                continue
            if environment.get("CATDPO_TEST_RUN") == self.mark:
                ours = os.path.realpath(program) == os.path.realpath(engine.BINARY)
                rank = environment.get("OMPI_COMM_WORLD_RANK") or environment.get("PMI_RANK")
                yield int(path.split("/")[2]), int(rank) if ours else None

    def everybody(self):
        return [pid for pid, _ in self._processes()]

    def pids(self):
        """{rank: pid}"""
        return {rank: pid for pid, rank in self._processes() if rank is not None}

    def text(self):
        self.output.flush()
        return open(self.output.name, errors="replace").read()

    def wait_until(self, condition, seconds=40):
        start = time.monotonic()
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.poll()} before its time:\n{self.text()}"
            assert time.monotonic() - start < seconds, f"nothing happened for {seconds} s:\n{self.text()}"
            time.sleep(0.01)

    def steps(self):
        try:
            return sum(1 for _ in open(os.path.join(self.directory, "log.jsonl")))
        except FileNotFoundError:
            return 0

    def wait_for_step(self, step):
        self.wait_until(lambda: self.steps() >= step)

    def signal(self, number, ranks=None):
        """To these ranks, or to all of them."""
        for rank, pid in self.pids().items():
            if ranks is None or rank in ranks:
                self._kill(pid, number)

    def end(self, seconds=engine.TIMEOUT):
        """Exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hangs:\n{self.text()[-2000:]}") from None


def finish(folder, ranks=1, options=("--resume",), status=0, **settings):
    """Run to the end; what it said."""
    with Started(folder, ranks, options, **settings) as run:
        assert run.end() == status, run.text()
        return run.text()


def copy_run(source, label):
    """A copy of a run directory in a folder of its own, to go on with."""
    folder = engine.new_folder(label)
    shutil.copytree(source, os.path.join(folder, "run"), symlinks=True)
    return folder


# ---- two runs are the same ------------------------------------------------------------------------------------------

def log_lines(directory):
    lines = [json.loads(line) for line in open(os.path.join(directory, "log.jsonl"))]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def check_steps(directory, last=None):
    """metrics.h5 can be opened and has every step once, in order."""
    with h5py.File(os.path.join(directory, "metrics.h5")) as file:
        steps = file["train/step"][:]
    np.testing.assert_array_equal(steps, np.arange(1, len(steps) + 1))
    assert last is None or len(steps) == last
    return len(steps)


def check_same(directory, expected, name="checkpoints/final.h5"):
    """Bit for bit: weights, moments, margins, metrics but for times and the ranks' counts since the last flush, log
    lines but for times."""
    one, other = (engine.read(os.path.join(where, name)) for where in (expected, directory))
    assert one.keys() == other.keys()
    for key in one:
        if key != "config":
            np.testing.assert_array_equal(other[key], one[key], key)
    for group in ("margins", "optimizer", "sampler"):
        first, second = (engine.attributes(os.path.join(where, name), group) for where in (expected, directory))
        assert first == second, group
    one, other = (engine.read(os.path.join(where, "metrics.h5")) for where in (expected, directory))
    for key in one:
        if key != "config" and not key.startswith(("timing/", "train/partial/")):
            np.testing.assert_array_equal(other[key], one[key], key)
    assert other["timing/step_seconds"].shape == one["timing/step_seconds"].shape
    assert log_lines(directory) == log_lines(expected)

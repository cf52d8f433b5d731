"""The test cluster as users of jobs/ see it: batch scripts submitted from a folder, with the settings of an emulated
site, and what becomes of them."""

import os
import shutil
import sys
import tempfile
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "python"))

import engine  # noqa: E402
from cluster import Cluster, why_not  # noqa: E402

JOBS = os.path.join(ROOT, "jobs")
SITE = {
    "CATDPO_SITE": os.path.join(JOBS, "site.sh"),
    "CATDPO_ANALYSIS": os.path.join(ROOT, ".venv", "bin", "catdpo-analysis"),
    "CATDPO_SRUN_OPTIONS": "--mpi=pmix",
    "CATDPO_MPIRUN_OPTIONS": " ",  # nodes that claim more cores than there are cannot be bound to
    "CATDPO_NODE_PATIENCE": "30",
}


class Lab(Cluster):
    def start(self, nodes=4, tied=False):
        super().start(nodes, tied)
        program = self.path("etc/catdpo")
        with open(program, "w") as file:
            preload = f"{os.environ.get('CATDPO_PRELOAD', '')} {engine.PACE}".strip()
            file.write(f'#!/bin/sh\nLD_PRELOAD="{preload}" exec "{engine.BINARY}" "$@"\n')
        os.chmod(program, 0o755)
        self.site = SITE | {"CATDPO_BINARY": program}

    def sbatch(self, folder, *arguments, **environment):
        """Submit from `folder`: the job's id. A word that ends with .sbatch is a script of jobs/."""
        words = [os.path.join(JOBS, word) if str(word).endswith(".sbatch") else word for word in arguments]
        return self.run("sbatch", "--parsable", *words, folder=folder, **self.site | environment)


def started(nodes=4):
    """A generator for fixtures: a cluster until the tests that use it have ended; a skip where there can be none."""
    reason = why_not()
    if reason:
        pytest.skip(f"no SLURM cluster can be started here: {reason}")
    lab = Lab(tempfile.mkdtemp(prefix="catdpo-slurm-"))
    try:
        lab.start(nodes, tied=True)
        yield lab
    finally:
        lab.stop()
        shutil.rmtree(lab.folder, ignore_errors=True)


def output(folder):
    """All that the jobs submitted from a folder printed."""
    names = sorted(
        os.path.join(where, name) for where, _, names in os.walk(folder) for name in names if name.endswith(".out")
    )
    return "".join(open(name, errors="replace").read() for name in names)


class Job:
    """A batch job that is submitted from a folder of its own, or has been."""

    def __init__(self, lab, folder, *words, id=None, **environment):
        self.lab, self.folder = lab, folder
        self.id = id or lab.sbatch(folder, *words, **environment)

    def __repr__(self):
        return f"job {self.id}: {self.lab.jobs(self.id)}\n{output(self.folder)}"

    def path(self, name):
        return os.path.join(self.folder, name)

    def lines(self, name):
        """Of a file in its folder; none if there is no such file."""
        if not os.path.exists(self.path(name)):
            return []
        with open(self.path(name)) as file:
            return file.read().splitlines()

    def until(self, holds, seconds=60):
        limit = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < limit, repr(self)
            time.sleep(0.05)

    def ends(self, state, status=None, seconds=120):
        """It came to this end, with this exit status."""
        found = self.lab.wait(self.id, seconds=seconds)[0]
        assert found["JobState"] == state, repr(self)
        assert status is None or found["ExitCode"] == f"{status}:0", repr(self)
        return self

    def restarts(self):
        return int(self.lab.job(self.id)["Restarts"])


class Training(Job):
    """jobs/train.sbatch on a config of its own, or on what an earlier job has left: in its folder, or in a copy."""

    def __init__(self, lab, *words, settings=None, after=None, copy=False, **environment):
        folder = after.folder if after and not copy else engine.new_folder("job")
        if copy:
            shutil.copytree(after.folder, folder, dirs_exist_ok=True)
        if not after:
            settings = {"run.dir": "run", **engine.DEFAULTS, **(settings or {})}
            with open(os.path.join(folder, "run.cfg"), "w") as file:
                file.write(engine.config_text(settings))
        self.directory = os.path.join(folder, "run")
        super().__init__(lab, folder, *words, "train.sbatch", "run.cfg", **environment)

    def steps(self):
        return len(self.lines("run/log.jsonl"))

    def until_step(self, step):
        self.until(lambda: self.steps() >= step)

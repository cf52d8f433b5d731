"""The test cluster as users of jobs/ see it: batch scripts submitted from a folder, with the settings of
an emulated site."""

import os
import shutil
import sys
import tempfile

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "python"))

import engine  # noqa: E402
from cluster import Cluster, why_not  # noqa: E402

JOBS = os.path.join(ROOT, "jobs")
SITE = {  # nodes that claim more cores than there are cannot be bound to
    "CATDPO_SITE": os.path.join(JOBS, "site.sh"),
    "CATDPO_BINARY": engine.BINARY,
    "CATDPO_ANALYSIS": os.path.join(ROOT, ".venv", "bin", "catdpo-analysis"),
    "CATDPO_SRUN_OPTIONS": "--mpi=pmix",
    "CATDPO_MPIRUN_OPTIONS": " ",
    "CATDPO_NODE_PATIENCE": "20",
}


class Lab(Cluster):
    def sbatch(self, folder, *arguments, **environment):
        """Submit from `folder`: the job's id. A word that ends with .sbatch is a script of jobs/."""
        words = [os.path.join(JOBS, word) if str(word).endswith(".sbatch") else word for word in arguments]
        return self.run("sbatch", "--parsable", *words, folder=folder, **SITE | environment)


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

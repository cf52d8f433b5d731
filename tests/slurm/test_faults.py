"""What becomes of a training job when SLURM loses a node: the run that was wanted, and never two that write."""

import os
import time

import engine
import interrupt
import pytest
from lab import Training

pytestmark = engine.needs_binary

RUN = {"margin.eta": 0.5, "optimizer.learning_rate": 0.02, "batch.sampling": "balanced", "parallel.grid": [2, 1]}
SHORT = RUN | {"schedule.steps": 24, "checkpoint.steps": 5}
# it lasts longer than SLURM needs to miss a node and to start the job again, so that two copies are alive
LASTING = RUN | {"schedule.steps": 100, "checkpoint.steps": 10}
PACE = 500
LAUNCHERS = ["srun", "mpirun"]


LOSES_NODES = True


def whole(settings):
    """The run that nothing happened to."""
    return engine.train(2, **settings | {"checkpoint.steps": 0}).directory


def prepare(cluster):
    """All jobs at once, each on nodes of its own, all of which get into trouble at the same time."""
    found = {}
    for launcher in LAUNCHERS:
        more = {"CATDPO_LAUNCHER": launcher, "CATDPO_TEST_PACE": PACE}
        two, one = ("--nodes=2", "--ntasks-per-node=1"), ("--nodes=1", "--ntasks-per-node=2")
        found[f"slurmd-{launcher}"] = Training(cluster, *one, settings=LASTING, **more)
        found[f"second-{launcher}"] = Training(cluster, *two, settings=SHORT, **more)
        found[f"first-{launcher}"] = Training(cluster, *one, settings=SHORT, **more)
    for job in found.values():
        job.until_step(7)
        job.before = cluster.run("scontrol", "show", "hostnames", cluster.job(job.id)["NodeList"]).split()
    for name, job in found.items():
        if name.startswith("slurmd"):
            cluster.kill_slurmd(job.before[0])
        else:
            cluster.crash(job.before[-1])
    watch([found[f"slurmd-{launcher}"] for launcher in LAUNCHERS])
    return found


def watch(jobs):
    """Until the old copies have ended: was one alive beside a new one that had begun, and did the new one go on?"""
    for job in jobs:
        job.both = False
    left = list(jobs)
    limit = time.monotonic() + 90
    while left and time.monotonic() < limit:
        for job in list(left):
            new = job.lab.job(job.id)
            began = new["Restarts"] == "1" and new["NodeList"] and job.lab.processes(new["NodeList"], "catdpo")
            old = job.lab.processes(job.before[0], "catdpo")
            job.both |= bool(began and old)
            if not old:
                left.remove(job)
    assert not left, left


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("which", ["first", "second"])
def test_lost_node(jobs, which, launcher):
    """The node of the batch script, or another one: the job is started again on others and makes the same run."""
    job = jobs[f"{which}-{launcher}"].ends("COMPLETED", 0)
    assert job.restarts() >= 1
    after = job.lab.job(job.id)["NodeList"]
    assert job.before[-1] not in job.lab.run("scontrol", "show", "hostnames", after).split()
    interrupt.check_same(job.directory, whole(SHORT))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_copies(jobs, launcher):
    """Only slurmd is lost and the ranks live on: the copy that SLURM starts elsewhere makes the run that was wanted.
    The old one harms neither the run nor the job: an srun ends it, and one that nobody ends stops by itself."""
    job = jobs[f"slurmd-{launcher}"].ends("COMPLETED", 0)
    assert job.restarts() == 1
    if launcher == "mpirun":
        assert job.both, "the old copy was to be alive when the new one began"
        assert "was taken over by" in repr(job)
    assert not [name for name in os.listdir(job.directory) if name.startswith("writer-")]
    interrupt.check_steps(job.directory, LASTING["schedule.steps"])
    interrupt.check_same(job.directory, whole(LASTING))

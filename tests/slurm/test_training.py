"""Training as batch jobs on several nodes: the losses of a single process, parts that add up to the uninterrupted run,
and what scancel and failures leave."""

import json
import os
import subprocess

import engine
import interrupt
import numpy as np
import pytest
from lab import JOBS, Job, Training

pytestmark = engine.needs_binary

LAUNCHERS = ["srun", "mpirun"]
RUN = {"margin.eta": 0.5, "optimizer.learning_rate": 0.02, "batch.sampling": "balanced", "schedule.steps": 12}
SHAPES = {  # grids that cross nodes: rows, columns and replicas on different ones
    "2-nodes": (("--nodes=2", "--ntasks-per-node=2"), {"parallel.grid": [2, 2]}),
    "4-nodes": (("--nodes=4", "--ntasks-per-node=1"), {"parallel.grid": [2, 1], "parallel.replicas": 2}),
}
# 60 steps of at least 200 ms are more than three limits of 3.9 s
LONG = RUN | {"parallel.grid": [2, 1], "schedule.steps": 60, "schedule.type": "cosine", "checkpoint.minutes": 0.0}
LIMIT = {"run.time_limit": 0.065}
PACE = 200
TWO = ("--nodes=2", "--ntasks-per-node=1")


def prepare(lab):
    """All jobs that these tests look at."""
    found = {}
    for launcher in LAUNCHERS:
        site = {"CATDPO_LAUNCHER": launcher}
        saved = LONG | {"checkpoint.steps": 4}
        found[f"cancelled-{launcher}"] = Training(lab, *TWO, settings=saved, CATDPO_TEST_PACE=5 * PACE, **site)
        found[f"parts-{launcher}"] = Training(lab, *TWO, settings=LONG | LIMIT, CATDPO_TEST_PACE=PACE, **site)
        found[f"whole-{launcher}"] = Training(lab, *TWO, settings=LONG, **site)
        for name, (words, shape) in SHAPES.items():
            found[f"{name}-{launcher}"] = Training(lab, *words, settings=RUN | shape, **site)
    halves = RUN | {"parallel.grid": "auto", "schedule.steps": 30}
    found["moved"] = Training(lab, *TWO, settings=halves, CATDPO_TEST_PACE=5 * PACE)
    wild = RUN | {"parallel.grid": [2, 1], "optimizer.learning_rate": 1e30, "optimizer.max_grad_norm": 0.0}
    found["diverges"] = Training(lab, *TWO, settings=wild)
    found["mistake"] = Training(lab, *TWO, settings=RUN | {"parallel.grid": [3, 1]})
    found["planned"] = planned(lab)
    site = {"CATDPO_LAUNCHER": "srun", "CATDPO_SRUN_OPTIONS": "--mpi=none", "CATDPO_NODE_PATIENCE": 3}
    found["apart"] = Training(lab, *TWO, settings=RUN | {"parallel.grid": "auto"}, **site)
    for name in ("cancelled-srun", "cancelled-mpirun", "moved"):
        job = found[name]
        job.until_step(10)
        lab.run("scancel", *(["--batch", "--signal=USR2"] if name == "moved" else []), job.id)
    for launcher in LAUNCHERS:
        job = found[f"cancelled-{launcher}"].ends("CANCELLED")
        job.left = sorted(os.listdir(os.path.join(job.directory, "checkpoints")))
        found[f"again-{launcher}"] = Training(lab, *TWO, after=job, copy=True, CATDPO_LAUNCHER=launcher)
    found["moved"].ends("FAILED", 85)
    for nodes in (1, 3):
        words = (f"--nodes={nodes}", "--ntasks-per-node=1")
        found[f"moved-{nodes}"] = Training(lab, *words, after=found["moved"], copy=True)
    return found


def planned(lab):
    """The command that `catdpo plan` prints, typed in the repository: here a folder with the same jobs/ in it."""
    folder = engine.new_folder("planned")
    os.symlink(JOBS, os.path.join(folder, "jobs"))
    with open(os.path.join(folder, "run.cfg"), "w") as file:
        file.write(engine.config_text({"run.dir": "run", **engine.DEFAULTS, **RUN}))
    words = ("plan", "run.cfg", "--nodes", 2, "--ranks-per-node", 2, "--hours", 0.1)
    said = lab.run(engine.BINARY, *words, folder=folder).splitlines()
    command = next(line.removeprefix("submit") for line in said if line.startswith("submit"))
    site = {name: value for name, value in lab.site.items() if name != "CATDPO_SITE"}
    job = Job(lab, folder, id=lab.run("bash", "-c", command, folder=folder, **site).split()[-1])
    job.directory = os.path.join(folder, "run")
    return job


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_cancelled(jobs, launcher):
    """scancel leaves good checkpoints, from which the same submission goes on to the run that was wanted."""
    job, again = jobs[f"cancelled-{launcher}"], jobs[f"again-{launcher}"]
    assert job.left and all(name.startswith("step-") for name in job.left)
    files = [os.path.join(job.directory, "checkpoints", name) for name in job.left]
    checked = subprocess.run([engine.BINARY, "check", *files], text=True, capture_output=True)
    assert checked.returncode == 0, checked
    again.ends("COMPLETED", 0)
    assert f"after step {int(job.left[-1][5:13])} of" in repr(again)
    interrupt.check_same(again.directory, jobs[f"whole-{launcher}"].ends("COMPLETED", 0).directory)


@pytest.mark.parametrize("nodes", [1, 3])
def test_other_number_of_nodes(jobs, nodes):
    """What was begun on two nodes goes on, submitted again, on another number of them: the run of one process."""
    check_steps_of_one_process(jobs[f"moved-{nodes}"].ends("COMPLETED", 0).directory, 30)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_of_one_process(jobs, shape, launcher):
    """Over nodes and launchers: the same pairs and counts, and the losses of one process."""
    check_steps_of_one_process(jobs[f"{shape}-{launcher}"].ends("COMPLETED", 0).directory, RUN["schedule.steps"])


def check_steps_of_one_process(directory, steps):
    expected = engine.train(1, **RUN | {"schedule.steps": steps}).metrics()
    found = engine.read(os.path.join(directory, "metrics.h5"))
    np.testing.assert_allclose(found["train/loss"], expected["train/loss"], rtol=1e-4)
    for name in ("train/pairs", "train/category/n", "train/category/violations", "train/category/margin"):
        np.testing.assert_array_equal(found[name], expected[name], name)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_parts_make_the_whole(jobs, launcher):
    """A run longer than its time limit is the same job, started again at least three times, and the same run."""
    parts = jobs[f"parts-{launcher}"].ends("COMPLETED", 0)
    resumed = engine.attributes(os.path.join(parts.directory, "metrics.h5"))["restarts"]
    assert 3 <= resumed <= parts.restarts()
    interrupt.check_same(parts.directory, jobs[f"whole-{launcher}"].ends("COMPLETED", 0).directory)
    interrupt.check_steps(parts.directory, LONG["schedule.steps"])


def test_command_of_plan(jobs):
    """What `catdpo plan` says to submit runs as it stands, on the ranks that it is for."""
    job = jobs["planned"].ends("COMPLETED", 0)
    assert job.lab.job(job.id)["NumTasks"] == "4" and job.lab.job(job.id)["NumNodes"] == "2"
    check_steps_of_one_process(job.directory, RUN["schedule.steps"])


@pytest.mark.skipif(not os.environ.get("CATDPO_LONG_TESTS"), reason="three minutes: CATDPO_LONG_TESTS=1 runs it")
def test_limits_of_slurm(lab):
    """The same with SLURM's own time limit and its signal before it, of which the shortest is a minute."""
    settings = LONG | {"schedule.steps": 170}
    job = Training(lab, *TWO, "--time=1", "--signal=B:USR1@20", settings=settings, CATDPO_TEST_PACE=1000)
    job.ends("COMPLETED", 0, seconds=590)
    print(job)
    assert job.restarts() >= 3 and "USR1: a checkpoint, then again" in repr(job)
    interrupt.check_same(job.directory, engine.train(2, **settings).directory)


@pytest.mark.parametrize("name, status", [("diverges", 1), ("mistake", 2)])
def test_failure(jobs, name, status):
    """A failure of the program is the job's, with its status, and is not tried again; the run directory has its reason,
    the job and the name of its log."""
    job = jobs[name].ends("FAILED", status)
    assert job.restarts() == 0
    with open(os.path.join(job.directory, "status.json")) as file:
        said = json.load(file)
    assert said["status"] == "failed" and said["exit_status"] == status and said["reason"] in repr(job)
    assert said["job"] == str(job.id) and os.path.basename(said["log"]) == f"catdpo-train-{job.id}.out"
    assert not os.path.exists(os.path.join(job.directory, "checkpoints", "final.h5"))


def test_wrong_kind_of_srun(jobs):
    """Ranks that do not find each other are a failure, not a run each."""
    job = jobs["apart"].ends("FAILED")
    assert not os.path.exists(os.path.join(job.directory, "checkpoints"))

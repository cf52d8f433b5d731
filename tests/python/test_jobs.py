"""jobs/job.sh without a cluster: what it makes of the variables that different SLURMs set."""

import os
import subprocess

import engine
import pytest

JOB = os.path.join(engine.ROOT, "jobs", "job.sh")


def source(script, **variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment = {
        **clean,
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "CATDPO_LAUNCHER": "mpirun",
        **variables,
    }
    return subprocess.run(["bash", "-uc", f". {JOB}; {script}"], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("variables, tasks", [
    ({"SLURM_NTASKS": "6", "SLURM_NTASKS_PER_NODE": "2"}, 6),
    ({"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "32", "SLURM_TASKS_PER_NODE": "4(x2)"}, 64),
    ({"SLURM_JOB_NUM_NODES": "3", "SLURM_TASKS_PER_NODE": "2(x2),3"}, 7),
    ({"SLURM_TASKS_PER_NODE": "12"}, 12),
    ({"SLURM_NTASKS_PER_NODE": "8"}, 8),
    ({}, 0),
    ({"SLURM_TASKS_PER_NODE": "many"}, 0),
])
def test_tasks_of_a_job(variables, tasks):
    """SLURM_NTASKS, else nodes x SLURM_NTASKS_PER_NODE, else the sum of SLURM_TASKS_PER_NODE."""
    assert int(source("echo $tasks", **variables).stdout) == tasks


def test_unknown_number_of_tasks_stops_the_job():
    """A job that cannot know how many ranks it is for does not compute on one core for its whole time."""
    done = source("job_start; echo never")
    assert done.returncode == 2 and "--ntasks-per-node" in done.stdout and "never" not in done.stdout

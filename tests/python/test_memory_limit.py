"""Memory that a job may use: the least of the node's, of control groups and of SLURM's variables, for train and plan
alike."""

import json
import os
import subprocess

import engine
import pytest

pytestmark = engine.needs_binary

SETTINGS = {"schedule.steps": 1, "batch.pairs": 24, "batch.max_tokens": 8192}


def planned(path, ranks=2):
    command = [engine.BINARY, "plan", path, "--ranks", str(ranks), "--gflops", "10", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["sizes"][0]


def test_memory_that_slurm_gave(monkeypatch):
    """SLURM_MEM_PER_NODE below what the run needs is refused before it begins, on all ranks, in one line that says
    whose limit it is; plan says the same; a limit that is given in the config counts instead."""
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    run = engine.launch("train", 2, **SETTINGS, **{"parallel.replicas": 2})
    assert run.statuses == [2, 2] and len(run.errors) == 1, repr(run)
    assert "524 kB (1/2 of SLURM_MEM_PER_NODE, 0.00105 GB)" in run.errors[0] and "more memory" in run.errors[0]
    engine.succeed(engine.launch("train", 2, **SETTINGS, **{"parallel.replicas": 2, "parallel.memory_gb": 1.0}))
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "900")
    run = engine.succeed(engine.launch("train", 2, **SETTINGS, **{"parallel.grid": "auto"}))
    assert "80 % of 1/2 of SLURM_MEM_PER_NODE, 0.944 GB" in run.err
    size = planned(os.path.join(run.folder, "run.cfg"))
    assert size["memory_per_rank"] == 450 << 20 and size["memory_of"] == "1/2 of SLURM_MEM_PER_NODE, 0.944 GB"


@pytest.fixture
def control_group():
    """A group of its own with 400 MB; its name, as far as the system lets us make one."""
    kinds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
    for top, limit in kinds:
        group = f"{top}/catdpo-test-{os.getpid()}"
        try:
            os.mkdir(group)
        except OSError:
            continue
        try:
            with open(f"{group}/{limit}", "w") as file:
                file.write(str(400 << 20))
        except OSError:
            os.rmdir(group)
            continue
        yield group, limit
        os.rmdir(group)
        return
    pytest.skip("no control group with a memory limit can be made here (as root, with the memory controller, it can)")


def test_memory_of_the_control_group(control_group, monkeypatch, tmp_path):
    """A control group's limit is seen by each of its ranks and shared by them; plan inside of it says the same."""
    group, limit = control_group
    inside = tmp_path / "inside.sh"
    inside.write_text(f"#!/bin/sh\necho $$ >{group}/cgroup.procs || exit 99\nexec {engine.BINARY} \"$@\"\n")
    inside.chmod(0o755)
    monkeypatch.setattr(engine, "BINARY", str(inside))
    run = engine.launch("train", 2, **SETTINGS, **{"parallel.grid": "auto"})
    said = f"1/2 of {limit} of control group /{os.path.basename(group)}, 0.419 GB"
    assert said in run.err, repr(run)
    size = planned(os.path.join(run.folder, "run.cfg"))
    assert size["memory_of"] == said and size["memory_per_rank"] == 200 << 20

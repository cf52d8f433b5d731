"""`catdpo selfcheck`: a sound machine passes on any number of ranks and nothing is left behind; each planted fault is
found by the row that is meant for it, with a remedy, and ends with status 1."""

import json
import os
import subprocess

import engine
import pytest

pytestmark = engine.needs_binary
FAULTS = os.path.join(os.path.dirname(engine.BINARY), "tests", "mpi", "faults.so")


def selfcheck(ranks, *arguments, folder=None, fault=None):
    """Exit status, stdout, stderr, and the folder."""
    folder = folder or engine.new_folder("selfcheck")
    environment = {**os.environ}
    if fault:
        environment |= {
            "CATDPO_FAULT": fault,
            "CATDPO_PRELOAD": f"{os.environ.get('CATDPO_PRELOAD', '')} {FAULTS}".strip(),
        }
    done = subprocess.run(
        [engine.MPIRUN, str(ranks), engine.BINARY, "selfcheck", folder, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )
    return done, folder


def rows(done):
    return {row["name"]: row for row in json.loads(done.stdout)["checks"]}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_sound_machine(ranks):
    """Nothing is wrong, every check has run, the folder is as it was, and plan takes the rates."""
    done, folder = selfcheck(ranks, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer, found = json.loads(done.stdout), rows(done)
    assert answer["ok"] and answer["ranks"] == ranks and os.listdir(folder) == []
    assert {row["verdict"] for row in found.values()} <= {"ok", "slow", "skipped"}
    assert {
        "sgemm",
        "products",
        "gradients",
        "repeatable",
        "checkpoint",
        "full disk",
        "rename",
        "locks",
        "disk",
    } <= set(found)
    layouts = {tuple(map(int, name.split()[1::2])) for name in found if name.startswith("layout")}
    assert all(d * r * c == ranks for d, r, c in layouts) and len(layouts) == {1: 1, 2: 3, 4: 4}[ranks]
    assert answer["rates"]["sgemm_gflops"] > 0 and (answer["rates"]["latency_us"] > 0) == (ranks > 1)


def test_the_table():
    done, folder = selfcheck(2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"2 ranks of 1 node, in {folder}" in done.stdout and "catdpo plan CONFIG --gflops" in done.stdout


@pytest.mark.parametrize(
    "fault, row, ranks",
    [
        ("product", "products", 1),
        ("product", "products", 2),
        ("rename", "rename", 2),
        ("lost", "disk", 2),
        ("lost", "checkpoint", 2),
    ],
)
def test_a_fault_is_found(fault, row, ranks):
    """One wrong number of psgemm; a rename in two steps; a file system that loses the last write."""
    done, _ = selfcheck(ranks, "--json", fault=fault)
    assert done.returncode == 1, done.stdout + done.stderr
    found = rows(done)[row]
    assert found["verdict"] == "WRONG" and found["remedy"], found


def test_a_slow_blas_is_found():
    """It is said, with a remedy; slow is not wrong."""
    done, _ = selfcheck(1, "--json", fault="slow")
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(done)["sgemm"]
    assert found["verdict"] == "slow" and "BLAS" in found["remedy"], found


@pytest.mark.parametrize("arguments, words, status", [
    (["/nowhere/at/all"], "cannot make a folder", 1),
    ([], "needs a folder", 2),
    (["a", "b"], "takes one folder", 2),
    ([".", "--threads", "0"], "--threads must be", 2),
    ([".", "--set", "x.y=1"], "unknown option '--set'", 2),
])
def test_refusals(arguments, words, status):
    done = subprocess.run(
        [engine.MPIRUN, "2", engine.BINARY, "selfcheck", *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == status and (done.stdout + done.stderr).count(words) == 1, done.stdout + done.stderr

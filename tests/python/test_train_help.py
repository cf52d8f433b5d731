"""What the program says about itself needs no MPI: it is answered where mpirun is not allowed, on stdout, with status
0."""

import os
import re
import subprocess

import engine
import pytest

pytestmark = engine.needs_binary


def ask(*arguments):
    return subprocess.run(
        [engine.BINARY, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            **{k: v for k, v in os.environ.items() if "SAN" in k or k.startswith("LD_")},
        },
    )


@pytest.mark.parametrize("arguments, words", [
    (["--help"], ["usage: catdpo", "train", "eval"]),
    (["-h"], ["usage: catdpo"]),
    (["train", "--help"], ["usage: catdpo train CONFIG", "--set", "--overwrite", "mpirun", "exit status", "run.dir"]),
    (["eval", "--help"], ["usage: catdpo eval CONFIG", "--set", "--model", "--split", "--out", "exit status"]),
    (["--help-config"], ["margin.eta", "parallel.grid", "batch.pairs"]),
    (["--help-config=markdown"], ["| `margin.eta`"]),
], ids=" ".join)
def test_help_without_mpi(arguments, words):
    """--help of the program and of each command, --help-config in its forms."""
    answer = ask(*arguments)
    assert answer.returncode == 0 and answer.stderr == "", answer
    for word in words:
        assert word in answer.stdout
    assert max(map(len, answer.stdout.splitlines())) <= 120 or "markdown" in arguments[0]


def test_version():
    """--version is one line."""
    answer = ask("--version")
    assert answer.returncode == 0 and answer.stderr == "" and re.fullmatch(r"catdpo \S.*\n", answer.stdout), answer


def test_default_config_is_a_config():
    """--help-config=cfg prints a config with every default, which train reads: all that is missing is what has no
    default."""
    answer = ask("--help-config=cfg")
    assert answer.returncode == 0, answer
    folder = engine.new_folder("defaults")
    with open(f"{folder}/run.cfg", "w") as file:
        file.write(answer.stdout)
    run = engine.start(["train", f"{folder}/run.cfg"], 1, folder)
    assert run.statuses == [2] and len(run.errors) == 1 and "model.path" in run.errors[0], repr(run)


def test_mistake_without_mpi():
    """A mistake on the command line is told without MPI as well: one line on stderr, status 2."""
    answer = ask("train", "run.cfg", "--overwite")
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.startswith("catdpo:") and answer.stderr.count("\n") == 1 and "--overwrite" in answer.stderr


@pytest.mark.parametrize("rank, words", [(0, "2 processes were started"), (1, "")])
def test_launcher_of_another_mpi(rank, words):
    """Ranks that a launcher starts which their MPI does not understand are not silently a run each: one says so, all
    end with 2."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMPI_COMM", "PMIX", "SLURM"))
    }
    answer = subprocess.run(
        [engine.BINARY, "train", "run.cfg"],
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
        env=environment | {"PMI_SIZE": "2", "PMI_RANK": str(rank), "LD_PRELOAD": os.environ.get("CATDPO_PRELOAD", "")},
    )
    assert answer.returncode == 2 and answer.stderr.count("catdpo: ") == (rank == 0) and words in answer.stderr, answer

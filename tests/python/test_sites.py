"""Promise: the settings of each site in jobs/sites can be sourced as they stand, name variables that sbatch knows, and
start the ranks as that site's documentation has it; jobs/train.pbs goes on over as many jobs as it takes. qsub is a
stand-in here, which takes the options of PBS that the script uses and refuses others: no PBS was at hand."""

import os
import re
import shutil
import subprocess

import engine
import pages
import pytest

JOBS = os.path.join(engine.ROOT, "jobs")
SITES = sorted(name.removesuffix(".sh") for name in os.listdir(os.path.join(JOBS, "sites")) if name.endswith(".sh"))

# of sbatch(1), "INPUT ENVIRONMENT VARIABLES": those that a site may want
KNOWN = """ACCOUNT CONSTRAINT EXCLUSIVE HINT MEM_PER_CPU MEM_PER_NODE PARTITION QOS SIGNAL""".split()

SBATCH_SAYS = '#!/bin/sh\nenv | grep ^SBATCH_; for word; do echo "word=$word"; done\n'

# A launcher that says how it was called and runs what it was given once, as rank 0.
LAUNCHER = """#!/bin/sh
echo "launcher: ${0##*/} $*"
while [ $# -gt 0 ] && [ "$1" != sh ]; do shift; done
exec "$@"
"""

# The program ends as the next word of `plan` says.
PROGRAM = """#!/bin/sh
echo "$*" >>calls
set -- $(cat plan)
shift $(($(wc -l <calls) - 1))
exit "$1"
"""

# qsub runs the job at once in the home folder, with a node file of PBS_LINES lines.
QSUB = r"""#!/bin/bash
variables=() words="$*"
while [ $# -gt 1 ]; do
    case $1 in
        -l) [[ $2 =~ ^(select=[0-9]+(:[a-z]+=[a-z0-9]+)*|walltime=[0-9:]+|(place|filesystems)=[a-z:]+)$ ]] || exit 64 ;;
        -v) IFS=, read -r -a variables <<<"$2" ;;
        -A | -q) ;;
        *) echo "qsub: $1" >&2; exit 64 ;;
    esac
    shift 2
done
! grep '^#PBS' "$1" | grep -qvE '^#PBS (-N [a-z-]+|-j oe|-r y)$' || exit 64
id=$(($(ls "$LOGS" | grep -c words) + 1))
echo "$words" >"$LOGS/$id.words"
echo "$id.server"
for ((i = 0; i < PBS_LINES; i++)); do echo "n$((i % 2))"; done >"$TMP/nodes"
(cd "$HOME" && env PBS_JOBID="$id.server" PBS_O_WORKDIR="$OLDPWD" PBS_NODEFILE="$TMP/nodes" OMP_NUM_THREADS=128 \
    "${variables[@]}" bash "$1") >"$LOGS/$id.out" 2>&1
echo $? >"$LOGS/$id.status"
"""


@pytest.fixture
def place(tmp_path):
    """A folder to work in with stand-ins for the commands of batch systems."""
    for name in ("tools", "logs", "home", "work"):
        (tmp_path / name).mkdir()
    for name, text in {"sbatch": SBATCH_SAYS, "qsub": QSUB, "program": PROGRAM}.items():
        pages._script(tmp_path / "tools" / name, text)
    for name in ("srun", "mpirun", "mpiexec"):
        pages._script(tmp_path / "tools" / name, LAUNCHER)
    return tmp_path


def bash(place, script, **variables):
    """A script in the folder `work`, with `module` as a function that says what is loaded."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "CATDPO_", "PBS_"))}
    clean |= {"PATH": f"{place}/tools:{os.environ['PATH']}", "HOME": str(place / "home"), "LOGS": str(place / "logs"),
              "TMP": str(place), **variables}  # fmt: skip
    script = f"module() {{ echo module $*; }}; export -f module; {script}"
    return subprocess.run(["bash", "-uc", script], cwd=place / "work", env=clean, capture_output=True, text=True)


@pytest.mark.parametrize("site", [site for site in SITES if site != "alcf-crux"])
def test_site_of_slurm(place, site):
    """sbatch gets variables that it has, and ranks are started without a kind of MPI that the site does not have."""
    script = (f". {JOBS}/sites/{site}.sh; sbatch --nodes=2 --ntasks-per-node=4 $CATDPO_ROOT/jobs/train.sbatch run.cfg; "
              "echo site=$CATDPO_SITE")  # fmt: skip
    done = bash(place, script)
    assert done.returncode == 0 and not done.stderr, done.stderr
    names = re.findall(r"^SBATCH_(\w+)=.+$", done.stdout, re.MULTILINE)
    assert names and set(names) <= set(KNOWN), names
    words = re.findall("^word=(.*)$", done.stdout, re.MULTILINE)
    assert words[-1] == "run.cfg" and os.path.isfile(words[-2]), words
    assert f"site={JOBS}/sites/{site}.sh\n" in done.stdout
    (place / "work/plan").write_text("0")
    job = bash(place, f". {JOBS}/sites/{site}.sh; bash $CATDPO_ROOT/jobs/train.sbatch run.cfg",
               CATDPO_BINARY=str(place / "tools/program"), SLURM_JOB_ID="7", SLURM_JOB_NODELIST="n[1-2]",
               SLURM_JOB_NUM_NODES="2", SLURM_NTASKS="8", SLURM_CPUS_ON_NODE="4")  # fmt: skip
    assert "ends with status 0" in job.stdout, job.stdout + job.stderr
    (launched,) = re.findall("^launcher: (.*)$", job.stdout, re.MULTILINE)
    assert launched.startswith("srun --ntasks=8 ") and "--cpu-bind=cores" in launched
    assert ("--mpi" in launched) == (site == "pmix")


@pytest.mark.parametrize("site, variables", [
    ("perlmutter", {"CONSTRAINT": "cpu", "QOS": "regular", "HINT": "nomultithread"}),
    ("lumi-c", {"PARTITION": "standard", "MEM_PER_NODE": "0", "HINT": "nomultithread"}),
    ("pmix", {"EXCLUSIVE": "exclusive", "HINT": "nomultithread"}),
])
def test_kinds_of_nodes(place, site, variables):
    """Nodes without GPUs, whole, with all their memory; what the user has exported goes before."""
    said = bash(place, f". {JOBS}/sites/{site}.sh; sbatch").stdout
    assert dict(re.findall(r"^SBATCH_(\w+)=(.*)$", said, re.MULTILINE)) == variables
    said = bash(place, f". {JOBS}/sites/{site}.sh; sbatch", SBATCH_HINT="multithread").stdout
    assert "SBATCH_HINT=multithread\n" in said


def test_copy_of_a_site(place):
    """A copy may lie anywhere if it is told where the scripts are."""
    shutil.copy(f"{JOBS}/sites/lumi-c.sh", place / "mine.sh")
    done = bash(place, ". ../mine.sh; echo $CATDPO_SITE $CATDPO_BINARY", CATDPO_ROOT=engine.ROOT)
    assert done.stdout.splitlines()[-1] == f"{place}/mine.sh {engine.ROOT}/build/catdpo", done.stderr


def train_pbs(place, plan, *words, lines=2, site="site.sh", options=("-l", "select=2:ncpus=4:mpiprocs=4", "-l",
                                                                    "walltime=1:00:00")):  # fmt: skip
    """(output of the submission, [output of each job], calls of the program)"""
    (place / "work/plan").write_text(plan)
    quoted = " ".join([*options, "--", *(f"'{word}'" for word in words)])
    done = bash(place, f". {JOBS}/{site} && bash $CATDPO_ROOT/jobs/train.pbs {quoted}", PBS_LINES=str(lines),
                CATDPO_BINARY=str(place / "tools/program"))  # fmt: skip
    logs = sorted((place / "logs").glob("*.out"), key=lambda path: int(path.stem))
    calls = place / "work/calls"
    return done, [path.read_text() for path in logs], calls.read_text().splitlines() if calls.exists() else []


# what is exported on the login node does not reach a job of PBS: the site's file says it
MINE = 'CATDPO_BINARY={place}/tools/program CATDPO_RESTARTS={restarts}; . "$CATDPO_ROOT/jobs/site.sh"\n' \
       "CATDPO_SITE={place}/mine.sh; export CATDPO_SITE\n"


@pytest.fixture
def mine(place):
    (place / "mine.sh").write_text(f"CATDPO_ROOT={engine.ROOT}; " + MINE.format(place=place, restarts=2))
    return os.path.relpath(place / "mine.sh", JOBS)


def test_pbs_goes_on_until_the_training_is_complete(place, mine):
    """After 85 the next job is submitted with the same options and words, quoted as they were; then nothing is left."""
    done, jobs, calls = train_pbs(place, "85 85 0", "run.cfg", "--set", "run.dir=a b", lines=8, site=mine)
    assert done.returncode == 0 and len(jobs) == 3, (done.stdout, done.stderr, jobs)
    assert "launcher: mpirun -n 8 " in jobs[0] and "PE=1" in jobs[0]
    assert "start 1 on n0,n1: 8 ranks of 1 threads" in jobs[0] and "goes back to the queue" in jobs[0]
    assert "start 3" in jobs[2] and "ends with status 0" in jobs[2]
    assert all(call.startswith("train run.cfg --resume") and call.endswith("--set run.dir=a b") for call in calls)
    limit = re.search(r"run\.time_limit=(\d+):(\d+):(\d+)", calls[0])
    assert 3500 < 3600 * int(limit[1]) + 60 * int(limit[2]) + int(limit[3]) <= 3600
    words = [(place / "logs" / f"{i}.words").read_text() for i in (1, 2, 3)]
    assert all("-l select=2:ncpus=4:mpiprocs=4 -l walltime=1:00:00 -v " in text for text in words)
    assert not list((place / "work").glob(".catdpo-pbs-*"))


def test_pbs_ends(place, mine):
    """A failure is the job's status, and nothing follows it; nor does anything after CATDPO_RESTARTS."""
    _, jobs, _ = train_pbs(place, "3", "run.cfg", lines=8, site=mine)
    assert len(jobs) == 1 and (place / "logs/1.status").read_text() == "3\n"
    os.remove(place / "work/calls")
    _, jobs, _ = train_pbs(place, "85 85 85 85", "run.cfg", lines=8, site=mine)
    assert len(jobs) == 4 and "not again" in jobs[-1] and (place / "logs/4.status").read_text() == "85\n"


def test_pbs_runs_the_other_commands(place, mine):
    """One evaluation is one job; merge gets no settings."""
    _, jobs, calls = train_pbs(place, "85 0", "eval", "run.cfg", "--out", "e.h5", lines=8, site=mine)
    assert len(jobs) == 1 and calls[0].startswith("eval run.cfg --set parallel.threads=1 ")
    _, jobs, calls = train_pbs(place, "85 0", "merge", "a.h5", "b.h5", "--out", "c.h5", lines=8, site=mine)
    assert calls[1] == "merge a.h5 b.h5 --out c.h5"


def test_pbs_needs_words(place, mine):
    """Called without a config it says how it is called; variables of qsub are refused."""
    assert "bash jobs/train.pbs -l select" in train_pbs(place, "0", site=mine)[0].stderr
    assert "-V" in train_pbs(place, "0", "run.cfg", site=mine, options=("-V",))[0].stderr
    assert not list((place / "logs").iterdir()) and not list((place / "work").glob(".catdpo-pbs-*"))


def test_site_of_pbs(place):
    """Crux: a line of the node file is a node, and mpiexec gets the ranks of a node."""
    (place / "mine.sh").write_text(f"CATDPO_ROOT={engine.ROOT}; CATDPO_BINARY={place}/tools/program\n"
                                   f". {JOBS}/sites/alcf-crux.sh\nCATDPO_SITE={place}/mine.sh\n")
    options = ("-A", "me", "-q", "workq-route", "-l", "select=2:system=crux", "-l", "place=scatter", "-l",
               "walltime=6:00:00", "-l", "filesystems=home:eagle")  # fmt: skip
    _, jobs, calls = train_pbs(place, "0", "run.cfg", site=os.path.relpath(place / "mine.sh", JOBS), options=options)
    assert "launcher: mpiexec -n 256 --ppn 128 --depth=1 --cpu-bind depth sh" in jobs[0], jobs
    assert "run.time_limit=5:59:" in calls[0] or "run.time_limit=6:00:00" in calls[0]


@engine.needs_binary
def test_pbs_trains(place):
    """The program itself, on two ranks of MPI."""
    os.remove(place / "tools/mpirun")
    (place / "mine.sh").write_text(
        f"CATDPO_ROOT={engine.ROOT} CATDPO_BINARY={engine.BINARY} CATDPO_MPIRUN_OPTIONS=' '\n"
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1\n"
        f". {JOBS}/site.sh\nCATDPO_SITE={place}/mine.sh\n")
    chosen = engine.DEFAULTS | {"run.dir": "run", "parallel.grid": [2, 1]}
    (place / "work/run.cfg").write_text(engine.config_text(chosen))
    done, jobs, _ = train_pbs(place, "0", "run.cfg", site=os.path.relpath(place / "mine.sh", JOBS))
    assert len(jobs) == 1 and "ends with status 0" in jobs[0], (done.stderr, jobs)
    assert (place / "work/run/checkpoints/final.h5").exists()

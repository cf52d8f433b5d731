"""What the batch scripts promise of a job's fate, whatever the program does: it goes on after 85, up to a cap, a
failure is FAILED with the program's status, and ranks, threads and settings are those that were asked for. A stand-in
for the program ends as it is told."""

import os

import engine
import pytest
from lab import JOBS, Job, output

# On its n-th start in its run directory rank 0 does the n-th word of `plan` there.
PROGRAM = """#!/bin/sh
if [ "${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-0}}" != 0 ]; then
    trap '' USR1 TERM
    case $(cat plan) in wait*) until [ -s saved ]; do sleep 0.1; done ;; esac
    exec sleep 0.3
fi
said="$* threads=$OMP_NUM_THREADS ranks=$SLURM_NTASKS"
for word; do case $word in run.dir=*) cd "${word#*=}" || exit 2 ;; esac; done
echo "$said" >>starts
set -- $(cat plan)
shift $(($(wc -l <starts) - 1))
save() { sleep 0.5; echo "$1" >>saved; exit 85; }
case $1 in
    wait) trap 'save TERM' TERM; trap 'save USR1' USR1; while :; do sleep 0.1; done ;;
    kill) kill -9 $$ ;;
    *) exit "$1" ;;
esac
"""


class Stand(Job):
    """A job whose program does what `plan` says."""

    def __init__(self, lab, plan, *options, script="train.sbatch", **environment):
        folder = engine.new_folder("job")
        for name, text in (("program", PROGRAM), ("plan", plan)):
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
            os.chmod(file.name, 0o755)
        environment = {"CATDPO_BINARY": f"{folder}/program", "CATDPO_NODE_PATIENCE": 3} | environment
        super().__init__(lab, folder, *options, script, "run.cfg", "--set", "a=b", **environment)

    def ends(self, state, status=None, starts=None):
        super().ends(state, status)
        assert starts is None or len(self.lines("starts")) == starts == self.restarts() + 1, repr(self)
        return self


LAUNCHERS = ["srun", "mpirun"]
TWO_NODES = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=2")
ONE = ("--ntasks-per-node=1",)


def prepare(lab):
    """All jobs that these tests look at."""
    submit = lambda *words, **more: Stand(lab, *words, **more)
    found = {f"again-{name}": submit("85 85 0", *TWO_NODES, CATDPO_LAUNCHER=name) for name in LAUNCHERS}
    found |= {f"usr1-{name}": submit("wait 0", "--nodes=2", *ONE, CATDPO_LAUNCHER=name) for name in LAUNCHERS}
    found |= {f"usr2-{name}": submit("wait", "--nodes=2", *ONE, CATDPO_LAUNCHER=name) for name in LAUNCHERS}
    found |= {f"fails-{name}": submit("3", "--nodes=2", *ONE, CATDPO_LAUNCHER=name) for name in LAUNCHERS}
    found |= {f"killed-{name}": submit("kill", "--nodes=2", *ONE, CATDPO_LAUNCHER=name) for name in LAUNCHERS}
    found["preempted"] = submit("wait 0", *ONE, CATDPO_LAUNCHER="srun")
    found["cancelled"] = submit("wait", *ONE, CATDPO_LAUNCHER="srun")
    found["limit"] = submit("wait 0", *ONE, "--time=1", "--signal=B:USR1@60")
    found["cap"] = submit("85 85 0", *ONE, CATDPO_RESTARTS=1)
    found["once"] = submit("85 0", *ONE, "--no-requeue")
    found["nothing"] = submit("0", *ONE, CATDPO_LAUNCHER="srun", CATDPO_SRUN_OPTIONS="--version")
    found["launcher"] = submit("0", *ONE, CATDPO_LAUNCHER="aprun")
    found["missing"] = submit("0", *ONE, CATDPO_BINARY="/nowhere/catdpo")
    # what sourcing jobs/sites/pmix.sh exports
    found["site"] = submit("85 0", *TWO_NODES, CATDPO_SITE=os.path.join(JOBS, "sites", "pmix.sh"),
                           SBATCH_EXCLUSIVE="exclusive", SBATCH_HINT="nomultithread")  # fmt: skip
    found["eval"] = submit("85 0", *ONE, script="eval.sbatch")
    after = ("--kill-on-invalid-dep=yes", *ONE)
    found["after-failure"] = submit("0", f"--dependency=afterok:{found['fails-srun'].id}", *after)
    found["after-again"] = submit("0", f"--dependency=afterok:{found['again-srun'].id}", *after)
    signals = {"usr1": ["--batch", "--signal=USR1"], "usr2": ["--batch", "--signal=USR2"]}
    signals |= {"preempted": ["--signal=TERM"], "cancelled": []}
    for name, job in found.items():
        if name.split("-")[0] in signals:
            job.until(lambda: job.lines("starts"))
            lab.run("scancel", *signals[name.split("-")[0]], job.id)
    return found


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_85_goes_on(jobs, launcher):
    """A program that ends with 85 is started again as the same job, to the end, into the same log."""
    job = jobs[f"again-{launcher}"].ends("COMPLETED", 0, starts=3)
    assert set(job.lines("starts")) == {"train run.cfg --resume --set parallel.threads=2 --set a=b threads=2 ranks=4"}
    assert os.listdir(job.folder).count(f"catdpo-train-{job.id}.out") == 1
    assert [f"start {k} on" in output(job.folder) for k in (1, 2, 3)] == [True] * 3
    assert f"4 ranks of 2 threads by {launcher}" in output(job.folder)
    assert not [name for name in os.listdir(job.folder) if name.startswith(".catdpo")]


def test_site_with_pmix(jobs):
    """The settings of jobs/sites/pmix.sh: whole nodes, ranks by srun, back to the queue."""
    job = jobs["site"].ends("COMPLETED", 0, starts=2)
    assert job.lab.job(job.id)["OverSubscribe"] == "NO" and "4 ranks of 2 threads by srun" in output(job.folder)


def test_dependent_waits_for_the_end(jobs):
    """What depends on a job that goes on starts after its last part."""
    first, second = jobs["again-srun"], jobs["after-again"]
    second.ends("COMPLETED", 0, starts=1)
    assert first.lab.job(first.id)["EndTime"] <= second.lab.job(second.id)["StartTime"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_failure_is_failed(jobs, launcher):
    """The program's own status is the job's, and it is not started again."""
    jobs[f"fails-{launcher}"].ends("FAILED", 3, starts=1)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_killed_is_failed(jobs, launcher):
    """So it is if the program is killed."""
    jobs[f"killed-{launcher}"].ends("FAILED", 137, starts=1)


def test_dependent_of_a_failure_never_runs(jobs):
    jobs["after-failure"].ends("CANCELLED")
    assert jobs["after-failure"].lines("starts") == []


def test_cap(jobs):
    """A job is started again at most CATDPO_RESTARTS times, and then is not COMPLETED."""
    assert "not again" in output(jobs["cap"].ends("FAILED", 85, starts=2).folder)


def test_cannot_go_back(jobs):
    """Where SLURM refuses to start it again the job is not COMPLETED, and says what to do."""
    assert "submit it again" in output(jobs["once"].ends("FAILED", 85, starts=1).folder)


def test_launcher_that_starts_nothing(jobs):
    """A launcher's 0 is not believed if the program never ended."""
    assert "never did" in output(jobs["nothing"].ends("FAILED", 1).folder)


@pytest.mark.parametrize("name, words", [("launcher", "CATDPO_LAUNCHER=aprun"), ("missing", "no /nowhere/catdpo")])
def test_wrong_settings(jobs, name, words):
    """A mistake in jobs/site.sh is named."""
    assert words in output(jobs[name].ends("FAILED", 2).folder)


def test_eval_is_not_repeated(jobs):
    """An evaluation that was stopped has nothing to go on from: it fails."""
    jobs["eval"].ends("FAILED", 85, starts=1)
    assert jobs["eval"].lines("starts")[0].startswith("eval run.cfg --set parallel.threads=1 --set a=b ")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_usr1(jobs, launcher):
    """USR1 reaches the program, which gets the time that it needs, and the job goes on."""
    assert jobs[f"usr1-{launcher}"].ends("COMPLETED", 0, starts=2).lines("saved") == ["USR1"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_usr2(jobs, launcher):
    """USR2 as well, and the job stays ended."""
    assert jobs[f"usr2-{launcher}"].ends("FAILED", 85, starts=1).lines("saved") == ["USR1"]


def test_preempted(jobs):
    """TERM for the ranks alone, with which SLURM makes room for other jobs: the job goes on later."""
    assert jobs["preempted"].ends("COMPLETED", 0, starts=2).lines("saved") == ["TERM"]


def test_cancelled(jobs):
    """scancel: the program gets TERM and KillWait's time, and the job stays cancelled."""
    assert jobs["cancelled"].ends("CANCELLED", starts=1).lines("saved") == ["TERM"]


def test_time_limit(jobs):
    """SLURM itself signals before the limit, and the job goes on."""
    assert jobs["limit"].ends("COMPLETED", 0, starts=2).lines("saved") == ["USR1"]

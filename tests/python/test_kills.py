"""Killed at any instant, a run goes on from its last checkpoint as if nothing had happened.

CATDPO_KILLS sets the number of kills (10): SIGKILL to one rank, to all ranks or to mpirun, at random instants of
start-up, steps, writes of metrics and writes of checkpoints. After each the files left behind are opened, then the run
goes on. CATDPO_KILLS_SEED chooses other instants.
"""

import collections
import glob
import os
import random
import signal
import time

import engine
import h5py
import interrupt

pytestmark = engine.needs_binary

KILLS = int(os.environ.get("CATDPO_KILLS", "10"))
SEED = int(os.environ.get("CATDPO_KILLS_SEED", "1"))
STEPS = 40 + 20 * KILLS
RUN = {
    "objective.type": "catdpo",
    "margin.eta": 0.5,
    "optimizer.learning_rate": 0.01,
    "schedule.steps": STEPS,
    "schedule.type": "cosine",
    "batch.sampling": "balanced",
    "parallel.grid": [2, 1],
    "checkpoint.minutes": 0.0,
}
BUSY = {"checkpoint.steps": 2, "checkpoint.keep": 2, "metrics.flush_steps": 1}   # most of the time goes into writing
RANKS = 2


def kill(run, victim):
    if victim == "mpirun":
        run._kill(run.process.pid, signal.SIGKILL)
        return
    ranks = range(RANKS) if victim == "all ranks" else [random.randrange(RANKS)]
    run.wait_until(lambda: set(ranks) <= set(run.pids()))    # they may not have begun yet
    run.signal(signal.SIGKILL, ranks)


def check_files(directory):
    """Every file under its final name is whole, and the metrics reach the newest checkpoint."""
    steps = 0
    if os.path.exists(os.path.join(directory, "metrics.h5")):
        steps = interrupt.check_steps(directory)
    newest = 0
    for path in glob.glob(os.path.join(directory, "checkpoints", "step-*.h5")):
        with h5py.File(path) as file:
            newest = max(newest, int(file.attrs["step"]))
            for name in engine.tensors(file["model"]):
                assert engine.catdpo_h5.checksum(file["model"][name][()]) == file["model"][name].attrs["checksum"], name
    assert newest <= steps
    return newest


def test_killed_at_any_instant(capsys):
    """Weights, moments, margins, metrics and log equal the uninterrupted run's, bit for bit."""
    random.seed(SEED)
    folder = engine.new_folder("kills")
    directory = os.path.join(folder, "run")
    count, inside, kills, newest = collections.Counter(), collections.Counter(), 0, 0
    while kills < KILLS:
        victim = random.choice(["one rank", "all ranks", "mpirun"])
        with interrupt.Started(folder, RANKS, grace=random.choice([0, 1]), **{**RUN, **BUSY}) as run:
            early = random.random() < 0.1
            if early:
                time.sleep(random.uniform(0, 0.3))
            else:
                before, last = run.steps(), newest + random.randint(1, 12)
                run.wait_until(lambda: glob.glob(os.path.join(directory, "writer-*")) and run.steps() != before)
                run.wait_for_step(last)
                time.sleep(random.uniform(0, 0.03))
            kill(run, victim)
            run.end()
            gone = time.monotonic() + 20
            while run.pids() and time.monotonic() < gone:
                time.sleep(0.02)
            assert not run.pids(), "ranks outlive their mpirun"
        kills += 1
        count[victim + (", starting" if early else "")] += 1
        for name in engine.leftovers(directory):
            inside[os.path.basename(name).split(".")[0].split("-")[0]] += 1
        newest = check_files(directory)
        assert newest < STEPS, "the run is over before all kills: more steps are needed"
    interrupt.finish(folder, RANKS, **{**RUN, "metrics.flush_steps": 50})
    interrupt.check_same(directory, engine.train(RANKS, **RUN).directory)
    interrupt.check_steps(directory, STEPS)
    assert not engine.leftovers(directory) and not glob.glob(os.path.join(directory, "writer-*"))
    assert inside, "no kill came while a file was being written"
    with capsys.disabled():
        print(
            f"\n{kills} kills ({', '.join(f'{n} {what}' for what, n in sorted(count.items()))}; unfinished files left: "
            f"{', '.join(f'{n} of {what}' for what, n in sorted(inside.items()))}): equal to the uninterrupted run of "
            f"{STEPS} steps, bit for bit"
        )

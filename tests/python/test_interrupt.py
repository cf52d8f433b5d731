"""Signals, time limits, hanging ranks, numbers that are not finite, two copies of one run: each ends as documented and
loses nothing."""

import glob
import os
import re
import shutil
import signal
import time

import engine
import h5py
import interrupt
import numpy as np
import pytest

pytestmark = engine.needs_binary

RESUBMIT = 85
STEPS = 120
PACE = 5    # milliseconds a step at least: time to disturb a run, on any machine
RUN = {
    "objective.type": "catdpo",
    "margin.eta": 0.5,
    "optimizer.learning_rate": 0.01,
    "schedule.steps": STEPS,
    "schedule.type": "linear",
    "checkpoint.minutes": 0.0,
    "metrics.flush_steps": 20,
    "parallel.grid": [2, 1],
}


@pytest.fixture(scope="module")
def whole():
    return engine.train(2, **RUN)


# ---- signals --------------------------------------------------------------------------------------------------------

DELIVERY = {
    "TERM-to-rank-1": (signal.SIGTERM, [1]),
    "USR1-to-rank-0": (signal.SIGUSR1, [0]),
    "USR2-to-all": (signal.SIGUSR2, None),
    "INT-to-rank-1": (signal.SIGINT, [1]),
    "USR1-to-mpirun": (signal.SIGUSR1, "mpirun"),
}


@pytest.mark.parametrize("how", DELIVERY)
def test_signal(how, whole):
    """Whoever gets it: one message, a checkpoint, status 85; the run that goes on is the uninterrupted one."""
    number, ranks = DELIVERY[how]
    folder = engine.new_folder(how)
    with interrupt.Started(folder, 2, pace=PACE, **RUN) as run:
        run.wait_for_step(20)
        if ranks == "mpirun":
            os.kill(run.process.pid, number)
        else:
            run.signal(number, ranks)
        assert run.end() == RESUBMIT, run.text()
        said = run.text()
    assert (
        said.count("catdpo: ") == 1
        and f"stopped by {signal.Signals(number).name} after step" in said
        and "--resume" in said
    )
    directory = os.path.join(folder, "run")
    assert not engine.leftovers(directory) and not glob.glob(os.path.join(directory, "writer-*"))
    done = interrupt.check_steps(directory)
    assert 20 <= done < STEPS and os.listdir(os.path.join(directory, "checkpoints")) == [f"step-{done:08d}.h5"]
    interrupt.finish(folder, 2, **RUN)
    interrupt.check_same(directory, whole.directory)


def test_second_interrupt_ends_at_once():
    """A rank that hangs in a step cannot be kept alive by the first Ctrl-C."""
    folder = engine.new_folder("int-twice")
    with interrupt.Started(folder, 2, **{**RUN, "schedule.steps": 100000}) as run:
        run.wait_for_step(5)
        run.signal(signal.SIGSTOP, [1])             # so that no step ends
        run.signal(signal.SIGINT, [0])
        time.sleep(0.5)
        assert run.process.poll() is None
        run.signal(signal.SIGINT, [0])
        assert run.end(20) != 0
    interrupt.finish(folder, 2, **{**RUN, "schedule.steps": 100000, "run.time_limit": 0.05}, status=RESUBMIT)


def test_signal_during_the_reference_pass():
    """What was computed is kept; the next start goes on there and ends with the same numbers."""
    pairs = engine.copy(engine.PAIRS, repeat_pairs, "pairs.h5")
    settings = {**RUN, "data.path": pairs, "schedule.steps": 2, "batch.pairs": 2}
    expected = engine.launch("train", 2, **settings)
    folder = engine.new_folder("reference-pass")
    cache = os.path.join(folder, "run", "reference.h5")
    with interrupt.Started(folder, 2, **{**settings, "run.progress": "plain"}) as run:
        run.wait_until(lambda: "reference" in run.text())
        run.signal(signal.SIGUSR1, [1])
        assert run.end() == RESUBMIT, run.text()
        assert re.search(r"stopped by SIGUSR1: \d+ of \d+ pairs' reference log-probs", run.text())
    with h5py.File(cache) as file:
        done, count = int(file["train"].attrs["done"]), len(file["train/chosen"])
    assert 0 < done < count
    said = interrupt.finish(folder, 2, **settings)
    assert "as far as they go" in said
    found, wanted = engine.read(cache), expected.read("reference.h5")
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], name)


def repeat_pairs(file):
    """Every training pair many times over, so that the pass takes a while."""
    group, times = file["train"], 40
    for side in ("chosen", "rejected"):
        offsets = group[f"{side}/offsets"][()]
        replace(group, f"{side}/tokens", np.tile(group[f"{side}/tokens"][()], times))
        replace(group, f"{side}/prompt_length", np.tile(group[f"{side}/prompt_length"][()], times))
        longer = np.concatenate([[0]] + [offsets[1:] + k * offsets[-1] for k in range(times)])
        replace(group, f"{side}/offsets", longer.astype(offsets.dtype))
    for name in [name for name in group if isinstance(group[name], h5py.Dataset)]:
        replace(group, name, np.concatenate([group[name][()]] * times))
    group.attrs["pairs"] = np.int64(len(group["chosen_safe"]))
    engine.set_text(file, "data_digest", "1" * 64)


def replace(group, name, values):
    attributes, kind = dict(group[name].attrs), group[name].dtype
    del group[name]
    item = group.create_dataset(name, data=values, dtype=kind)
    for key, value in attributes.items():
        if key not in ("DIMENSION_LIST", "CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LABELS"):
            item.attrs[key] = value


def test_evaluation_stopped():
    """eval has nothing to save: status 85, no file, no message but one."""
    pairs = engine.copy(engine.PAIRS, repeat_pairs, "pairs.h5")
    folder = engine.new_folder("eval")
    with interrupt.Started(
        folder,
        2,
        ("--split", "train"),
        command="eval",
        **{**RUN, "data.path": pairs, "batch.pairs": 2, "run.progress": "plain"},
    ) as run:
        run.wait_until(lambda: "reference" in run.text())
        run.signal(signal.SIGTERM, [0])
        assert run.end() == RESUBMIT, run.text()
        assert run.text().count("catdpo: ") == 1
    assert not os.path.exists(os.path.join(folder, "run", "eval.h5"))


# ---- time -----------------------------------------------------------------------------------------------------------

def test_time_limit(whole):
    """The run ends by itself before its limit, as often as it takes, and is then the uninterrupted one."""
    folder = engine.new_folder("limit")
    ends = 0
    for _ in range(20):
        limit = 0.7 * 1.4**ends    # seconds, and more each time: the machine may have no time to spare
        with interrupt.Started(folder, 2, pace=PACE, **RUN, **{"run.time_limit": limit / 60}) as run:
            status = run.end()
            assert status in (0, RESUBMIT), run.text()
            if status == 0:
                break
            assert "stopped by the time limit" in run.text()
            ends += 1
    assert ends >= 1
    interrupt.check_same(os.path.join(folder, "run"), whole.directory)


def test_time_limit_of_slurm(monkeypatch):
    """Without a limit of its own the program takes SLURM's."""
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 4))
    folder = engine.new_folder("slurm-limit")
    said = interrupt.finish(folder, 2, status=RESUBMIT, **{**RUN, "schedule.steps": 1000000})
    assert "stopped by the time limit" in said


def test_checkpoint_on_demand():
    """touch RUN/checkpoint.request"""
    folder = engine.new_folder("demand")
    directory = os.path.join(folder, "run")
    with interrupt.Started(folder, 2, **{**RUN, "schedule.steps": 100000}) as run:
        run.wait_for_step(5)
        open(os.path.join(directory, "checkpoint.request"), "w").close()
        run.wait_until(lambda: glob.glob(os.path.join(directory, "checkpoints", "step-*.h5")))
        run.wait_until(lambda: not os.path.exists(os.path.join(directory, "checkpoint.request")))
        run.signal(signal.SIGTERM)
        assert run.end() == RESUBMIT
    assert len(os.listdir(os.path.join(directory, "checkpoints"))) == 2


# ---- one writer -----------------------------------------------------------------------------------------------------

def owner(directory):
    folder, = glob.glob(os.path.join(directory, "writer-*"))
    return folder


def test_second_copy_is_refused_while_the_first_lives(whole):
    """It names the owner and touches nothing; the first goes on undisturbed."""
    folder = engine.new_folder("second")
    with interrupt.Started(folder, 2, pace=4 * PACE, **RUN) as first:
        first.wait_for_step(3)
        said = interrupt.finish(folder, 1, status=2, **{**RUN, "parallel.grid": [1, 1]})
        assert said.count("catdpo: ") == 1 and "is being written by a copy" in said and "--take-over" in said
        assert first.end() == 0, first.text()
    interrupt.check_same(os.path.join(folder, "run"), whole.directory)


def test_taken_over(whole):
    """The first copy stops without harm, wherever it is; the second one's run is the right one."""
    folder = engine.new_folder("take-over")
    directory = os.path.join(folder, "run")
    more = {**RUN, "checkpoint.steps": 10}
    with interrupt.Started(folder, 2, pace=PACE, **more) as first:
        first.wait_for_step(30)
        first.signal(signal.SIGSTOP)                 # as if its node were cut off
        interrupt.finish(folder, 2, ("--resume", "--take-over"), **RUN)
        first.signal(signal.SIGCONT)
        assert first.end() == 1, first.text()
        assert first.text().count("catdpo: ") == 1 and "was taken over by" in first.text()
    interrupt.check_same(directory, whole.directory)
    assert not glob.glob(os.path.join(directory, "writer-*")) and not engine.leftovers(directory)


def test_dead_owner_on_this_host(whole):
    """Killed without a word: the next start knows it at once, by the lock."""
    folder = engine.new_folder("dead")
    directory = os.path.join(folder, "run")
    with interrupt.Started(folder, 2, pace=PACE, **{**RUN, "checkpoint.steps": 10}) as run:
        run.wait_for_step(25)
        run.signal(signal.SIGKILL)
        run.end()
    assert owner(directory)
    assert "waiting" not in interrupt.finish(folder, 2, **RUN)
    interrupt.check_same(directory, whole.directory)


def elsewhere(directory):
    """Make the owner look as if it were on another machine."""
    path = os.path.join(owner(directory), "owner")
    text = re.sub(r"boot = .*", "boot = 00000000-0000-0000-0000-000000000000", open(path).read())
    open(path, "w").write(re.sub(r"host = .*", "host = node77", text))


def test_dead_owner_on_another_host():
    """Its heartbeat stands still for the lease: it counts as dead."""
    folder = engine.new_folder("dead-elsewhere")
    settings = {**RUN, "checkpoint.steps": 10, "run.lease": 2.0, "schedule.steps": 60}
    with interrupt.Started(folder, 2, pace=PACE, **settings) as run:
        run.wait_for_step(25)
        run.signal(signal.SIGKILL)
        run.end()
    elsewhere(os.path.join(folder, "run"))
    said = interrupt.finish(folder, 2, **settings)
    assert "node77" in said and "waiting up to 2 s for a sign of life" in said
    interrupt.check_steps(os.path.join(folder, "run"), 60)


def test_living_owner_on_another_host():
    """Its heartbeat goes on: the second copy is refused before the lease is over."""
    folder = engine.new_folder("alive-elsewhere")
    settings = {**RUN, "run.lease": 5.0, "schedule.steps": 100000}
    with interrupt.Started(folder, 2, **settings) as run:
        run.wait_for_step(3)
        elsewhere(os.path.join(folder, "run"))
        said = interrupt.finish(folder, 2, status=2, **settings)
        assert "is being written by a copy on node77" in said
        run.signal(signal.SIGTERM)
        assert run.end() == RESUBMIT


def test_restart_of_the_same_job_takes_over(monkeypatch):
    """SLURM says that a job is started again: its earlier copy has no say any more, even if it lives."""
    folder = engine.new_folder("same-job")
    settings = {**RUN, "checkpoint.steps": 10, "schedule.steps": 1000}
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with interrupt.Started(folder, 2, pace=4 * PACE, **settings) as first:
        first.wait_for_step(15)
        said = interrupt.finish(folder, 2, status=2, **settings)
        assert "job 4711" in said                    # the same start is refused,
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with interrupt.Started(folder, 2, pace=4 * PACE, **settings) as second:   # a later one is not
            assert first.end() == 1, first.text()
            assert "was taken over by job 4711" in first.text()
            second.signal(signal.SIGTERM)
            assert second.end() == RESUBMIT, second.text()
    interrupt.check_steps(os.path.join(folder, "run"))


# ---- hanging, numbers -----------------------------------------------------------------------------------------------

def test_hanging_rank_is_named():
    """Rank, host, phase, step and seconds, once; then every rank is gone."""
    folder = engine.new_folder("watchdog")
    with interrupt.Started(
        folder, 3, **{**RUN, "parallel.grid": [1, 3], "run.watchdog": 3.0, "schedule.steps": 100000}
    ) as run:
        run.wait_for_step(5)
        run.signal(signal.SIGSTOP, [1])
        assert run.end(40) == 1
        said = run.text()
        assert (
            len(
                re.findall(
                    r"catdpo: rank 1 on \S+ does not run \(stopped or lost\): for \d+ s nothing has moved since phase "
                    r"\w+ of step \d+",
                    said,
                )
            )
            == 1
        )
        assert said.count("catdpo: ") == 1
    interrupt.check_steps(os.path.join(folder, "run"))


def test_rank_killed():
    """mpirun ends the others; the files are whole and the next start goes on."""
    folder = engine.new_folder("killed")
    with interrupt.Started(
        folder, 3, **{**RUN, "parallel.grid": [1, 3], "checkpoint.steps": 5, "schedule.steps": 100000}
    ) as run:
        run.wait_for_step(12)
        run.signal(signal.SIGKILL, [2])
        assert run.end(30) != 0
    said = interrupt.finish(folder, 2, status=RESUBMIT, **{**RUN, "schedule.steps": 100000, "run.time_limit": 0.03})
    assert "resume " in said
    interrupt.check_steps(os.path.join(folder, "run"))


POISON = 3   # a pair whose reference log-probs are so far apart that its loss overflows


def poisoned(folder):
    """The reference's log-probs, one pair's changed."""
    run = engine.train(1, **{**RUN, "parallel.grid": [1, 1], "schedule.steps": 1})
    path = os.path.join(folder, "poisoned.h5")
    shutil.copy(run.path("reference.h5"), path)
    with h5py.File(path, "r+") as file:
        for side, value in (("chosen", 1.7e308), ("rejected", -1.7e308)):
            item = file["train"][side]
            item[POISON] = value
            item.attrs["checksum"] = engine.catdpo_h5.checksum(item[()])
    return path


def test_not_finite_stops():
    """One message that says what to do, and the step is in the metrics with its pairs."""
    folder = engine.new_folder("nan-stop")
    said = interrupt.finish(folder, 2, status=1, **nan_settings(folder))
    assert said.count("catdpo: ") == 1 and "the loss is" in said and 'optimizer.nonfinite = "skip"' in said
    metrics = engine.read(os.path.join(folder, "run", "metrics.h5"))
    assert metrics["train/skipped"].tolist() == [0, 1] and POISON in metrics["train/pairs"][1]


def nan_settings(folder, **more):
    """14 steps an epoch of two pairs each, in order: the poisoned pair is in the second step of each."""
    return {
        **RUN,
        "reference.cache": poisoned(folder),
        "schedule.steps": 20,
        "batch.pairs": 2,
        "batch.sampling": "sequential",
        **more,
    }


SKIPPED = [2, 16]


def test_not_finite_skips():
    """The step changes nothing: weights, moments and margins are those of the steps around it; metrics and checkpoint
    count it."""
    folder = engine.new_folder("nan-skip")
    settings = nan_settings(
        folder,
        **{"optimizer.nonfinite": "skip", "optimizer.max_skipped": 100, "checkpoint.steps": 1, "checkpoint.keep": 99},
    )
    said = interrupt.finish(folder, 2, **settings)
    directory = os.path.join(folder, "run")
    skipped = engine.read(os.path.join(directory, "metrics.h5"))["train/skipped"]
    assert (np.flatnonzero(skipped) + 1).tolist() == SKIPPED and said.count("is skipped: the loss is") == 2
    final = os.path.join(directory, "checkpoints/final.h5")
    assert engine.attributes(final)["skipped"] == 2 and engine.attributes(final, "optimizer")["updates"] == 18
    for step in SKIPPED:
        before, after = (engine.read(os.path.join(directory, f"checkpoints/step-{n:08d}.h5")) for n in (step - 1, step))
        for name in before:
            np.testing.assert_array_equal(after[name], before[name], name)


def test_too_many_skipped():
    """The bound holds, also over a resume."""
    folder = engine.new_folder("nan-bound")
    settings = nan_settings(
        folder, **{"optimizer.nonfinite": "skip", "optimizer.max_skipped": 1, "checkpoint.steps": 1}
    )
    said = interrupt.finish(folder, 2, status=1, **settings)
    assert said.count("is skipped") == 1 and "leaves out up to 1 such" in said
    said = interrupt.finish(folder, 2, status=1, **settings)
    assert "after step 15 of 20" in said and said.count("is skipped") == 0


# ---- folders --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("place", ["/proc/nowhere/run", "/dev/null/run"])
def test_unwritable_folder(place):
    """One message with the remedy, on every rank the same status."""
    run = engine.run("train", 2, **{**RUN, "run.dir": place, "schedule.steps": 2})
    assert run.statuses == [2, 2] and len(run.errors) == 1 and "run.dir" in run.errors[0]

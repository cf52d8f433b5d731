"""Promise: every end of a run leaves its status, its reason, time and host in the run directory, and watch, report and
compare show it; a run that is killed leaves "running" and a heartbeat that stands still."""

import json
import os
import signal
import subprocess
import time

import engine
import interrupt
import pytest

from catdpo_analysis.files.status import read_status
from catdpo_analysis.watch.live_run import FAILED, FINISHED, SILENT, STOPPED, LiveRun

pytestmark = engine.needs_binary

RUN = {
    **interrupt.engine.DEFAULTS,
    "objective.type": "catdpo",
    "schedule.steps": 100000,
    "checkpoint.minutes": 0.0,
    "parallel.grid": [2, 1],
}
del RUN["run.progress"]


def status_of(directory):
    return json.load(open(os.path.join(directory, "status.json")))


def look(directory):
    return LiveRun(str(directory), patience=0.1).look()


def printed(*argv):
    """What catdpo-analysis prints."""
    command = [os.path.join(engine.ROOT, ".venv/bin/python"), "-m", "catdpo_analysis", *map(str, argv)]
    environment = dict(os.environ, PYTHONPATH=os.path.join(engine.ROOT, "analysis"), COLUMNS="300")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.stdout + done.stderr


def test_a_run_that_diverges_is_told_of_while_it_goes():
    """Numbers that stay finite but say that the weights are ruined: one warning, also in log.jsonl, and from there in
    watch, report and compare; a good run has none."""
    run = engine.train(1, **{"optimizer.learning_rate": 1e6, "schedule.steps": 30})
    assert run.err.count("warning: ") == 1 and "optimizer.learning_rate" in run.err, run.err
    last = json.loads(open(run.path("log.jsonl")).readlines()[-1])
    assert last["warning"].split(",")[0] in run.err
    words = f"step 30: {last['warning']}"
    assert words in printed("compare", run.directory) and words in printed("report", run.directory, "--no-html")
    assert words in printed("watch", run.directory, "--once")
    good = engine.train(1, **{"schedule.steps": 30})
    assert "warning" not in good.err and "warning" not in open(good.path("log.jsonl")).read()


def test_done():
    run = engine.train(1)
    said = status_of(run.directory)
    assert said["status"] == "done" and said["exit_status"] == 0 and "reason" not in said
    assert said["step"] == said["total_steps"] == 5 and said["started"] <= said["time"] and said["host"]
    assert look(run.directory).state == FINISHED and look(run.directory).detail == ""


def test_settings_as_json():
    """config.json has every key of the table with the value of the run."""
    run = engine.train(1)
    settings = json.load(open(run.path("config.json")))
    flat = {f"{group}.{key}": value for group, keys in settings.items() for key, value in keys.items()}
    help_text = subprocess.run([engine.BINARY, "--help-config=markdown"], capture_output=True, text=True).stdout
    assert list(flat) == [line.split("`")[1] for line in help_text.splitlines() if line.startswith("| `")]
    for key, value in {**engine.DEFAULTS, "run.dir": run.directory}.items():
        assert flat[key] == value, key
    assert flat["margin.soft"] is False and flat["parallel.replicas"] == "auto" and flat["objective.type"] == "catdpo"


@pytest.mark.parametrize("how", ["USR1", "stop", "limit"])
def test_stopped(how):
    """85 for a signal and the time limit, 86 for the file "stop", which is gone then; a checkpoint of the last step is
    there."""
    folder = engine.new_folder(how)
    settings = {**RUN, **({"run.time_limit": "0:00:03"} if how == "limit" else {})}
    with interrupt.Started(folder, 2, **settings) as run:
        run.wait_for_step(3)
        mark = os.path.join(run.directory, "stop")
        if how == "USR1":
            run.signal(signal.SIGUSR1, [1])
        elif how == "stop":
            open(mark, "w").close()
        code, said = run.end(), status_of(run.directory)
        assert code == said["exit_status"] == (86 if how == "stop" else 85), run.text()
        assert not os.path.exists(mark)
    assert said["status"] == "stopped" and said["reason"].startswith("stopped by") and "--resume" in said["reason"]
    assert how in said["reason"] and 3 <= said["step"] < said["total_steps"] == 100000
    assert os.listdir(os.path.join(run.directory, "checkpoints")) == [f"step-{said['step']:08d}.h5"]
    seen = look(run.directory)
    assert seen.state == STOPPED and said["reason"] in seen.detail and ("by itself" in seen.detail) == (how != "stop")


def test_a_stop_that_was_there_before_is_removed_and_said_unless_the_job_was_waiting(monkeypatch):
    folder = engine.new_folder("stale-stop")
    directory = os.path.join(folder, "run")
    os.mkdir(directory)
    open(os.path.join(directory, "stop"), "w").close()
    settings = {**RUN, "schedule.steps": 3}
    assert "stop was there before this start: removed" in interrupt.finish(folder, 2, **settings)
    open(os.path.join(directory, "stop"), "w").close()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    interrupt.finish(
        folder, 2, status=86, **{**settings, "schedule.steps": 9}, options=("--resume", "--allow=schedule")
    )
    assert status_of(directory)["step"] == 4


def test_it_is_said_at_the_start_how_to_stop():
    folder = engine.new_folder("how")
    with interrupt.Started(folder, 2, **RUN) as run:
        run.wait_for_step(2)
        assert f"stop     touch {run.directory}/stop or kill -USR1 {run.process.pid}" in run.text()
        run.signal(signal.SIGTERM)
        run.end()


@engine.only_open_mpi
def test_control_c_at_mpirun():
    """Open MPI's mpirun lets its ranks be for odls_base_sigkill_timeout seconds, sends TERM, and kills them after as
    many seconds more; its own status is 1. The run itself stops in order where there is time for it."""
    folder = engine.new_folder("control-c")
    with interrupt.Started(folder, 2, grace=2, pace=5, **RUN) as run:
        run.wait_for_step(3)
        os.kill(run.process.pid, signal.SIGINT)
        assert run.end() == 1
        said = status_of(run.directory)
        assert said["exit_status"] == 85 and "SIGTERM" in said["reason"]


def test_failed_by_its_numbers():
    """The reason of stderr is in the file; watch and compare show it, and nothing says that the run goes on by
    itself."""
    run = engine.run("train", 2, **{**RUN, "optimizer.learning_rate": 1e30, "schedule.steps": 4})
    said = status_of(run.directory)
    assert run.errors == [f"catdpo: {said['reason']}"] and "optimizer.learning_rate" in said["reason"]
    assert said["status"] == "failed" and said["exit_status"] == 1 and said["step"] == 2
    seen = look(run.directory)
    assert seen.state == FAILED and said["reason"] in seen.detail and "by itself" not in seen.detail
    assert said["reason"] in printed("report", run.directory, "--no-html")
    for words in ("failed at step 2 of 4", f"run 1 run: failed: {said['reason']}"):
        assert words in printed("compare", run.directory)
    assert f"failed{' ' * 4}" not in printed("watch", run.directory, "--once")
    assert "failed" in printed("watch", run.directory, "--once")


def test_failed_before_its_first_step():
    """Inputs that are refused are a reason too; compare names it."""
    run = engine.run("train", 2, **{**RUN, "data.path": "nowhere.h5"})
    said = status_of(run.directory)
    assert said["exit_status"] == 2 and "nowhere.h5" in said["reason"] and "step" not in said
    assert look(run.directory).state == FAILED
    assert f"not compared: {run.directory}: failed before its first step: {said['reason']}" in printed(
        "compare", run.directory
    )
    assert said["reason"] in printed("report", run.directory)


def test_refused_starts_leave_the_status_of_the_run_alone():
    """A second run in the directory of one that is done; a copy beside one that lives."""
    run = engine.launch("train", 1, **{**RUN, "parallel.grid": [1, 1], "schedule.steps": 2})
    before = status_of(run.directory)
    assert engine.launch("train", 1, **{**RUN, "parallel.grid": [1, 1], "run.dir": run.directory}).statuses == [2]
    assert status_of(run.directory) == before
    folder = engine.new_folder("lives")
    with interrupt.Started(folder, 2, **RUN) as first:
        first.wait_for_step(2)
        interrupt.finish(folder, 2, status=2, **RUN)
        assert status_of(first.directory)["status"] == "running"
        first.signal(signal.SIGTERM)
        first.end()


def test_a_later_start_that_failed_does_not_hide_that_the_run_is_done():
    run = engine.launch("train", 1, **{**RUN, "parallel.grid": [1, 1], "schedule.steps": 2})
    again = {**RUN, "parallel.grid": [1, 1], "schedule.steps": 2, "run.dir": run.directory, "data.path": "nowhere.h5"}
    assert engine.launch("train", 1, options=("--resume",), **again).statuses == [2]
    seen = look(run.directory)
    assert seen.state == FINISHED and "a later start failed" in seen.detail and "nowhere.h5" in seen.detail
    assert "finished" in printed("compare", run.directory)


def test_ended_by_the_watchdog():
    folder = engine.new_folder("watchdog")
    with interrupt.Started(folder, 2, **{**RUN, "run.watchdog": 3.0}) as run:
        run.wait_for_step(5)
        run.signal(signal.SIGSTOP, [1])
        assert run.end(40) == 1
    said = status_of(run.directory)
    assert said["status"] == "failed" and said["exit_status"] == 1 and "nothing has moved since phase" in said["reason"]
    assert look(run.directory).state == FAILED      # though its writer's folder was left behind


def test_killed():
    """Nobody is left to write the reason: "running" stays, and the heartbeat stands still."""
    folder = engine.new_folder("killed")
    with interrupt.Started(folder, 2, **RUN) as run:
        run.wait_for_step(3)
        run.signal(signal.SIGKILL)
        run.end()
    assert status_of(run.directory)["status"] == "running"
    watched = LiveRun(run.directory, patience=0.2)
    watched.look()
    time.sleep(0.5)
    seen = watched.look()
    assert seen.state == SILENT and "no sign of life" in seen.detail
    assert "failed" not in printed("compare", run.directory)


def test_full_disk(tmp_path):
    """The reason finds room on a disk that is full."""
    inside = tmp_path / "disk"
    inside.mkdir()
    probe = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", inside], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"cannot mount a small disk: {probe.stderr.strip()}")
    try:
        with interrupt.Started(str(tmp_path), 2, pace=5, **{**RUN, "run.dir": str(inside / "run")}) as run:
            run.wait_for_step(3)
            with open(inside / "filler", "wb", buffering=0) as file:
                with pytest.raises(OSError):
                    while True:
                        file.write(bytes(4096))
            assert run.end() == 1, run.text()
        said = status_of(inside / "run")
        assert (
            said["status"] == "failed" and "log.jsonl" in said["reason"] and "no space left" in said["reason"].lower()
        )
    finally:
        subprocess.run(["umount", "--lazy", inside])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"status": 7, "exit_status": true, "reason": null}', "\0" * 4096])
def test_a_status_that_is_none_is_passed_over(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    status = read_status(tmp_path)
    assert status is None or (not status.ended and status.exit_status is None and status.reason == "")

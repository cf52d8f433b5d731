"""Promise: watch shows a run as it is, running, finished, stopped or crashed, in any terminal, and leaves the terminal
as it was."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
from make_run import (
    CATEGORIES,
    beat,
    log_line,
    write_checkpoints,
    write_log,
    write_metrics,
    write_settings,
    write_writer,
)
from rich.cells import cell_len
from terminal import Terminal

from catdpo_analysis.watch.glyphs import ASCII, UNICODE, bar, choose_glyphs, sparkline, trend
from catdpo_analysis.files.history import with_log
from catdpo_analysis.watch.live_run import FINISHED, LOOKING, NOT_STARTED, RUNNING, SILENT, STOPPED, LiveRun
from catdpo_analysis.files.run_data import read_metrics
from catdpo_analysis.files.settings import read_settings
from catdpo_analysis.files.step_log import StepLog
from catdpo_analysis.watch.view import frame


@pytest.fixture
def folder(tmp_path):
    """A run at step 70 of 100: metrics.h5 has the first 60 steps."""
    path = tmp_path / "run"
    path.mkdir()
    write_metrics(path / "metrics.h5")
    write_settings(path)
    write_log(path, 70)
    return path


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Looks:
    """A watched run and a clock that goes on as told."""

    def __init__(self, folder, patience=15):
        self.clock = Clock()
        self.run = LiveRun(str(folder), patience, self.clock)

    def __call__(self, after=2.0):
        self.clock.now += after
        return self.run.look()


def show(snapshot, width=80, height=None, glyphs=UNICODE):
    return [line.plain for line in frame(snapshot, width, height, glyphs)]


# ---- the state -------------------------------------------------------------------------------------------------------


def test_a_run_lives_while_its_heartbeat_changes_and_is_silent_after(folder):
    write_writer(folder)
    look = Looks(folder)
    assert look().state == LOOKING
    beat(folder, 2)
    assert look().state == RUNNING
    assert look(14).state == RUNNING
    silent = look(5)
    assert silent.state == SILENT and "19 s" in silent.detail
    beat(folder, 3)
    assert look().state == RUNNING


def test_a_heartbeat_that_never_moves_is_dead_after_the_patience_whatever_its_time_stamp(folder):
    write_writer(folder)
    future = time.time() + 3600  # of a server whose clock is ahead
    os.utime(folder / "writer-1/heartbeat", (future, future))
    look = Looks(folder)
    assert [look().state, look(10).state, look(6).state] == [LOOKING, LOOKING, SILENT]


def test_a_heartbeat_that_cannot_be_read_is_no_sign_of_life(folder):
    write_writer(folder)
    look = Looks(folder)
    look()
    os.remove(folder / "writer-1/heartbeat")
    assert look().state == LOOKING
    beat(folder, 1)
    assert look().state == LOOKING and look(20).state == SILENT


def test_steps_are_a_sign_of_life_too(folder):
    look = Looks(folder)
    assert look().state == STOPPED
    with open(folder / "log.jsonl", "a") as file:
        file.write(log_line(71))
    snapshot = look()
    assert snapshot.state == RUNNING and snapshot.step == 71 and look(16).state == STOPPED


def test_a_run_that_ended_by_itself_is_stopped_at_once_and_lives_again_with_its_next_writer(folder):
    write_writer(folder)
    look = Looks(folder)
    look()
    beat(folder, 2)
    assert look().state == RUNNING
    shutil.rmtree(folder / "writer-1")
    stopped = look()
    assert stopped.state == STOPPED and "--resume" in stopped.detail
    write_writer(folder, 2, job="4711", restart=1)
    again = look()
    assert again.state == RUNNING and again.restarts == 1 and again.writer.number == 2


def test_the_newest_of_several_writers_counts(folder):
    for number in (2, 10):
        write_writer(folder, number, host=f"node{number}")
    look = Looks(folder)
    look()
    beat(folder, 5, 2)  # a copy that lost the run and does not know yet
    snapshot = look()
    assert snapshot.state == LOOKING and snapshot.writer.owner["host"] == "node10"


def test_finished_is_the_last_step_and_its_checkpoint(folder):
    write_log(folder, 100)
    write_checkpoints(folder, "step-00000090.h5")
    assert Looks(folder)().state == STOPPED
    write_checkpoints(folder, "final.h5")
    write_writer(folder)
    look = Looks(folder)
    assert look().state == FINISHED  # a writer that was left behind changes nothing,
    beat(folder, 2)
    assert look().state == RUNNING  # one that lives does
    shutil.rmtree(folder / "writer-1")
    assert look().state == FINISHED


def test_a_run_without_a_final_checkpoint_is_finished_if_it_was_to_have_none(folder):
    write_log(folder, 100)
    write_settings(folder, {"checkpoint": {"final": False}})
    assert Looks(folder)().state == FINISHED


@pytest.mark.parametrize("made", [False, True])
def test_a_run_that_has_not_begun_is_waited_for(tmp_path, made):
    if made:
        (tmp_path / "run").mkdir()
    look = Looks(tmp_path / "run")
    snapshot = look()
    assert snapshot.state == NOT_STARTED and "not started" in show(snapshot)[0]
    (tmp_path / "run").mkdir(exist_ok=True)
    write_writer(tmp_path / "run")
    assert look().state == RUNNING and look(30).state == SILENT


# ---- the files -------------------------------------------------------------------------------------------------------


def test_history_is_the_file_s_and_then_the_log_s(folder):
    metrics = read_metrics(str(folder / "metrics.h5"))
    log = StepLog(str(folder / "log.jsonl"))
    log.poll()
    both = with_log(metrics, log.rows)
    assert both.series["step"].tolist() == list(range(1, 71))
    assert both.series["loss"][:60] == pytest.approx(metrics.series["loss"])
    assert both.series["loss"][60:] == pytest.approx([row["loss"] for row in log.rows[60:]])
    assert both.category["margin"].shape == (70, 7) and both.category["margin"][69, 2] == pytest.approx(1.4)
    assert np.isnan(both.category["n"][60:]).all() and both.harm.tolist() == metrics.harm.tolist()
    assert with_log(metrics, log.rows[:60]).steps == 60 and with_log(None, []) is None
    alone = with_log(None, log.rows)
    assert alone.steps == 70 and alone.categories == CATEGORIES and alone.harm.all()


def test_a_growing_log_is_read_once_and_a_torn_line_later(tmp_path):
    path = tmp_path / "log.jsonl"
    log = StepLog(str(path))
    assert not log.poll() and not log.rows
    with open(path, "w") as file:
        for step in range(1, 4):
            line = log_line(step)
            file.write(line[:30])
            file.flush()
            log.poll()
            assert len(log.rows) == step - 1 and log.torn
            file.write(line[30:])
            file.flush()
            assert log.poll() and not log.torn and log.rows[-1]["step"] == step
    assert not log.poll() and log.spoilt == 0


def test_a_log_that_was_cut_or_replaced_on_a_resume_is_read_anew(tmp_path):
    path = tmp_path / "log.jsonl"
    write_log(tmp_path, 9)
    log = StepLog(str(path))
    log.poll()
    write_log(tmp_path, 5)  # cut back
    log.poll()
    assert [row["step"] for row in log.rows] == list(range(1, 6))
    path.write_text("".join(log_line(step, loss=0.25) for step in range(1, 9)))  # cut, and longer again before we look
    log.poll()
    assert len(log.rows) == 8 and {row["loss"] for row in log.rows} == {0.25}
    (tmp_path / "new").write_text(path.read_text() + log_line(9))
    os.replace(tmp_path / "new", path)
    log.poll()
    assert len(log.rows) == 9
    path.unlink()
    log.poll()
    assert log.rows == []


def test_steps_done_again_replace_the_old_ones_and_garbage_is_passed_over(tmp_path):
    lines = [log_line(1), log_line(2), log_line(3), "\0\0\0\n", "{}\n", '{"step": null}\n', log_line(2, loss=0.5)]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    log = StepLog(str(tmp_path / "log.jsonl"))
    log.poll()
    assert [row["step"] for row in log.rows] == [1, 2] and log.rows[1]["loss"] == 0.5 and log.spoilt == 3


def test_of_a_long_log_the_end_is_read(tmp_path):
    write_log(tmp_path, 200)
    log = StepLog(str(tmp_path / "log.jsonl"), limit=5000)
    log.poll()
    assert log.rows[-1]["step"] == 200 and 2 < len(log.rows) < 20 and log.spoilt == 0


def test_metrics_that_vanish_or_are_replaced_while_we_read_keep_what_is_known(folder, monkeypatch):
    look = Looks(folder)
    assert look().metrics.steps == 70
    write_metrics(folder / "new.h5", steps=75)
    os.replace(folder / "new.h5", folder / "metrics.h5")
    real = h5py.File

    def gone(path, *args, **kwargs):
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(h5py, "File", gone)
    assert look().metrics.harm.tolist()[-1] is False
    monkeypatch.setattr(h5py, "File", real)
    assert look().metrics.steps == 75


def test_metrics_are_read_without_a_lock(folder):
    holds = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+', locking=True); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holds, folder / "metrics.h5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        assert Looks(folder)().metrics.harm.tolist()[-1] is False
        writer.stdin.close()


@pytest.mark.parametrize(
    "change, wanted",
    [
        (lambda run: os.remove(run / "metrics.h5"), "metrics.h5 is missing"),
        (lambda run: (run / "metrics.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "metrics.h5 cannot be read"),
        (lambda run: os.remove(run / "log.jsonl"), "log.jsonl is missing"),
        (lambda run: write_log(run, 70, torn=True), "in the middle of a line"),
        (lambda run: (run / "log.jsonl").write_bytes(b"\0" * 4096 + b"\n"), "1 damaged lines"),
    ],
    ids=["no metrics", "damaged metrics", "no log", "torn log", "zeroed log"],
)
def test_a_crashed_run_shows_what_is_left_and_names_what_is_not(cli, folder, change, wanted):
    write_writer(folder)
    write_checkpoints(folder, "step-00000050.h5")
    change(folder)
    out = cli("watch", folder, "--once", "--patience", 0.2).out
    assert wanted in out and "silent" in out and "node3" in out and "job 4711" in out and "step-00000050.h5" in out
    assert all(name in out for name in ("loss", "Privacy")) and "Traceback" not in out


def test_restarts_are_those_of_the_run_and_of_slurm(folder):
    with h5py.File(folder / "metrics.h5", "r+") as file:
        file.attrs["restarts"] = np.int64(2)
    write_writer(folder, restart=1)
    assert "restarts 2" in "\n".join(show(Looks(folder)(), 200))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": [1]}', "\0" * 99])
def test_settings_that_are_none_are_unknown(tmp_path, text):
    """config.json as the trainer writes it is read; a damaged one, or none, leaves the settings unknown."""
    assert read_settings(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"a": {"b": [1, 2], "c": "x"}, "d": {"e": 1e-3}}')
    assert read_settings(tmp_path) == {"a.b": [1, 2], "a.c": "x", "d.e": 0.001}
    (tmp_path / "config.json").write_text(text)
    assert read_settings(tmp_path) == {}


# ---- the frame -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 61, 80, 100, 119, 120, 150, 200, 317])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_no_line_is_wider_than_the_terminal(folder, width, glyphs):
    names = ["Ünïcode 危険な活動 " * 5, "a" * 90, "tab\tand\x1b[31mred", *CATEGORIES]
    write_metrics(folder / "metrics.h5", categories=names)
    write_log(folder, 70, categories=names)
    write_writer(folder, host="h" * 300, job="1" * 50)
    write_checkpoints(folder, "step-00000050.h5")
    with open(folder / "log.jsonl", "a") as file:  # a progress line that is too long
        file.write(log_line(10**9, total=10**10, categories=names))
    look = Looks(folder)
    look()
    beat(folder, 2)
    for height in (None, 5, 24):
        lines = show(look(), width, height, glyphs)
        assert max(map(cell_len, lines)) <= width and all(line.isprintable() for line in lines)
        assert glyphs.unicode or all(line.isascii() for line in lines)
    assert cell_len(lines[0]) == width  # the state is at the right edge


def test_the_frame_says_what_is_promised(folder):
    write_writer(folder, restart=3)
    write_checkpoints(folder, "step-00000040.h5", "step-00000060.h5")
    look = Looks(folder)
    look()
    beat(folder, 2)
    text = "\n".join(show(look(), 130))
    for wanted in """● running; grid 1x2x1; job 4711; on node3; ranks 4; restarts 3; 70 %; step 70/100; epoch 2.33; ETA;
        tokens/s ; s/step; reward margin; loss 0.1; target 20%; no margin applies;
        checkpoint step-00000060.h5, 10 steps ago (0:30 of training)""".split(";"):
        assert wanted.strip() in text, wanted
    assert re.search(r"Privacy +3\.50 [↑→↓]  .* 75% [↑→↓] █+[▉▊▋▌▍▎▏]?·+  [▁-█]+$", text, re.MULTILINE), text


@pytest.mark.parametrize("height", range(1, 40))
def test_a_low_terminal_loses_the_least_important_categories_first(folder, height):
    write_checkpoints(folder, "step-00000060.h5")
    lines = show(Looks(folder)(), 80, height)
    assert len(lines) <= height and "stopped" in lines[0]
    rows = [line.split("  ")[0] for line in lines if re.match("(" + "|".join(CATEGORIES) + ")", line)]
    worst_first = [*reversed(CATEGORIES[:-1]), CATEGORIES[-1]]  # the log's rates grow with the index; benign has none
    assert rows == worst_first[: len(rows)]
    hidden = [line for line in lines if "more, worst first" in line]
    if height >= 12:
        assert (hidden == []) == (len(rows) == 7)
        assert not hidden or hidden == [f"... {7 - len(rows)} more, worst first"]
    if height >= 21:
        assert len(rows) == 7 and any("step-00000060" in line for line in lines)


def test_bars_sparklines_and_trends():
    assert sparkline([0, 1, 2, 3], 9, ASCII) == "_,~#"[0] + sparkline([0, 1, 2, 3], 9, ASCII)[1:3] + "#"
    assert sparkline(range(800), 8, UNICODE) == "▁▂▃▄▅▆▇█" and sparkline([1, np.nan, 1], 5, UNICODE) == "▅ ▅"
    assert sparkline([], 5, UNICODE) == "" and sparkline([np.nan], 5, UNICODE) == " "
    assert bar(0.5, 10, ASCII) == ("#####", ".....") and bar(np.nan, 3, ASCII) == ("", "...")
    assert bar(1.0, 4, UNICODE) == ("████", "") and bar(0.0, 4, UNICODE, 0.5) == ("", "··│·")
    for share in np.linspace(0, 1, 41):
        assert len("".join(bar(share, 7, UNICODE, 0.3))) == 7
    assert trend([1, 1, 2, 2], ASCII, 0.1) == "^" and trend([2, 1], ASCII, 0.1) == "v" and trend([1], ASCII, 0.1) == " "


@pytest.mark.parametrize(
    "encoding, environment, wanted",
    [
        ("utf-8", {"LANG": "de_DE.UTF-8"}, UNICODE),
        ("utf-8", {"LANG": "C"}, ASCII),
        ("utf-8", {"LANG": "C", "LC_CTYPE": "C.UTF-8"}, ASCII),  # as Python sets it by itself
        ("utf-8", {"LANG": "C.UTF-8", "LC_CTYPE": "C.UTF-8"}, UNICODE),
        ("utf-8", {"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, ASCII),
        ("utf-8", {"LC_ALL": "C.UTF-8"}, UNICODE),
        ("ascii", {"LANG": "de_DE.UTF-8"}, ASCII),
        (None, {}, ASCII),
    ],
)
def test_unicode_is_used_only_where_it_is_wanted(encoding, environment, wanted):
    assert choose_glyphs(encoding, environment) is wanted


def test_faulty_arguments(cli, tmp_path):
    assert "no run directory" in cli("watch", tmp_path / "none", "--once", status=2).err
    (tmp_path / "file").write_text("")
    assert "is a file" in cli("watch", tmp_path / "file", status=2).err
    assert "seconds" in cli("watch", tmp_path, "--interval", 0, status=2).err


# ---- in a real terminal ----------------------------------------------------------------------------------------------


class Job:
    """A thread that does what the trainer does with a run directory: a step and a heartbeat now and then, metrics
    replaced at times."""

    def __init__(self, folder, pause=0.05):
        self.folder, self.pause, self.step = folder, pause, 70
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.work)
        write_writer(folder)

    def work(self):
        while not self.ended.wait(self.pause) and self.step < 10**6:
            self.step += 1
            beat(self.folder, self.step)
            with open(self.folder / "log.jsonl", "a") as file:
                file.write(log_line(self.step, total=10**6))
            if self.step % 20 == 0:
                write_metrics(self.folder / "metrics.h5", steps=self.step)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def step_shown(text):
    found = re.search(r"step (\d+)/1000000", text)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("columns, rows", [(80, 24), (200, 50), (60, 16)])
def test_the_live_view_follows_a_running_job_without_a_wrapped_line(folder, columns, rows):
    with Job(folder) as job, Terminal("watch", folder, "--interval", 0.2, columns=columns, rows=rows) as terminal:
        first = step_shown(terminal.wait(lambda text: "● running" in text and step_shown(text)))
        text = terminal.wait(lambda text: step_shown(text) > first + 20)
        assert step_shown(text) <= job.step and terminal.screen.wrapped == 0
        lines = terminal.lines
        assert lines[0].endswith("running") and len(lines[0]) == columns and "q ends this view" in lines[-1]
        assert sum("violation rate" in line or "violated" in line for line in lines) == 1
        assert ("its history" in text) == (columns == 200) and "Traceback" not in text
        terminal.type(b"q")
        assert terminal.end() == 0 and terminal.restored and "Traceback" not in terminal.raw.decode()
        assert "benign" in terminal.text  # the last frame stays


def test_the_live_view_follows_the_size_of_the_terminal(folder):
    with Job(folder), Terminal("watch", folder, "--interval", 1000, columns=80, rows=24) as terminal:
        terminal.wait(lambda text: "q ends this view" in text)
        for columns, rows in ((200, 40), (70, 14), (100, 30)):
            terminal.resize(columns, rows)
            terminal.signal()
            terminal.wait(lambda text: len(terminal.lines[0]) == columns and "q ends" in terminal.lines[-1])
        assert terminal.screen.wrapped == 0
        terminal.type(b"\x03")
        assert terminal.end() == 0 and terminal.restored


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_the_terminal_as_it_was(folder, number, status):
    with Terminal("watch", folder) as terminal:
        terminal.wait(lambda text: "q ends this view" in text)
        terminal.signal(number)
        assert terminal.end() == status and terminal.restored and b"Traceback" not in terminal.raw


def test_a_suspended_view_gives_the_terminal_back_and_comes_again(folder):
    with Terminal("watch", folder, "--interval", 0.2) as terminal:
        terminal.wait(lambda text: "q ends this view" in text)
        terminal.type(b"\x1a")
        end = time.monotonic() + 30
        while not terminal.restored and time.monotonic() < end:
            terminal.read()
        assert terminal.restored and terminal.process.poll() is None
        terminal.signal(signal.SIGCONT)
        end = time.monotonic() + 30
        while terminal.restored and time.monotonic() < end:
            terminal.read()
        assert not terminal.restored
        terminal.type(b"q")
        assert terminal.end() == 0 and terminal.restored


def test_an_exception_leaves_the_terminal_as_it_was(folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import catdpo_analysis.watch.live_run as m\n"
        "look, count = m.LiveRun.look, []\n"
        "def broken(self):\n    count.append(1)\n    return look(self) if len(count) < 3 else 1 / 0\n"
        "m.LiveRun.look = broken\n"
    )
    from conftest import ROOT

    path = f"{tmp_path}:{os.path.join(ROOT, 'analysis')}"
    with Terminal("watch", folder, "--interval", 0.1, environment={"PYTHONPATH": path}) as terminal:
        assert terminal.end(20) == 1 and terminal.restored
        assert terminal.raw.find(b"ZeroDivisionError") > terminal.raw.rfind(b"\x1b[?1049l")


@pytest.mark.parametrize(
    "environment", [{"LANG": "C"}, {"LC_ALL": "C"}, {"LANG": "POSIX", "NO_COLOR": "1"}, {"NO_COLOR": "1"}], ids=str
)
def test_plain_terminals_get_ascii_and_no_colour(folder, environment):
    with Job(folder), Terminal("watch", folder, "--interval", 0.2, environment=environment) as terminal:
        text = terminal.wait(lambda text: "running" in text and "violation rate" in text)
        assert text.isascii() == ("LANG" in environment or "LC_ALL" in environment)
        coloured = re.search(rb"\x1b\[[0-9;]*(3[0-7]|9[0-7])[0-9;]*m", terminal.raw)
        assert (coloured is None) == ("NO_COLOR" in environment) and terminal.screen.wrapped == 0
        terminal.type(b"q")
        assert terminal.end() == 0 and terminal.restored


def test_a_dumb_terminal_gets_one_frame(folder):
    with Terminal("watch", folder, environment={"TERM": "dumb"}) as terminal:
        assert terminal.end(20) == 0 and b"\x1b[" not in terminal.raw and "step 70/100" in terminal.text


def test_a_pipe_gets_one_frame_without_control_characters(cli, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    out = cli("watch", folder, "--patience", 0.2).out
    assert "step 70/100" in out and "\x1b" not in out and max(map(cell_len, out.splitlines())) == 90

"""A run as it stands now, looked at again and again while it writes: its steps, its checkpoints, and whether it lives.

Clocks of different machines are never compared: a run lives if its heartbeat or its log changes while we look.
"""

import dataclasses
import os
import re
import time

from catdpo_analysis.errors import UserError
from catdpo_analysis.files.history import CATEGORY_OF_LOG, with_log
from catdpo_analysis.files.run_data import Metrics, read_metrics
from catdpo_analysis.files.settings import read_settings
from catdpo_analysis.files.status import Status, read_status
from catdpo_analysis.files.step_log import StepLog
from catdpo_analysis.files.owner import Writer, read_writer

PATIENCE = 15.0  # seconds without a sign of life; a heartbeat is due every 5

RUNNING, FINISHED, LOOKING, SILENT, STOPPED, FAILED, NOT_STARTED = (
    "running",
    "finished",
    "looking",
    "silent",
    "stopped",
    "failed",
    "not started",
)


@dataclasses.dataclass
class Snapshot:
    """`total`: steps of the whole training, 0 if unknown. `checkpoint`: name of the newest one, and its step (None: of
    the last step)."""

    path: str
    state: str
    detail: str
    metrics: Metrics | None
    settings: dict
    writer: Writer | None
    status: Status | None
    restarts: int
    step: int
    total: int
    checkpoint: tuple | None
    quiet: float  # seconds since we saw the last new step, or began to look
    notes: list


class LiveRun:
    """Call `look()` as often as wanted; files are open only meanwhile."""

    def __init__(self, path, patience=PATIENCE, clock=time.monotonic):
        self.path, self.patience, self.clock = path, patience, clock
        self.log = StepLog(os.path.join(path, "log.jsonl"))
        self.metrics, self.stamp, self.fault = None, None, None
        self.began = self.stepped = None
        self.moved, self.sign, self.step = None, None, None

    def look(self):
        now = self.clock()
        if self.began is None:
            self.began = self.stepped = now
        status = read_status(self.path)
        writer = read_writer(self.path)  # before the log, so that its end is never older than the writer's
        self._read_metrics()
        self.log.poll()
        checkpoint, final = self._checkpoints()
        history = with_log(self.metrics, self.log.rows)
        step = int(history.series["step"][-1]) if history and history.steps else 0
        settings = read_settings(self.path)
        total = int(self.log.rows[-1].get("total_steps") or 0) if self.log.rows else settings.get("schedule.steps", 0)
        total = (max(total, 0) if isinstance(total, int) else 0) or (status and status.total_steps) or 0
        if not total and final:
            total = step  # of an unknown length, and at its end
        if self.step is not None and step > self.step:
            self.stepped = now
        ended_well = final or settings.get("checkpoint.final") is False
        state, detail = self._state(now, writer, status, step, total, ended_well)
        self.step = step
        return Snapshot(
            self.path,
            state,
            detail,
            history,
            settings,
            writer,
            status,
            self._restarts(writer),
            step,
            total,
            checkpoint,
            now - self.stepped,
            self._notes(state),
        )

    # ---- the files -------------------------------------------------------------------------------------------------

    def _read_metrics(self):
        """metrics.h5 is read when it was replaced. One that cannot be read leaves what was known."""
        path = os.path.join(self.path, "metrics.h5")
        try:
            status = os.stat(path)
            stamp = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
            if stamp == self.stamp:
                return
            self.metrics = read_metrics(path, tuple(CATEGORY_OF_LOG))
            self.stamp, self.fault = stamp, None
        except FileNotFoundError:
            self.metrics = self.stamp = None
            self.fault = "metrics.h5 is missing: what applies to which category is unknown"
        except (UserError, OSError) as error:  # replaced just now, or damaged
            self.fault = str(error).replace(path, "metrics.h5") if os.path.exists(path) else None

    def _checkpoints(self):
        """((name, step) of the newest checkpoint or None, whether final.h5 is there)."""
        try:
            names = os.listdir(os.path.join(self.path, "checkpoints"))
        except OSError:
            return None, False
        steps = [int(found[1]) for found in (re.fullmatch(r"step-(\d+)\.h5", name) for name in names) if found]
        final = "final.h5" in names
        newest = (f"step-{max(steps):08d}.h5", max(steps)) if steps else None
        return (("final.h5", None) if final else newest), final

    def _restarts(self, writer):
        said = self.metrics.about.get("restarts") if self.metrics else 0
        slurm = writer.owner.get("restart") if writer else 0
        return max(int(count) if str(count).isdigit() else 0 for count in (said, slurm))

    def _notes(self, state):
        notes = [self.log.warning] if self.log.warning else []
        if self.fault and state != NOT_STARTED:
            notes.append(self.fault)
        if self.metrics is not None and not os.path.exists(self.log.path):
            notes.append("log.jsonl is missing: shown is what metrics.h5 has")
        if self.log.spoilt:
            notes.append(f"log.jsonl: {self.log.spoilt} damaged lines are passed over")
        if self.log.torn and state in (STOPPED, SILENT, FAILED):
            notes.append("log.jsonl ends in the middle of a line: the run was cut off while it wrote")
        return notes

    # ---- the state -------------------------------------------------------------------------------------------------

    def _state(self, now, writer, status, step, total, ended_well):
        """(state, a sentence) from what changed since the last look, and from what the run said at its end."""
        sign = (writer.number, writer.heartbeat) if writer and writer.heartbeat else None
        if writer is None and self.sign:  # it ended by itself, which is no sign of death, and none of life either
            self.moved = self.sign = None
        if self.step is not None and (step > self.step or (sign and sign != self.sign)):
            self.moved = now
        self.sign = sign or self.sign
        lives = self.moved is not None and now - self.moved <= self.patience
        if total and step >= total and ended_well and not (writer and lives):
            return FINISHED, f"a later start failed: {status.reason}" if status and status.failed else ""
        if writer and lives:
            if total and step >= total:
                return RUNNING, "writing the final checkpoint"
            return RUNNING, "" if step else "starting: no step yet"
        if writer and status and status.ended and status.started == writer.owner.get("started"):
            writer = None  # left behind by a copy that said why it ended, as the watchdog does
        if writer:
            waited = now - (self.began if self.moved is None else self.moved)
            if self.moved is None and waited < self.patience:
                return LOOKING, "waiting for its heartbeat"
            return SILENT, f"no sign of life for {waited:.0f} s: crashed, killed, or its node is lost"
        if lives:
            return RUNNING, ""
        if not os.path.isdir(self.path):
            return NOT_STARTED, "there is no such directory yet"
        if status and status.ended:
            return FAILED if status.failed else STOPPED, status.sentence
        if step == 0 and self.metrics is None and status is None:
            return NOT_STARTED, "nothing was written yet"
        return STOPPED, "it ended before its last step and left no reason; --resume goes on from its last checkpoint"

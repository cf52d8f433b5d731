"""status.json of a run directory: how the run stands by its own word, or how it ended and why."""

import dataclasses
import json
import os

RESUBMIT, STOPPED = 85, 86  # exit statuses of a run that stopped on request after saving


@dataclasses.dataclass(frozen=True)
class Status:
    """`status`: "running", "done", "stopped" or "failed"; texts are "" and numbers None where the file has none."""

    status: str
    exit_status: int | None = None
    reason: str = ""
    step: int | None = None
    total_steps: int | None = None
    started: str = ""
    time: str = ""
    host: str = ""
    job: str = ""
    log: str = ""

    @property
    def ended(self):
        return self.status in ("done", "stopped", "failed")

    @property
    def failed(self):
        return self.status == "failed"

    @property
    def sentence(self):
        """Why it ended and what becomes of it; "" for a run that is done or goes on."""
        if self.status == "stopped":
            # its own reason says that --resume goes on
            again = "; a job that requeues itself goes on by itself" if self.exit_status == RESUBMIT else ""
            return f"{self.reason or 'stopped after saving'}{again}"
        if self.failed:
            remedy = "correct that first" if self.exit_status == 2 else "see to that first"
            return f"{self.reason or f'ended with status {self.exit_status}'} ({remedy}; --resume goes on after it)"
        return ""

    @property
    def place(self):
        """When and where: "2026-01-02T03:04:05Z on node3, job 17, output catdpo-train-17.out"."""
        words = [f"{self.time} on {self.host}" if self.host else self.time]
        words += [f"job {self.job}"] if self.job else []
        words += [f"output {self.log}"] if self.log else []
        return ", ".join(word for word in words if word)


def read_status(run):
    """The Status of a run directory; None if there is no file, or none that can be read."""
    try:
        with open(os.path.join(run, "status.json"), encoding="utf-8", errors="replace") as file:
            values = json.load(file)
        fields = {field.name: values.get(field.name) for field in dataclasses.fields(Status)}
    except (OSError, ValueError, AttributeError):
        return None
    numbers = ("exit_status", "step", "total_steps")
    for name, value in fields.items():
        if name in numbers:
            fields[name] = value if isinstance(value, int) and not isinstance(value, bool) else None
        else:
            fields[name] = value if isinstance(value, str) else ""
    return Status(**fields)

"""The directory writer-<n> of a run: which copy of the program writes it, and whether that one still lives."""

import dataclasses
import os
import re


@dataclasses.dataclass(frozen=True)
class Writer:
    number: int
    owner: dict  # host, pid, job, restart, ranks, started, ...: texts
    heartbeat: str  # a counter that changes while the copy lives; "" if it cannot be read


def read_writer(run):
    """The newest writer of a run directory; None if there is none. A file that vanishes meanwhile is an empty one."""
    try:
        names = os.listdir(run)
    except OSError:
        return None
    numbers = [int(found[1]) for found in (re.fullmatch(r"writer-(\d+)", name) for name in names) if found]
    if not numbers:
        return None
    folder = os.path.join(run, f"writer-{max(numbers)}")
    owner = {}
    for line in _text(os.path.join(folder, "owner")).splitlines():
        key, sign, value = line.partition("=")
        if sign:
            owner[key.strip()] = value.strip()
    return Writer(max(numbers), owner, _text(os.path.join(folder, "heartbeat")).strip())


def _text(path, limit=1 << 16):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(limit)
    except OSError:
        return ""

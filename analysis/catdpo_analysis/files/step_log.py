"""log.jsonl as it grows: a line a step, of which the last may be half written, and later ones cut off on a resume."""

import json
import os

LIMIT = 4 << 20  # bytes read of a log at first: its end. What lies before is in metrics.h5
ROWS = 20000  # kept, unless told otherwise


class StepLog:
    """`rows`: objects of ascending steps. `torn`: the text ends in the middle of a line. `spoilt`: lines that are no
    step, passed over."""

    def __init__(self, path, limit=LIMIT, keep=ROWS):
        self.path, self.limit, self.keep = path, limit, keep
        self._forget()

    def _forget(self):
        self.rows, self.torn, self.spoilt = [], False, 0
        self.file, self.end, self.last = None, 0, b""  # end: behind the last whole line, which was `last`

    @property
    def warning(self):
        """What the trainer says is wrong with the training as of its last step, with the step; "" if nothing."""
        text = self.rows[-1].get("warning") if self.rows else None
        return f"step {self.rows[-1]['step']}: {text}" if isinstance(text, str) else ""

    def poll(self):
        """Reads what is new; returns whether there was any. A log that cannot be read now keeps its rows; one that is
        gone has none."""
        try:
            with open(self.path, "rb") as file:  # opened anew each time: NFS looks at the server then
                return self._read(file)
        except FileNotFoundError:
            self._forget()
            return False
        except OSError:
            return False

    def _read(self, file):
        status = os.fstat(file.fileno())
        same = self.file == (status.st_dev, status.st_ino) and status.st_size >= self.end
        if same and self.last:
            file.seek(self.end - len(self.last))
            same = file.read(len(self.last)) == self.last
        if not same:  # replaced, or cut and grown again
            self._forget()
            self.file = status.st_dev, status.st_ino
            self.end = max(0, status.st_size - self.limit)
            file.seek(self.end)
            if self.end:
                self.end += len(file.readline())  # the rest of a line
        data = file.read(status.st_size - self.end) if same else file.read()
        whole, newline, rest = data.rpartition(b"\n")
        self.torn = bool(rest)
        if not newline:
            return False
        lines = whole.split(b"\n")
        for line in lines:
            self._add(line)
        self.end += len(whole) + 1
        self.last = lines[-1] + b"\n"
        return True

    def _add(self, line):
        try:
            row = json.loads(line.decode("utf-8", "replace"))
            step = int(row["step"])
        except (ValueError, KeyError, TypeError, OverflowError):
            self.spoilt += bool(line.strip())
            return
        while self.rows and self.rows[-1]["step"] >= step:  # a resumed run does these steps again
            self.rows.pop()
        row["step"] = step
        self.rows.append(row)
        if len(self.rows) > 2 * self.keep:
            del self.rows[: -self.keep]

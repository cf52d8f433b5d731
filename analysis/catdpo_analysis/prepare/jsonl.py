"""Rows of preference data: lines of JSON from plain or gzip'd files or pipes, or Parquet, each with its place.

A file is opened once and read from its start to its end, so that a pipe will do; what is recorded of it is counted on
the way.
"""

import gzip
import hashlib
import io
import json
import os
import sys
import zlib

from catdpo_analysis.errors import RowError, UserError, shorten
from catdpo_analysis.files.json_file import unique

FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zX": "an xz file",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x89HDF": "an HDF5 file",
}
UTF16 = (b"\xff\xfe", b"\xfe\xff")
PARQUET = b"PAR1"
ARRAY = "the file is one JSON array, not one object a line; write it as JSONL, e.g. jq -c '.[]' FILE > FILE.jsonl"


class Counted(io.RawIOBase):
    """The bytes of a stream, counted and digested as they are read."""

    def __init__(self, stream, *digests):
        self.stream, self.digests, self.bytes, self.start = stream, digests, 0, b""

    def readable(self):
        return True

    def peek(self, count):
        """The first bytes, which are read again."""
        while len(self.start) < count and (more := self.stream.read(count - len(self.start))):
            self.start += more
        return self.start[:count]

    def readinto(self, buffer):
        data = self.start[: len(buffer)] if self.start else self.stream.read(len(buffer))
        self.start = self.start[len(data) :]
        for digest in self.digests:
            digest.update(data)
        self.bytes += len(data)
        buffer[: len(data)] = data
        return len(data)


class Source:
    """One input: `rows()` reads it, `record` then says what was read."""

    def __init__(self, path, digest):
        """`path`: a file or a pipe, "-" for standard input. `digest`: takes all bytes, of one input after another."""
        self.path, self.name, self.digest, self.own = (
            path,
            "standard input" if path == "-" else path,
            digest,
            hashlib.sha256(),
        )
        self.record = None

    def rows(self, bad):
        """Yields (row, place, object): the row is the 0-based number of the line in the file, or of the row of a table.
        Empty lines are passed over; `bad(error, row)` is told of lines that are no JSON object."""
        try:
            stream = sys.stdin.buffer if self.path == "-" else open(self.path, "rb", buffering=0)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from None
        with stream:
            raw = Counted(stream, self.own, self.digest)
            try:
                start = raw.peek(4)
            except OSError as error:
                raise UserError(f"{self.path} cannot be read: {error.strerror}") from None
            file = io.BufferedReader(raw, 1 << 20)
            if start == PARQUET:
                yield from self._table(file)
            else:
                yield from self._lines(file, start, bad)
            while file.read(1 << 20):  # what a reader of the rows need not look at is part of the file too
                pass
        self.record = {"file": os.path.basename(self.name), "bytes": raw.bytes, "sha256": self.own.hexdigest()}

    def _lines(self, file, start, bad):
        for magic, kind in FOREIGN.items():
            if start.startswith(magic):
                raise UserError(f"{self.path} is {kind}, not JSONL; unpack it first (gzip is read as it is)")
        if start.startswith(UTF16):
            raise UserError(f"{self.path} is UTF-16; convert it: iconv -f utf-16 -t utf-8")
        packed = start[:2] == b"\x1f\x8b"
        if self.path.endswith(".gz") and start and not packed:
            raise UserError(
                f"{self.path} is not gzip'd although its name says so; name it .jsonl if it is plain text, or download "
                "it again"
            )
        seen = False
        lines = enumerate(gzip.GzipFile(fileobj=file) if packed else file)
        while True:
            try:
                row, line = next(lines)
            except StopIteration:
                break
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(f"{self.path} is damaged or cut short (gzip: {error}); download it again") from None
            line = line.removeprefix(b"\xef\xbb\xbf") if row == 0 else line
            if line.strip():
                seen = True
                place = f"{self.name}:{row + 1}"
                try:
                    value = parse_line(line, place, row)
                except RowError as error:
                    bad(error, row)
                else:
                    yield row, place, value
        if not seen:
            raise UserError(f"{self.name} is empty; it needs one JSON object a line")

    def _table(self, file):
        try:
            import pyarrow.parquet
        except ImportError:
            raise UserError(
                f"{self.path} is a Parquet file, not JSONL; install pyarrow to have it read (pip install pyarrow), or "
                "write "
                "it as JSONL first: pandas.read_parquet(f).to_json(out, orient='records', lines=True)"
            ) from None
        row = 0
        try:
            for batch in pyarrow.parquet.ParquetFile(io.BytesIO(file.read())).iter_batches(1024):
                for value in batch.to_pylist():
                    yield row, f"{self.name}:{row + 1}", value
                    row += 1
        except pyarrow.ArrowException as error:
            raise UserError(f"{self.path} is a Parquet file that cannot be read: {shorten(error, 160)}") from None
        if not row:
            raise UserError(f"{self.name} is empty; it needs rows")


def parse_line(line, place, row):
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=unique(place, RowError))
    except UnicodeDecodeError as error:
        raise RowError(
            f"{place}: not UTF-8 at byte {error.start} of the line; convert the file, e.g. iconv -f latin1 -t utf-8"
        ) from None
    except ValueError as error:
        if row == 0 and line.strip()[:1] == b"[":
            raise UserError(f"{place}: {ARRAY}") from None
        detail = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise RowError(
            f"{place}: not valid JSON ({detail}): {shorten(line[:400].decode('utf-8', 'replace'))}; mend or remove the "
            "line"
        ) from None
    except RecursionError:
        raise RowError(f"{place}: JSON nested too deeply; mend or remove the line") from None
    if isinstance(value, list) and row == 0:
        raise UserError(f"{place}: {ARRAY}")
    if not isinstance(value, dict):
        raise RowError(f"{place}: a JSON object is needed, not {shorten(json.dumps(value))}")
    return value

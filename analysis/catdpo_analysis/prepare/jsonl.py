"""Lines of JSON from plain or gzip'd files, each with its place for messages."""

import gzip
import hashlib
import json
import os
import zlib

from catdpo_analysis.errors import UserError, shorten

FOREIGN = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zX": "an xz file",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x89HDF": "an HDF5 file",
}
REMEDY = {
    "a Parquet file": "write it as JSONL first: pandas.read_parquet(f).to_json(out, orient='records', lines=True)"
}


def describe(path):
    """For the record of inputs: file name, size and sha256 of the bytes as they lie on disk."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"file": os.path.basename(path), "bytes": os.path.getsize(path), "sha256": digest.hexdigest()}


def read_rows(path):
    """Yields (row, object): the row is the line's 0-based number in the file. Empty lines are passed over."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    for magic, kind in FOREIGN.items():
        if start.startswith(magic):
            raise UserError(
                f"{path} is {kind}, not JSONL; {REMEDY.get(kind, 'unpack it first (gzip is read as it is)')}"
            )
    packed = start[:2] == b"\x1f\x8b"
    if path.endswith(".gz") and start and not packed:
        raise UserError(
            f"{path} is not gzip'd although its name says so; name it .jsonl if it is plain text, or download it again"
        )
    seen = False
    with gzip.open(path, "rb") if packed else open(path, "rb") as file:
        lines = enumerate(file)
        while True:
            try:
                row, line = next(lines)
            except StopIteration:
                break
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(f"{path} is damaged or cut short (gzip: {error}); download it again") from None
            line = line.removeprefix(b"\xef\xbb\xbf") if row == 0 else line
            if line.strip():
                seen = True
                yield row, parse_line(line, f"{path}:{row + 1}", row)
    if not seen:
        raise UserError(f"{path} is empty; it needs one JSON object a line")


def parse_line(line, place, row):
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: not UTF-8 at byte {error.start} of the line; convert the file, e.g. iconv -f latin1 -t utf-8"
        ) from None
    except ValueError as error:
        if row == 0 and line.strip()[:1] == b"[":
            raise UserError(
                f"{place}: the file is one JSON array, not one object a line; write it as JSONL, e.g. jq -c '.[]' FILE "
                "> FILE.jsonl"
            ) from None
        detail = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(
            f"{place}: not valid JSON ({detail}): {shorten(line[:400].decode('utf-8', 'replace'))}; mend or remove the line"
        ) from None
    except RecursionError:
        raise UserError(f"{place}: JSON nested too deeply; mend or remove the line") from None
    if isinstance(value, list) and row == 0:
        raise UserError(
            f"{place}: the file is one JSON array, not one object a line; write it as JSONL, e.g. jq -c '.[]' FILE > "
            "FILE.jsonl"
        )
    if not isinstance(value, dict):
        raise UserError(f"{place}: a JSON object is needed, not {shorten(json.dumps(value))}")
    return value

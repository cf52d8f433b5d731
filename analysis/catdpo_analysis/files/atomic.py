"""Files and folders that appear under their name once they are complete.

Each writer works under a name of its own (host, process, random) beside the final one and touches nobody else's: of two
tasks that write the same file the one that is done last wins, with a complete file.
"""

import contextlib
import errno
import os
import secrets
import shutil
import socket

from catdpo_analysis.errors import UserError

LONGEST = 255  # bytes of a file's name
TRIES = 100  # to put a folder in the place of one that another task put there meanwhile


def own_name(path, ending=".tmp"):
    """A name beside `path` that no other process takes."""
    folder, name = os.path.split(path)
    host = socket.gethostname().split(".")[0][:32]
    tail = f".{host}-{os.getpid()}-{secrets.token_hex(4)}{ending}"
    kept = name.encode("utf-8", "surrogateescape")[: LONGEST - len(tail.encode())]
    return os.path.join(folder, kept.decode("utf-8", "ignore") + tail)


def _flush(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_parent(path):
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder} to write {os.path.basename(path)} into; make it first")
    if not os.access(folder, os.W_OK):
        raise UserError(f"the folder of {path} is not writable; name another output")
    return folder


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`; on success it is flushed to disk and renamed, otherwise removed."""
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; name a file to write")
    folder, temporary = _check_parent(path), own_name(path)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


@contextlib.contextmanager
def new_folder(path):
    """Yields a temporary folder beside `path`, which must not exist or be empty; on success it gets that name."""
    path = os.path.abspath(path)
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise UserError(f"{path} exists already; name a new folder, or remove it first")
    parent, temporary = _check_parent(path), own_name(path)
    os.mkdir(temporary)
    try:
        yield temporary
        for name in os.listdir(temporary):
            _flush(os.path.join(temporary, name))
        _flush(temporary)
        _put_folder(temporary, path)
        _flush(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_folder(temporary, path):
    """Renames; a folder that another task has put there since is moved away first, since a rename replaces only an
    empty one."""
    for _ in range(TRIES):
        try:
            return os.rename(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        aside = own_name(path, ".old")
        with contextlib.suppress(FileNotFoundError):  # another task was faster
            os.rename(path, aside)
        shutil.rmtree(aside, ignore_errors=True)
    raise UserError(f"{path} is written by other tasks again and again; name another folder")

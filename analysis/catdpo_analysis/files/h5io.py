"""HDF5 conventions shared by all files: fixed-length UTF-8 strings, formats, described datasets."""

import contextlib
import datetime
import os

import h5py
import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.atomic import atomic_path
from catdpo_analysis.files.seal import seal
from catdpo_analysis.text.version import creator

VERSIONS = {"catdpo-checkpoint": 2, "catdpo-metrics": 2}  # not the first; older ones are read
ATTRIBUTE_LIMIT = 60000  # bytes; HDF5 keeps attributes of up to 64 KiB in the object header


def refuse_overwrite(out, inputs):
    """An output must not be one of the files that are read."""
    for path in inputs:
        if os.path.exists(out) and os.path.exists(path) and os.path.samefile(out, path):
            raise UserError(f"{out} is an input as well; name another output")


@contextlib.contextmanager
def create(path, format_name):
    """A new HDF5 file of the given format, complete under its name once the block ends. It is nobody else's until
    then, so no lock is asked for: many shared file systems know none."""
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w", locking=False) as file:
            set_text(file, "format", format_name)
            file.attrs.create("format_version", VERSIONS.get(format_name, 1), dtype="<i8")
            set_text(file, "creator", creator())
            set_text(file, "created", datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"))
            yield file
        seal(temporary)


@contextlib.contextmanager
def open_as(path, *formats):
    """An existing file of one of `formats`, open for reading; anything else is refused by name, and so is damage
    found while reading. A file under its final name is complete and is only ever replaced; a lock keeps the trainer
    from using a replaced metrics.h5 again for as long as it is open here, but many shared file systems know no
    locks."""
    if os.path.isdir(path):
        final = os.path.join(path, "checkpoints", "final.h5")
        hint = f": name a file in it, such as {final}" if os.path.isfile(final) else ""
        raise UserError(f"{path} is a folder, not a file{hint}")
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path}")
    try:
        try:
            file = h5py.File(path, "r", locking=True)
        except OSError:
            file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read as HDF5 (wrong kind of file, or cut short): {shorten(error, 160)}"
        ) from None
    try:
        with file:
            found = text(file, "format", "")
            if found not in formats:
                kind = f'is of format "{shorten(found)}"' if found else "is an HDF5 file without a catdpo format"
                raise UserError(f"{path} {kind}; expected {' or '.join(formats)}")
            version = int(file.attrs.get("format_version", 0))
            newest = VERSIONS.get(found, 1)
            if not 1 <= version <= newest:
                raise UserError(f"{path} has format version {version}; this program reads up to {newest}")
            yield file
    except (KeyError, RuntimeError, TypeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of an output, not of HDF5
        raise UserError(f"{path} is damaged or incomplete: {shorten(error, 160)}") from None


def set_text(where, name, value):
    """A fixed-length UTF-8 string attribute; a text too long for one becomes variable-length."""
    data = value.encode("utf-8")
    if len(data) > ATTRIBUTE_LIMIT:
        where.attrs.create(name, value, dtype=h5py.string_dtype("utf-8"))
    else:
        where.attrs.create(name, np.array(data, dtype=h5py.string_dtype("utf-8", max(len(data), 1))))


def text(where, name, default=None):
    """A string attribute of either kind as str."""
    value = where.attrs.get(name, default)
    return value.decode("utf-8") if isinstance(value, bytes) else value


def fixed_strings(values):
    """A numpy array of fixed-length UTF-8 strings, as wide as the longest."""
    data = [value.encode("utf-8") for value in values]
    width = max([len(value) for value in data] + [1])
    return np.array(data, dtype=h5py.string_dtype("utf-8", width))


def write(where, name, data, description, units="1", **kwargs):
    """A dataset with its `description` and `units` attributes."""
    dataset = where.create_dataset(name, data=data, **kwargs)
    set_text(dataset, "description", description)
    set_text(dataset, "units", units)
    return dataset


def strings(dataset):
    """All strings of a dataset as a list of str."""
    return [str(value) for value in dataset.asstr()[...]]


def label(dataset, *names):
    """Names the axes of a dataset."""
    for axis, name in enumerate(names):
        dataset.dims[axis].label = name

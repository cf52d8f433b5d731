"""Files and folders appear complete or not at all, also where several tasks write the same one, and on file systems
without locks."""

import os
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
from conftest import ROOT, write_model

from catdpo_analysis.errors import UserError
from catdpo_analysis.files import h5io
from catdpo_analysis.files.atomic import LONGEST, atomic_path, new_folder, own_name

NO_LOCKS = """
#include <errno.h>
#include <stdlib.h>
#include <sys/file.h>
int flock(int handle, int operation) { (void)handle, (void)operation; errno = atoi(getenv("ERRNO")); return -1; }
"""


def left(folder):
    """Files that a writer should have taken away."""
    return [name for name in os.listdir(folder) if name.endswith((".tmp", ".old"))]


@pytest.mark.parametrize("first, last", [("a", "b"), ("b", "a")])
def test_of_two_writers_of_a_file_the_last_one_wins_with_a_whole_file(tmp_path, first, last):
    path = tmp_path / "shared.h5"
    writers = {name: h5io.create(str(path), "catdpo-model") for name in ("a", "b")}
    files = {name: writer.__enter__() for name, writer in writers.items()}
    for name, file in files.items():
        file["x"] = np.full(5000, ord(name))
    for name in (first, last):
        writers[name].__exit__(None, None, None)
        with h5io.open_as(str(path), "catdpo-model") as file:
            assert (file["x"][...] == ord(name)).all()
    assert not left(tmp_path)


def test_a_writer_that_fails_leaves_the_others_file_alone(tmp_path):
    path = str(tmp_path / "shared.txt")
    with atomic_path(path) as mine:
        with pytest.raises(RuntimeError), atomic_path(path) as other:
            open(other, "w").close()
            raise RuntimeError
        with open(mine, "w") as file:
            file.write("whole")
    assert open(path).read() == "whole" and not left(tmp_path)


def test_of_two_exports_to_a_folder_the_last_one_wins_with_a_whole_folder(tmp_path):
    path = str(tmp_path / "out")

    def write(folder, name):
        for i in range(3):
            with open(os.path.join(folder, f"{name}{i}"), "w") as file:
                file.write(name)

    with new_folder(path) as slow:
        with new_folder(path) as fast:
            write(fast, "fast")
        assert sorted(os.listdir(path)) == ["fast0", "fast1", "fast2"]
        write(slow, "slow")
    assert sorted(os.listdir(path)) == ["slow0", "slow1", "slow2"] and not left(tmp_path)
    with pytest.raises(UserError, match="exists already"), new_folder(path):
        pass
    assert len(os.listdir(path)) == 3


def test_many_exports_at_once_leave_one_whole_folder(tmp_path):
    path, gate, done = str(tmp_path / "out"), threading.Barrier(4), []

    def export(name):
        with new_folder(path) as folder:
            for i in range(5):
                open(os.path.join(folder, f"{name}{i}"), "w").close()
            gate.wait()
        done.append(name)

    tasks = [threading.Thread(target=export, args=(name,)) for name in "abcd"]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    names = sorted(os.listdir(path))
    assert (
        sorted(done) == list("abcd")
        and len(names) == 5
        and len({name[0] for name in names}) == 1
        and not left(tmp_path)
    )


def test_two_imports_at_once_end_well_with_one_of_the_models(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write_model(tmp_path / name, seed=seed, num_hidden_layers=40, intermediate_size=400)
    command = [sys.executable, "-m", "catdpo_analysis", "import", "--out", str(tmp_path / "shared.h5")]
    environment = os.environ | {"PYTHONPATH": os.path.join(ROOT, "analysis")}
    tasks = []
    for name in ("a", "b", "a"):
        tasks.append(subprocess.Popen([*command, str(tmp_path / name)], env=environment, stdout=subprocess.PIPE))
        time.sleep(0.1)
    printed = [task.communicate()[0].decode() for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0] and not left(tmp_path)
    with h5io.open_as(str(tmp_path / "shared.h5"), "catdpo-model") as file:
        digest = h5io.text(file["model"], "weights_digest")
    assert any(f"weights digest {digest}" in text for text in printed)
    check = os.environ.get("CATDPO_BINARY")
    if check:  # the trainer's own check: seal, checksums, digest
        subprocess.run([check, "check", str(tmp_path / "shared.h5")], check=True, stdout=subprocess.PIPE)


def test_the_longest_name_that_a_file_may_have_can_be_written(tmp_path):
    for name in ("m" * LONGEST, "ä" * (LONGEST // 2)):
        assert len(os.path.basename(own_name(name)).encode()) <= LONGEST
        with atomic_path(str(tmp_path / name)) as temporary:
            open(temporary, "w").close()
        assert os.listdir(tmp_path) == [name]
        os.remove(tmp_path / name)


@pytest.mark.parametrize("number", [37, 38, 95], ids=["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_written_to(tmp_path, number):
    (tmp_path / "nolock.c").write_text(NO_LOCKS)
    shim = str(tmp_path / "nolock.so")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, str(tmp_path / "nolock.c")], check=True)
    except FileNotFoundError:
        pytest.skip("no C compiler (cc) to take the locks away with")
    write_model(tmp_path / "hf")
    environment = {name: value for name, value in os.environ.items() if name != "HDF5_USE_FILE_LOCKING"}
    environment |= {"PYTHONPATH": os.path.join(ROOT, "analysis"), "LD_PRELOAD": shim, "ERRNO": str(number)}
    default = f"import h5py; h5py.File({str(tmp_path / 'locked.h5')!r}, 'w')"
    assert (
        subprocess.run([sys.executable, "-c", default], env=environment, stderr=subprocess.PIPE).returncode == 0
    ) == (
        number == 38  # HDF5 passes over it
    )
    command = [sys.executable, "-m", "catdpo_analysis", "import", str(tmp_path / "hf"), "--out", str(tmp_path / "m.h5")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "m.h5") as file:
        assert "model" in file

"""The program as its users start it: runs under MPI, kept for all tests that ask for the same one, and the files that
they read and write.

    run = engine.train(ranks=2, **{"parallel.grid": [2, 1], "schedule.steps": 5})
    run.status, run.errors, run.metrics()["train/loss"], run.weights()

A run is known by what it was asked for: tests that ask for the same one share it. `prefetch` starts several at once.
"""

import atexit
import concurrent.futures
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import h5py
import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.path.abspath(os.environ.get("CATDPO_BINARY", os.path.join(ROOT, "build", "catdpo")))
# loaded before a run's own libraries: what it sends is counted; its steps take longer
COUNTER, PACE = (
    os.path.join(os.path.dirname(BINARY), "tests", "mpi", f"{name}.so") for name in ("count_messages", "pace")
)
# the environment of the program without mpirun.sh
ALONE = {"OPENBLAS_NUM_THREADS": "1", "LD_PRELOAD": os.environ.get("CATDPO_PRELOAD", "")}
MPIRUN = os.path.join(ROOT, "tests", "mpi", "mpirun.sh")  # which takes the launcher itself from $MPIRUN
OPEN_MPI = not re.search("mpich|hydra", os.environ.get("MPIRUN", "mpirun"))
only_open_mpi = pytest.mark.skipif(not OPEN_MPI, reason="about Open MPI, and this is another MPI")
REFERENCE = os.path.join(ROOT, "tests", "reference")
sys.path.insert(0, REFERENCE)
import catdpo_h5  # noqa: E402  (the file formats, written independently of the program and of analysis/)

needs_binary = pytest.mark.skipif(
    not os.access(BINARY, os.X_OK), reason=f"{BINARY} is not built: bash tests/run.sh builds it"
)

TIMEOUT = 60             # seconds until a run counts as hanging
CORES_LENT = 6           # ranks that run at the same time, over all runs

PAIRS = os.path.join(REFERENCE, "tiny_pairs.h5")
MODELS = [
    "tiny_llama",
    "tiny_llama_linear",
    "tiny_llama3_tied",
    "tiny_qwen2_tied",
    "tiny_qwen2",
    "tiny_qwen3",
    "tiny_mistral",
    "tiny_gemma3",
    "tiny_olmo2",
]

DEFAULTS = {
    "run.progress": "off",
    "data.path": PAIRS,
    "model.path": os.path.join(REFERENCE, "tiny_llama.h5"),
    "batch.pairs": 6,
    "parallel.grid": [1, 1],
    "optimizer.learning_rate": 0.01,
    "schedule.type": "constant",
    "schedule.warmup": 0.0,
    "schedule.steps": 5,
}


def fixture(name):
    return os.path.join(REFERENCE, f"{name}.h5")


# ---- folders --------------------------------------------------------------------------------------------------------

_root = None
_lock = threading.RLock()
_count = 0


def new_folder(label="run"):
    """A folder of its own below one that goes when the tests end."""
    global _root, _count
    with _lock:
        if _root is None:
            _root = tempfile.mkdtemp(prefix="catdpo-tests-")
            atexit.register(shutil.rmtree, _root, ignore_errors=True)
        _count += 1
        folder = os.path.join(_root, f"{_count:03d}-{label}")
    os.mkdir(folder)
    return folder


def leftovers(folder):
    """Files that were not finished."""
    return [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names if name.endswith(".tmp")]


# ---- configs --------------------------------------------------------------------------------------------------------

def _value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (str, list)) else repr(value)


def config_text(settings):
    groups = {}
    for key, value in settings.items():
        group, name = key.split(".")
        groups.setdefault(group, []).append(f"    {name} = {_value(value)};\n")
    return "".join(f"{group}: {{\n{''.join(lines)}}};\n" for group, lines in groups.items())


# ---- runs -----------------------------------------------------------------------------------------------------------

class Run:
    """What one start of the program left behind."""

    def __init__(self, folder, directory, status, statuses, out, err, hung):
        self.folder = folder                # everything of this run
        self.directory = directory          # run.dir
        self.status, self.statuses = status, statuses   # of mpirun; of each rank
        self.out, self.err, self.hung = out, err, hung

    def __repr__(self):
        return f"Run(status={self.status}, ranks={self.statuses}, hung={self.hung})\n{self.out}\n{self.err}"

    @property
    def errors(self):
        return [line for line in self.err.splitlines() if line.startswith("catdpo:")]

    def path(self, name):
        return os.path.join(self.directory, name)

    def read(self, name):
        return read(self.path(name))

    def metrics(self):
        return self.read("metrics.h5")

    def checkpoint(self):
        return self.read("checkpoints/final.h5")

    def weights(self, group="model"):
        """{path below /model: array} of the final checkpoint."""
        return below(self.checkpoint(), group)


def read(path):
    """{path of dataset: array} of a whole file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return found


def below(datasets, group):
    return {name[len(group) + 1:]: values for name, values in datasets.items() if name.startswith(group + "/")}


def attributes(path, group="/"):
    """Attributes of an object, text as str."""
    with h5py.File(path) as file:
        return {
            name: value.decode() if isinstance(value, bytes) else value for name, value in file[group].attrs.items()
        }


_gate = threading.Condition()
_running = 0


def _enter(ranks):
    global _running
    with _gate:
        _gate.wait_for(lambda: _running == 0 or _running + ranks <= CORES_LENT)
        _running += ranks


def _leave(ranks):
    global _running
    with _gate:
        _running -= ranks
        _gate.notify_all()


# each rank's own exit status
_RANK = '"$@"; status=$?; echo $status >"$CATDPO_TEST_STATUS.${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}"; exit $status'


def start(arguments, ranks, folder, timeout=TIMEOUT, directory=None, apart=True):
    """mpirun -n RANKS catdpo ARGUMENTS, until it ends or `timeout` is over. `apart`: every rank ends by itself;
    otherwise, as Open MPI has it for users, one that fails ends the others, which would hide that they hang. Only then
    is mpirun's own status that of a rank."""
    marks = os.path.join(folder, "status")
    environment = dict(os.environ, CATDPO_TEST_STATUS=marks, CATDPO_APART="1" if apart else "")
    _enter(ranks)
    try:
        process = subprocess.Popen(
            ["sh", MPIRUN, str(ranks), "sh", "-c", _RANK, "sh", BINARY, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        hung = False
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            hung = True
            os.killpg(process.pid, signal.SIGTERM)  # mpirun ends its ranks
            try:
                out, err = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
    finally:
        _leave(ranks)
    statuses = []
    for rank in range(ranks):
        mark = f"{marks}.{rank}"
        statuses.append(int(open(mark).read()) if os.path.exists(mark) else None)
        if os.path.exists(mark):
            os.remove(mark)
    return Run(folder, directory or folder, process.returncode, statuses, out, err, hung)


def launch(command, ranks=1, options=(), label=None, **settings):
    """A new run, shared with nobody: the defaults above with `settings` (keys with dots), in a folder of its own unless
    run.dir is given."""
    folder = new_folder(label or command)
    settings = {"run.dir": os.path.join(folder, "run"), **DEFAULTS, **settings}
    config = os.path.join(folder, "run.cfg")
    with open(config, "w") as file:
        file.write(config_text({key: value for key, value in settings.items() if value is not None}))
    return start([command, config, *options], ranks, folder, directory=settings["run.dir"])


_kept = {}
_pool = concurrent.futures.ThreadPoolExecutor(max_workers=CORES_LENT)


def _future(command, ranks, options, settings):
    key = json.dumps([command, ranks, list(options), settings], sort_keys=True)
    with _lock:
        if key not in _kept:
            _kept[key] = _pool.submit(launch, command, ranks, tuple(options), **settings)
        return _kept[key]


def submit(function, *arguments):
    """Call a function that starts runs while others go on: a future of its result."""
    return _pool.submit(function, *arguments)


def prefetch(specifications):
    """Start runs of train, given as (ranks, settings), that tests will ask for."""
    for ranks, settings in specifications:
        _future("train", ranks, (), settings)


def run(command, ranks=1, options=(), **settings):
    """The run of these settings, whatever became of it."""
    return _future(command, ranks, options, settings).result()


def succeed(result):
    assert result.status == 0 and set(result.statuses) == {0} and not result.errors, repr(result)
    return result


def train(ranks=1, **settings):
    """A run of train that must have ended well."""
    return succeed(run("train", ranks, **settings))


def evaluate(ranks=1, options=(), **settings):
    return succeed(run("eval", ranks, options, **settings))


# ---- files to start from --------------------------------------------------------------------------------------------

def copy(source, change, name="changed.h5"):
    """A copy of a file, changed by change(h5py.File)."""
    target = os.path.join(new_folder("file"), name)
    shutil.copy(source, target)
    os.chmod(target, 0o644)
    with h5py.File(target, "r+") as file:
        change(file)
    return target


def set_text(item, name, value):
    catdpo_h5.set_attributes(item, **{name: value})


def hugging_face_name(path):
    return ("" if path.startswith("lm_head") else "model.") + path.replace("/", ".")


def seal(file):
    """Checksums and digest of /model as its weights are now."""
    checksums = {}
    for path in tensors(file["model"]):
        item = file["model"][path]
        checksums[hugging_face_name(path)] = item.attrs["checksum"] = catdpo_h5.checksum(item[()])
    set_text(file["model"], "weights_digest", catdpo_h5.weights_digest(checksums))


def tensors(group):
    """Paths of all datasets below a group."""
    paths = []
    group.visititems(lambda name, item: paths.append(name) if isinstance(item, h5py.Dataset) else None)
    return paths


def change_model(change, source=fixture("tiny_llama"), sealed=True):
    """A copy of a model after change(file["model"]), with the checksums that its weights have then."""
    def both(file):
        change(file["model"])
        if sealed:
            seal(file)
    return copy(source, both, "model.h5")


@functools.cache
def other_model(source=fixture("tiny_llama"), size=0.2, seed=7):
    """The same architecture with somewhat different weights."""
    def shake(model):
        random = np.random.default_rng(seed)
        for path in tensors(model):
            values = model[path][()]
            model[path][...] = values * (1 + size * random.standard_normal(values.shape)).astype("f4")
    return change_model(shake, source)


def pairs_of(file, split="train"):
    """One split of a pairs file as arrays, and the lengths of its completions."""
    with h5py.File(file) as opened:
        group = opened[split]
        data = {name: group[name][()] for name in ("category_mask", "chosen_safe", "rejected_safe")}
        for side in ("chosen", "rejected"):
            data[f"{side}_tokens"] = np.diff(group[f"{side}/offsets"][()]) - group[f"{side}/prompt_length"][()]
            data[f"{side}_length"] = np.diff(group[f"{side}/offsets"][()])
    data["applies"] = (data["chosen_safe"] == 1) & (data["rejected_safe"] == 0)
    return data

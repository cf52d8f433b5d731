"""A user's mistake, a damaged file or a broken number: one line that says what and where, the documented status on
every rank, no hang, nothing half-written. Each on two ranks, unless it is about their number.
"""

import os

import engine
import h5py
import numpy as np
import pytest

pytestmark = engine.needs_binary

USAGE, FAULT = 2, 1      # as `catdpo --help` has them
MODEL, PAIRS = engine.DEFAULTS["model.path"], engine.PAIRS
Q = "layers/1/self_attn/q_proj/weight"
RUN_AWAY = "training that runs away"
SETTINGS = {"parallel.replicas": 2, "schedule.steps": 2}
UNSEEMLY = (
    "internal error",
    "MPI_ABORT",
    "Signal:",
    "Segmentation",
    "HDF5-DIAG",
    "Traceback",
    "Assertion",
    "Sanitizer",
    "runtime error:",
)


class Case:
    """What to start, the status that it ends with, and what the message has to name."""

    def __init__(self, status, *words, command="train", ranks=2, options=(), config=None, missing=None, **settings):
        self.status, self.words, self.command, self.ranks, self.options = status, words, command, ranks, options
        self.config = config                # text instead of settings
        self.missing = missing              # name of a config that is not there
        self.settings = settings


# ---- files that are not what they should be -------------------------------------------------------------------------

def plain_file(text="this is not HDF5\n" * 100):
    path = os.path.join(engine.new_folder("file"), "plain.h5")
    with open(path, "w") as file:
        file.write(text)
    return path


def folder_called(name):
    path = os.path.join(engine.new_folder("folder"), name)
    os.makedirs(path)
    return path


def truncated(source, keep):
    path = os.path.join(engine.new_folder("file"), "short.h5")
    with open(source, "rb") as file, open(path, "wb") as cut:
        cut.write(file.read()[:int(os.path.getsize(source) * keep)])
    return path


def foreign():
    path = os.path.join(engine.new_folder("file"), "foreign.h5")
    with h5py.File(path, "w") as file:
        file["something/else"] = np.arange(10)
    return path


def metrics():
    return engine.train(1, **{"schedule.steps": 1}).path("metrics.h5")


def model(change, sealed=False):
    return {"model.path": engine.change_model(change, sealed=sealed)}


def pairs(change):
    return {"data.path": engine.copy(PAIRS, change, "pairs.h5")}


def replace(group, name, values):
    attributes = dict(group[name].attrs)
    del group[name]
    group[name] = values
    for key, value in attributes.items():
        group[name].attrs[key] = value


def set_at(name, index, value):
    def change(file):
        file[name][index] = value
    return change


def without_pairs(split):
    def change(file):
        group = file[split]
        engine.catdpo_h5.set_attributes(group, pairs=0)
        for side in ("chosen", "rejected"):
            for name, values in (
                ("tokens", np.zeros(0, "i4")),
                ("offsets", np.zeros(1, "i8")),
                ("prompt_length", np.zeros(0, "i4")),
            ):
                replace(group, f"{side}/{name}", values)
        for name in (
            "category_mask",
            "chosen_safe",
            "rejected_safe",
            "chosen_better",
            "source_file",
            "source_row",
            "swapped",
        ):
            replace(group, name, group[name][:0])
    return pairs(change)


def nothing_unsafe(file):
    """Preferences whose sides nobody judged, as TRL's format has them."""
    for split in ("train", "heldout"):
        file[split]["rejected_safe"][...] = 255
    file["categories/harm"][...] = 0


def flip_a_bit(group):
    bits = group[Q][()].view("u4")
    bits[2, 7] ^= 1
    group[Q][...] = bits.view("f4")


def enlarge(group):
    for path, size in (("lm_head/weight", 1e30), ("norm/weight", 1e10)):
        group[path][...] = group[path][()] * size


# ---- the cases ------------------------------------------------------------------------------------------------------

CONFIG = {
    "unknown key": lambda: Case(USAGE, "margin.initail", "margin.initial", options=("--set", "margin.initail=1")),
    "unknown key in the file": lambda: Case(USAGE, "bath", "batch", "run.cfg:1", config="bath: { pairs = 3; };\n"),
    "ill-typed key": lambda: Case(USAGE, "batch.pairs", "run.cfg", **{"batch.pairs": "many"}),
    "ill-typed key by --set": lambda: Case(USAGE, "margin.soft", options=("--set", "margin.soft=7")),
    "value out of bounds": lambda: Case(USAGE, "margin.target", "1.5", **{"margin.target": 1.5}),
    "unknown choice": lambda: Case(USAGE, "objective.type", "dpoo", "safedpo", **{"objective.type": "dpoo"}),
    "keys that contradict each other": lambda: Case(
        USAGE, "margin.initial", "dpo", **{"objective.type": "dpo", "margin.initial": 2.0}
    ),
    "broken syntax": lambda: Case(USAGE, "run.cfg:2", config="run: { seed = 1; };\nbatch: { pairs = ; };\n"),
    "config missing": lambda: Case(USAGE, "nowhere.cfg", missing="nowhere.cfg"),
    "required key missing": lambda: Case(USAGE, "model.path", **{"model.path": None}),
    "unknown option": lambda: Case(USAGE, "--ovrwrite", "--overwrite", options=("--ovrwrite",)),
    "unknown command": lambda: Case(USAGE, "tran", "train", command="tran"),
    "wrong number of ranks": lambda: Case(
        USAGE, "3 x 1", "2 were started", **{"parallel.grid": [3, 1], "parallel.replicas": 1}
    ),
    "replicas that do not divide the ranks": lambda: Case(
        USAGE, "parallel.replicas", "3", "2 ranks", **{"parallel.replicas": 3, "parallel.grid": "auto"}
    ),
}
FILES = {
    "model missing": lambda: Case(USAGE, "nowhere.h5", "No such file", **{"model.path": "nowhere.h5"}),
    "pairs missing": lambda: Case(USAGE, "nowhere.h5", "No such file", **{"data.path": "nowhere.h5"}),
    "folder as model": lambda: Case(USAGE, "not a regular file", **{"model.path": engine.REFERENCE}),
    "model truncated": lambda: Case(USAGE, "short.h5", "truncated", **{"model.path": truncated(MODEL, 0.6)}),
    "model without its last bytes": lambda: Case(
        USAGE, "short.h5", "truncated", **{"model.path": truncated(MODEL, 0.999)}
    ),
    "pairs truncated": lambda: Case(USAGE, "short.h5", "truncated", **{"data.path": truncated(PAIRS, 0.5)}),
    "text as model": lambda: Case(USAGE, "plain.h5", "not an HDF5 file", **{"model.path": plain_file()}),
    "text as pairs": lambda: Case(USAGE, "plain.h5", "not an HDF5 file", **{"data.path": plain_file()}),
    "empty file as pairs": lambda: Case(USAGE, "plain.h5", "not an HDF5 file", **{"data.path": plain_file("")}),
    "text as reference cache": lambda: Case(USAGE, "plain.h5", "not an HDF5 file", **{"reference.cache": plain_file()}),
    "foreign HDF5 as model": lambda: Case(USAGE, "foreign.h5", "catdpo-model", **{"model.path": foreign()}),
    "foreign HDF5 as pairs": lambda: Case(USAGE, "foreign.h5", "catdpo-pairs", **{"data.path": foreign()}),
    "pairs as model": lambda: Case(USAGE, "tiny_pairs.h5", "catdpo-pairs", "catdpo-model", **{"model.path": PAIRS}),
    "metrics as pairs": lambda: Case(USAGE, "metrics.h5", "catdpo-metrics", "catdpo-pairs", **{"data.path": metrics()}),
    "metrics as reference cache": lambda: Case(
        USAGE, "metrics.h5", "catdpo-reference", **{"reference.cache": metrics()}
    ),
    "model of a newer format": lambda: Case(
        USAGE,
        "model.h5",
        "version 99",
        **{
            "model.path": engine.copy(
                MODEL, lambda file: engine.catdpo_h5.set_attributes(file, format_version=99), "model.h5"
            )
        },
    ),
    "unsupported architecture": lambda: Case(
        USAGE, "model.h5", "gemma", **model(lambda m: engine.set_text(m, "architecture", "gemma"))
    ),
    "offsets beyond the tokens": lambda: Case(
        USAGE, "pairs.h5", "chosen/offsets", **pairs(set_at("train/chosen/offsets", 3, 10**6))
    ),
    "token beyond the vocabulary": lambda: Case(
        USAGE, "rejected/tokens", "97", **pairs(set_at("train/rejected/tokens", 5, 97))
    ),
    "pair without a category": lambda: Case(USAGE, "pair 4", "category", **pairs(set_at("train/category_mask", 4, 0))),
    "tensor missing": lambda: Case(USAGE, "model.h5", "q_proj", **model(lambda m: m.__delitem__(Q))),
    "tensor of another shape": lambda: Case(
        USAGE, "model.h5", "q_proj", **model(lambda m: replace(m, Q, np.zeros((48, 13), "f4")))
    ),
    "tensor of another type": lambda: Case(
        USAGE, "model.h5", "q_proj", **model(lambda m: replace(m, Q, np.zeros((48, 12), "f8")))
    ),
}
FIT = {
    "another tokenizer": lambda: Case(
        USAGE,
        "tokenizer",
        "tiny_pairs.h5",
        "model.h5",
        **model(lambda m: engine.set_text(m, "tokenizer_digest", "0123")),
    ),
    "more tokens than the vocabulary": lambda: Case(
        USAGE,
        "98 tokens",
        "vocabulary of 97",
        **pairs(lambda file: engine.catdpo_h5.set_attributes(file, vocab_size=98)),
    ),
    "no training pairs": lambda: Case(USAGE, "training pairs", "pairs.h5", **without_pairs("train")),
    "margins without a pair under them": lambda: Case(
        USAGE, "no pair under a margin", "catdpo", "--assume-unsafe-rejected", "dpo", **pairs(nothing_unsafe)
    ),
    "a fixed margin without a pair under it": lambda: Case(
        USAGE,
        "no pair under a margin",
        "safedpo",
        **pairs(nothing_unsafe),
        **{"objective.type": "safedpo", "margin.initial": 5.0},
    ),
    "no held-out pairs": lambda: Case(USAGE, "/heldout", "pairs.h5", command="eval", **without_pairs("heldout")),
    "no such split": lambda: Case(USAGE, "validation", command="eval", **{"data.heldout": "validation"}),
    "checkpoint of another shape to evaluate": lambda: Case(
        USAGE, "architecture", "same shape", command="eval", options=("--model", engine.fixture("tiny_qwen3"))
    ),
}
NUMBERS = {
    "NaN in the weights": lambda: Case(USAGE, "model.h5", "q_proj", "NaN", **model(set_at(Q, (3, 5), np.nan), True)),
    "infinity in the weights": lambda: Case(
        USAGE, "model.h5", "q_proj", "infinite", **model(set_at(Q, (3, 5), -np.inf), True)
    ),
    "NaN in the weights to evaluate": lambda: Case(
        USAGE, "model.h5", "q_proj", "NaN", command="eval", **model(set_at(Q, (3, 5), np.nan), True)
    ),
    "one bit of a weight": lambda: Case(USAGE, "model.h5", "q_proj", "checksum", **model(flip_a_bit)),
    "another digest": lambda: Case(
        USAGE, "model.h5", "digest", **model(lambda m: engine.set_text(m, "weights_digest", "0" * 16))
    ),
    "weights beyond float32": lambda: Case(FAULT, "not a finite number", **model(enlarge, True)),
    RUN_AWAY: lambda: Case(
        FAULT, "step 2", "optimizer.learning_rate", **{"optimizer.learning_rate": 1e30, "schedule.steps": 4}
    ),
}
OUTPUT = {
    "run directory below a file": lambda: Case(
        USAGE, "run.dir", "Not a directory", **{"run.dir": plain_file() + "/run"}
    ),
    "cache below a file": lambda: Case(
        USAGE, "plain.h5/reference.h5", **{"reference.cache": plain_file() + "/reference.h5"}
    ),
    "results below a file": lambda: Case(
        USAGE, "plain.h5/eval.h5", command="eval", options=("--out", plain_file() + "/eval.h5")
    ),
    "results in a folder that is not there": lambda: Case(
        USAGE, "nowhere/eval.h5", command="eval", options=("--out", engine.new_folder() + "/nowhere/eval.h5")
    ),
    "results in the place of a folder": lambda: Case(
        USAGE, "eval.h5 is a folder", command="eval", options=("--out", folder_called("eval.h5"))
    ),
    "checkpoint in the place of a folder": lambda: Case(
        FAULT,
        "cannot rename",
        "final.h5",
        **{"run.dir": os.path.dirname(os.path.dirname(folder_called("checkpoints/final.h5")))},
    ),
}
CASES = {**CONFIG, **FILES, **FIT, **NUMBERS, **OUTPUT}


def refuse(case, apart=True):
    folder = engine.new_folder("refused")
    settings = {**engine.DEFAULTS, "run.dir": os.path.join(folder, "run"), **SETTINGS, **case.settings}
    config = os.path.join(folder, case.missing or "run.cfg")
    if not case.missing:
        with open(config, "w") as file:
            file.write(
                case.config or engine.config_text({key: value for key, value in settings.items() if value is not None})
            )
    return case, engine.start([case.command, config, *case.options], case.ranks, folder, directory=settings["run.dir"],
                              apart=apart)


@pytest.fixture(scope="module")
def refused(request):
    """Futures of the cases that the tests of this session ask for."""
    asked = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")} | {
        RUN_AWAY
    }
    return {name: engine.submit(refuse, make()) for name, make in CASES.items() if name in asked}


def files(directory):
    return sorted(
        os.path.relpath(os.path.join(where, name), directory)
        for where, _, names in os.walk(directory)
        for name in names
    )


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line(refused, name):
    """Config, files, what does not fit together, numbers and output: one line on stderr that starts with "catdpo:" and
    names the culprit, the documented status on every rank, no hang, no backtrace, nothing half-written."""
    case, run = refused[name].result()
    assert not run.hung, repr(run)
    assert run.statuses == [case.status] * case.ranks, repr(run)
    assert len(run.errors) == 1, repr(run)
    for word in case.words:
        assert word in run.errors[0], run.errors[0]
    assert not any(word in run.err for word in UNSEEMLY), run.err
    assert run.out == "" or name.startswith("results")
    assert not engine.leftovers(run.folder) and not engine.leftovers(run.directory) and not any(
        engine.leftovers(os.path.dirname(path)) for path in case.options if path.endswith(".h5"))
    left = files(run.directory)
    for path in left:
        if path.endswith(".h5"):  # under its final name a file is complete
            assert "format" in engine.attributes(run.path(path))
    assert "checkpoints/final.h5" not in left and "eval.h5" not in left
    if name in CONFIG or name in FILES and "tensor" not in name or "under" in name:
        assert left in ([], ["status.json"])         # refused before anything was done; the reason may be there


@pytest.mark.parametrize("name", ["wrong number of ranks", RUN_AWAY])
def test_mpirun_passes_the_status_on(name):
    """The status that mpirun, and so a job script, sees is the documented one, and there is still only one line of
    ours."""
    case, run = refuse(CASES[name](), apart=False)
    assert run.status == case.status and len(run.errors) == 1 and not run.hung, repr(run)


def test_steps_before_a_run_away_are_kept(refused):
    """Training that ends in NaN leaves its steps in metrics.h5, the failing one with its pairs too, as its message
    promises, and no checkpoint."""
    _, run = refused[RUN_AWAY].result()
    metrics = run.metrics()
    assert metrics["train/step"].tolist() == [1, 2]
    assert np.isfinite(metrics["train/loss"][0]) and not np.isfinite(
        metrics["train/loss"][1] + metrics["train/grad_norm"][1]
    )
    assert (metrics["train/pairs"][1] >= 0).all()


def test_run_directory_holds_one_run():
    """A second run in the same directory is refused, before it computes anything, and leaves the first one as it was;
    --overwrite replaces it."""
    settings = {**SETTINGS, "run.dir": os.path.join(engine.new_folder("held"), "run")}
    first = engine.succeed(engine.launch("train", 2, **settings))
    before = {name: open(first.path(name), "rb").read() for name in files(first.directory)}
    for more in ({}, {"model.path": engine.other_model()}):     # the second would need another reference as well
        second = engine.launch("train", 2, **settings, **more)
        assert second.statuses == [USAGE] * 2 and len(second.errors) == 1, repr(second)
        assert first.directory in second.errors[0] and "--overwrite" in second.errors[0]
        assert {name: open(first.path(name), "rb").read() for name in files(first.directory)} == before
    third = engine.succeed(engine.launch("train", 2, options=("--overwrite",), **{**settings, "schedule.steps": 1}))
    assert third.metrics()["train/step"].tolist() == [1] and len(open(third.path("log.jsonl")).readlines()) == 1
    assert engine.attributes(third.path("checkpoints/final.h5"))["step"] == 1
    assert files(third.directory) == list(before)

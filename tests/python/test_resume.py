"""A run goes on from a checkpoint as if nothing had happened, on any layout, and only with what it was begun with."""

import os
import shutil
import subprocess

import engine
import h5py
import interrupt
import numpy as np
import pytest
from catdpo_analysis.files.run_data import read_metrics

pytestmark = engine.needs_binary

STEPS = 9
RUN = {
    "objective.type": "catdpo",
    "margin.eta": 0.5,
    "margin.interval": 2,
    "optimizer.learning_rate": 0.02,
    "optimizer.weight_decay": 0.1,
    "batch.sampling": "balanced",
    "schedule.type": "cosine",
    "schedule.warmup": 0.2,
    "schedule.steps": STEPS,
    "checkpoint.steps": 3,
    "checkpoint.keep": 9,
    "metrics.flush_steps": 4,
}
LAYOUTS = {
    "1x1": (1, {"parallel.grid": [1, 1]}),
    "2x1": (2, {"parallel.grid": [2, 1]}),
    "1x2": (2, {"parallel.grid": [1, 2]}),
    "2x2": (4, {"parallel.grid": [2, 2]}),
    "3x1": (3, {"parallel.grid": [3, 1]}),
    "2-replicas": (2, {"parallel.grid": [1, 1], "parallel.replicas": 2}),
    "2-replicas-whole-moments": (2, {"parallel.grid": [1, 1], "parallel.replicas": 2, "optimizer.shard": False}),
    "2x1-accumulated": (2, {"parallel.grid": [2, 1], "batch.accumulation": 2}),
}
MODEL = {"model.path": engine.fixture("tiny_llama_linear")}   # three key/value heads: three rows are possible
SAME = ["1x1", "2x1", "1x2", "2-replicas", "2-replicas-whole-moments"]
MOVES = [("2x1", other) for other in ("1x1", "1x2", "2x2", "3x1", "2-replicas")] + [
    (other, "2x1")
    for other in ("1x1", "1x2", "2x2", "3x1", "2-replicas", "2-replicas-whole-moments", "2x1-accumulated")
]
TOLERANCE = dict(rtol=2e-3, atol=5e-5)


def settings(layout):
    return {**RUN, **MODEL, **LAYOUTS[layout][1]}


def whole(layout):
    return engine.train(LAYOUTS[layout][0], **settings(layout))


@pytest.fixture(scope="module", autouse=True)
def started():
    engine.prefetch([(LAYOUTS[name][0], settings(name)) for name in LAYOUTS])


def rewind(layout, step, to=None, options=(), **more):
    """Go on from an earlier checkpoint of a run, in a copy of its folder."""
    folder = interrupt.copy_run(whole(layout).directory, f"from-{layout}")
    ranks = LAYOUTS[to or layout][0]
    point = os.path.join(folder, "run", f"checkpoints/step-{step:08d}.h5")
    said = interrupt.finish(folder, ranks, (f"--resume={point}", *options), **{**settings(to or layout), **more})
    return os.path.join(folder, "run"), said


@pytest.mark.parametrize("step", [3, 6])
@pytest.mark.parametrize("layout", SAME)
def test_same_layout_bit_for_bit(layout, step):
    """Weights, moments, margins, metrics and log lines equal the uninterrupted run's; what is done again is set aside,
    not found twice."""
    directory, said = rewind(layout, step)
    assert f"after step {step} of {STEPS}" in said
    interrupt.check_same(directory, whole(layout).directory)
    interrupt.check_steps(directory, STEPS)
    assert engine.attributes(os.path.join(directory, "metrics.h5"))["restarts"] == 1
    names = set(os.listdir(os.path.join(directory, "checkpoints")))
    assert "final.h5.abandoned" in names and "final.h5" in names
    assert not [name for name in os.listdir(directory) if name.startswith("writer-")]


@pytest.mark.parametrize("before, after", MOVES, ids=[f"{a}-to-{b}" for a, b in MOVES])
def test_other_layout(before, after):
    """The same pairs, counts and margins to the last bit, weights and moments within rounding."""
    directory, _ = rewind(before, 3, after)
    expected, found = (
        engine.read(os.path.join(where, "checkpoints/final.h5")) for where in (whole(before).directory, directory)
    )
    for name, values in expected.items():
        if name.startswith(("model/", "optimizer/")):
            np.testing.assert_allclose(found[name], values, **TOLERANCE, err_msg=name)
        elif name.startswith("margins/"):
            np.testing.assert_array_equal(found[name], values, name)
    expected, found = (engine.read(os.path.join(where, "metrics.h5")) for where in (whole(before).directory, directory))
    for name in (
        "train/pairs",
        "train/category/n",
        "train/category/violations",
        "train/category/margin",
        "train/step",
        "train/num_tokens",
    ):
        np.testing.assert_array_equal(found[name], expected[name], name)
    np.testing.assert_allclose(found["train/loss"], expected["train/loss"], rtol=1e-4)


def test_other_layout_says_how_near():
    """The tolerance of the tests above is what the program promises."""
    said = rewind("2x1", 3, "1x2")[1]
    assert "weights and moments an epoch later within 2e-3 relative and 5e-5 absolute" in said and TOLERANCE == dict(
        rtol=2e-3, atol=5e-5
    )
    assert "another layout" not in rewind("2x1", 3)[1]


def has_component(name):
    """Does this Open MPI have it?"""
    info = shutil.which("ompi_info")
    return info and f" io: {name}" in subprocess.run([info], capture_output=True, text=True).stdout


@pytest.mark.skipif(engine.OPEN_MPI, reason="about other MPIs")
def test_component_of_another_mpi():
    """parallel.io is not taken for granted where it has no effect."""
    run = engine.launch("train", 2, **{"parallel.io": "ompio", "parallel.grid": [2, 1]})
    assert run.status == 2 and len(run.errors) == 1 and "parallel.io" in run.errors[0], repr(run)


@engine.only_open_mpi
@pytest.mark.skipif(not has_component("romio321"), reason="Open MPI without romio321")
def test_component_for_files():
    """parallel.io changes who writes, not what; an unknown one is refused."""
    folder = engine.new_folder("romio")
    interrupt.finish(folder, 2, **{**settings("2x1"), "parallel.io": "romio321"})
    interrupt.check_same(os.path.join(folder, "run"), whole("2x1").directory)
    point = os.path.join(folder, "run", "checkpoints/step-00000006.h5")
    interrupt.finish(folder, 2, (f"--resume={point}",), **{**settings("2x1"), "parallel.io": "romio321"})
    interrupt.check_same(os.path.join(folder, "run"), whole("2x1").directory)
    said = interrupt.finish(
        engine.new_folder("unknown-io"), 2, status=1, **{**settings("2x1"), "parallel.io": "nonsense"}
    )
    assert said.count("catdpo: ") == 1 and "parallel.io" in said


def put(path, index, value):
    return lambda file: file[path].__setitem__(index, value)


def say(group, name, value):
    return lambda file: file[group].attrs.modify(name, value)


def reseal(path, index, value):
    def change(file):
        file[path][index] = value
        file[path].attrs["checksum"] = np.uint64(engine.catdpo_h5.checksum(file[path][()]))
    return change


@pytest.mark.parametrize(
    "damage",
    [
        put("margins/margin", 0, -0.5),
        put("margins/pending", 0, 10**6),
        put("margins/violations", 1, 10**9),
        say("margins", "unit", 0.25),
        say("margins", "last_update", np.int64(8)),
        say("optimizer", "updates", np.int64(7)),
        say("sampler", "step", np.int64(5)),
        reseal("optimizer/v/norm/weight", 3, -1.0),
        reseal("model/norm/weight", 3, 2.0),
    ],
    ids=["margin", "pending", "violations", "unit", "last_update", "updates", "sampler", "moment", "weights"],
)
def test_what_check_refuses_is_not_gone_on_from(damage):
    """One set of checkpoints is good, to `catdpo check` and to --resume (tests/mpi/test_checkpoint.c tries all values
    of all fields)."""
    path = engine.copy(whole("1x1").path("checkpoints/step-00000006.h5"), damage, "step-00000006.h5")
    answer = subprocess.run([engine.BINARY, "check", path], capture_output=True, text=True)
    assert answer.returncode == 2 and "BAD" in answer.stdout, answer
    folder = interrupt.copy_run(whole("1x1").directory, "refused")
    said = interrupt.finish(folder, 1, (f"--resume={path}",), status=2, **settings("1x1"))
    assert said.count("catdpo: ") == 1 and "step-00000006.h5" in said, said


NEW = ("train/pair", "timing/wall_time", "train/category/standard_error", "train/category/coefficient_share",
       "train/category/saturation", "train/category/probe_n", "train/category/probe_violations",
       "train/category/clean_violations", "train/category/attacked_violations")  # in version 2 of metrics.h5


def to_version_1(path):
    """metrics.h5 as it was before it had those: with each rank's counts of every step."""
    with h5py.File(path, "r+") as file:
        counts = {name: file[f"train/category/{name}"][()] for name in ("n", "violations")}
        unit = file["train/partial/violations"].attrs["unit"]
        for name in (*NEW, "train/partial"):
            if name in file:
                del file[name]
        for name, values in (("n", counts["n"]), ("violations", np.round(counts["violations"] / unit))):
            values = values.astype("<i8")[:, None, :]
            file.create_dataset(
                f"train/partial/{name}",
                data=values,
                maxshape=(None, None, values.shape[2]),
                chunks=(16, *values.shape[1:]),
            )
            file[f"train/partial/{name}"].attrs["checksum"] = np.uint64(engine.catdpo_h5.checksum(values))
        file["train/partial/violations"].attrs["unit"] = unit
        file.attrs.modify("format_version", np.int64(1))


def test_metrics_of_an_earlier_version():
    """They are verified, a run goes on with them as with its own, and what they do not have is no value."""
    folder = interrupt.copy_run(whole("1x1").directory, "version-1")
    path = os.path.join(folder, "run", "metrics.h5")
    to_version_1(path)
    assert read_metrics(path).steps == STEPS
    answer = subprocess.run([engine.BINARY, "check", path], capture_output=True, text=True)
    assert answer.returncode == 0 and "version 1" in answer.stdout and answer.stdout.endswith("ok\n"), answer
    interrupt.finish(
        folder, 1, (f"--resume={os.path.join(folder, 'run', 'checkpoints/step-00000006.h5')}",), **settings("1x1")
    )
    found, expected = engine.read(path), whole("1x1").metrics()
    assert engine.attributes(path)["format_version"] == 2 and found.keys() == expected.keys()
    for name in expected:
        first = 6 if name.startswith(NEW) and name != "train/pairs" else 0
        if not name.startswith(("timing/", "train/partial/")) and name != "config":
            np.testing.assert_array_equal(found[name][first:], expected[name][first:], name)
            assert first == 0 or np.all(np.isnan(found[name][:first])), name
    assert np.array_equal(np.isnan(found["timing/wall_time"]), np.arange(STEPS) < 6)
    with h5py.File(path, "r+") as file:  # nothing is damaged that the earlier version had
        file["train/category/n"][0, 0] += 1
    assert subprocess.run([engine.BINARY, "check", path], capture_output=True).returncode == 2


def test_checkpoint_of_an_earlier_version():
    """One without standard errors is gone on from: the same weights and margins, errors as of a guess at first."""
    def change(file):
        del file["margins/standard_error"], file["margins"].attrs["pooled_error"]
        file.attrs.modify("format_version", np.int64(1))
    path = engine.copy(whole("1x1").path("checkpoints/step-00000006.h5"), change, "step-00000006.h5")
    folder = interrupt.copy_run(whole("1x1").directory, "checkpoint-1")
    interrupt.finish(folder, 1, (f"--resume={path}",), **settings("1x1"))
    found, expected = (engine.read(os.path.join(where, "checkpoints/final.h5"))
                       for where in (os.path.join(folder, "run"), whole("1x1").directory))
    for name in expected:
        if name != "config" and not name.endswith("standard_error"):
            np.testing.assert_array_equal(found[name], expected[name], name)
    error, usual = found["margins/standard_error"], expected["margins/standard_error"]
    assert np.all(error >= usual) and np.all(error < 0.6)


def test_several_times_over_layouts():
    """1x1 -> 2 replicas -> 2x1 in one run directory: steps without gaps or repeats."""
    folder = interrupt.copy_run(whole("1x1").directory, "several")
    directory = os.path.join(folder, "run")
    for layout, step in (("2-replicas", 3), ("2x1", 6), ("1x2", 3)):
        point = os.path.join(directory, f"checkpoints/step-{step:08d}.h5")
        interrupt.finish(folder, LAYOUTS[layout][0], (f"--resume={point}",), **settings(layout))
        interrupt.check_steps(directory, STEPS)
    assert engine.attributes(os.path.join(directory, "metrics.h5"))["restarts"] == 3


def test_into_another_folder():
    """A checkpoint can be gone on from in a new run directory: its history comes along."""
    folder = engine.new_folder("elsewhere")
    point = whole("2x1").path("checkpoints/step-00000006.h5")
    interrupt.finish(folder, 2, (f"--resume={point}",), **settings("2x1"))
    interrupt.check_steps(os.path.join(folder, "run"), STEPS)
    one, other = (
        engine.read(os.path.join(where, "checkpoints/final.h5"))
        for where in (whole("2x1").directory, os.path.join(folder, "run"))
    )
    for name in one:
        if name != "config":
            np.testing.assert_array_equal(other[name], one[name], name)


def test_nothing_to_go_on_from():
    """--resume starts a run that has no checkpoint; a batch script needs one command line only."""
    folder = engine.new_folder("fresh")
    said = interrupt.finish(folder, 2, **settings("2x1"))
    assert "starting at the beginning" in said
    interrupt.check_same(os.path.join(folder, "run"), whole("2x1").directory)


def test_all_done():
    """Going on with a finished run changes nothing and is no error."""
    folder = interrupt.copy_run(whole("2x1").directory, "done")
    said = interrupt.finish(folder, 2, **settings("2x1"))
    assert "all 9 steps were done before" in said
    interrupt.check_same(os.path.join(folder, "run"), whole("2x1").directory)


def flip(path, name, at=5):
    """One bit of a dataset's values."""
    with h5py.File(path) as file:
        offset = file[name].id.get_offset() + at
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


DAMAGE = {
    "weights": lambda path: flip(path, "model/norm/weight"),
    "moments": lambda path: flip(path, "optimizer/v/norm/weight"),
    "truncated": lambda path: os.truncate(path, os.path.getsize(path) // 2),
    "empty": lambda path: os.truncate(path, 0),
    "text": lambda path: open(path, "w").write("not a checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_broken_newest_checkpoint(damage):
    """It is named, set aside, and the one before it is used; the run ends as if nothing had happened."""
    folder = interrupt.copy_run(whole("2x1").directory, f"broken-{damage}")
    directory = os.path.join(folder, "run")
    os.remove(os.path.join(directory, "checkpoints/final.h5"))
    newest = os.path.join(directory, "checkpoints/step-00000006.h5")
    DAMAGE[damage](newest)
    said = interrupt.finish(folder, 2, **settings("2x1"))
    assert f"warning: {newest}" in said and "after step 3 of 9" in said
    assert os.path.exists(newest + ".broken")
    interrupt.check_same(directory, whole("2x1").directory)


def test_no_good_checkpoint_left():
    """All broken: one message, nothing touched."""
    folder = interrupt.copy_run(whole("2x1").directory, "all-broken")
    checkpoints = os.path.join(folder, "run", "checkpoints")
    for name in os.listdir(checkpoints):
        os.truncate(os.path.join(checkpoints, name), 100)
    before = sorted(os.listdir(checkpoints))
    said = interrupt.finish(folder, 2, status=2, **settings("2x1"))
    assert said.count("catdpo: ") == 1 and "no other checkpoint is left" in said
    assert sorted(os.listdir(checkpoints)) == before


OTHER = {
    "objective": {"objective.beta": 0.2}, "margin": {"margin.eta": 0.1}, "optimizer": {"optimizer.beta1": 0.8},
    "schedule": {"schedule.steps": 12}, "batch": {"batch.pairs": 4}, "seed": {"run.seed": 7},
}


@pytest.mark.parametrize("what", OTHER)
def test_other_settings_are_refused_by_name(what):
    """And accepted with --allow, which says so in the refusal."""
    folder = interrupt.copy_run(whole("2x1").directory, f"other-{what}")
    point = os.path.join(folder, "run", "checkpoints/step-00000006.h5")
    changed = {**settings("2x1"), **OTHER[what]}
    key, value = next(iter(OTHER[what].items()))
    group = "objective" if what == "margin" else what
    said = interrupt.finish(folder, 2, (f"--resume={point}",), status=2, **changed)
    assert f"{key} is {value}, was " in said and f"--allow={group}" in said
    interrupt.check_same(os.path.join(folder, "run"), whole("2x1").directory)   # nothing was touched
    interrupt.finish(folder, 2, (f"--resume={point}", f"--allow=data,{group}"), **changed)


def other_pairs():
    def change(file):
        engine.set_text(file, "data_digest", "0" * 64)
    return engine.copy(engine.PAIRS, change, "pairs.h5")


def test_other_data_is_refused_by_name():
    folder = interrupt.copy_run(whole("2x1").directory, "other-data")
    os.remove(os.path.join(folder, "run", "reference.h5"))
    point = os.path.join(folder, "run", "checkpoints/step-00000006.h5")
    changed = {**settings("2x1"), "data.path": other_pairs()}
    said = interrupt.finish(folder, 2, (f"--resume={point}",), status=2, **changed)
    assert "another data (" in said and "--allow=data" in said
    interrupt.finish(folder, 2, (f"--resume={point}", "--allow=data"), **changed)


@pytest.mark.parametrize("how", ["model.path", "reference.model"])
def test_half_trained_weights_never_become_the_reference(how):
    """Naming a checkpoint of the run as model or reference is refused, whatever is allowed."""
    folder = interrupt.copy_run(whole("2x1").directory, "reference")
    os.remove(os.path.join(folder, "run", "reference.h5"))
    point = os.path.join(folder, "run", "checkpoints/step-00000006.h5")
    said = interrupt.finish(
        folder, 2, ("--resume", "--allow=model,data,objective"), status=2, **{**settings("2x1"), how: point}
    )
    assert "another frozen reference" in said
    assert not os.path.exists(os.path.join(folder, "run", "reference.h5"))


def test_unknown_difference():
    folder = interrupt.copy_run(whole("2x1").directory, "unknown")
    assert "none of data, tokenizer" in interrupt.finish(
        folder, 2, ("--resume", "--allow=everything"), status=2, **settings("2x1")
    )


def test_overwrite_removes_the_checkpoints_of_the_run_it_replaces():
    """So that a later --resume cannot find them."""
    folder = interrupt.copy_run(whole("2x1").directory, "overwrite")
    interrupt.finish(folder, 2, ("--overwrite",), **{**settings("2x1"), "checkpoint.steps": 0, "schedule.steps": 2})
    assert os.listdir(os.path.join(folder, "run", "checkpoints")) == ["final.h5"]
    said = interrupt.finish(folder, 2, ("--overwrite", "--resume"), status=2, **settings("2x1"))
    assert "exclude each other" in said


def test_only_the_last_ones_are_kept():
    folder = engine.new_folder("keep")
    interrupt.finish(folder, 2, **{**settings("2x1"), "checkpoint.steps": 1, "checkpoint.keep": 3})
    assert sorted(os.listdir(os.path.join(folder, "run", "checkpoints"))) == ["final.h5"] + [
        f"step-{n:08d}.h5" for n in (6, 7, 8)
    ]


def test_best_by_the_worst_held_out_category():
    """best.h5 is the checkpoint whose worst held-out category violates least, and stays so over a resume."""
    folder = engine.new_folder("best")
    more = {
        **settings("2x1"),
        "checkpoint.steps": 1,
        "checkpoint.keep": 20,
        "checkpoint.best": True,
        "optimizer.learning_rate": 0.05,
    }
    interrupt.finish(folder, 2, **more)
    checkpoints = os.path.join(folder, "run", "checkpoints")

    def worst(name):
        return engine.attributes(os.path.join(checkpoints, name))["heldout_worst"]

    def step(name):
        return engine.attributes(os.path.join(checkpoints, name))["step"]

    names = sorted((name for name in os.listdir(checkpoints) if name != "best.h5"), key=step)
    rates = {step(name): worst(name) for name in names}
    assert len(rates) == STEPS and len(set(rates.values())) > 1, "nothing to choose from"
    assert step("best.h5") == min(rates, key=lambda n: (rates[n], n)) and worst("best.h5") == min(rates.values())
    # the rate is what eval finds
    check = engine.evaluate(
        2,
        ("--model", os.path.join(checkpoints, "best.h5")),
        **{key: value for key, value in more.items() if key != "checkpoint.best"},
    )
    assert engine.attributes(check.path("eval.h5"), "eval/summary")["violation_rate_worst"] == pytest.approx(
        worst("best.h5"), abs=1e-12
    )
    point = os.path.join(checkpoints, f"step-{STEPS - 1:08d}.h5")
    before = step("best.h5")
    interrupt.finish(folder, 2, (f"--resume={point}",), **more)
    assert before == STEPS or step("best.h5") == before

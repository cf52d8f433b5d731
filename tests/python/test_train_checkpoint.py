"""A checkpoint is a model: complete, checked, exact, and the same whatever layout wrote it."""

import json
import os
import time

import engine
import h5py
import numpy as np
import pytest
import rounding
from engine import catdpo_h5

pytestmark = engine.needs_binary

LAYOUTS = {
    "1x1": (1, {}),
    "2x1": (2, {"parallel.grid": [2, 1]}),
    "1x3": (3, {"parallel.grid": [1, 3]}),
    "2-replicas": (2, {"parallel.replicas": 2}),
    "2x2": (4, {"parallel.grid": [2, 2]}),
    "2-replicas-of-3x1": (6, {"parallel.grid": [3, 1], "parallel.replicas": 2}),
    "2-replicas-of-1x2-sharded": (4, {"parallel.grid": [1, 2], "parallel.replicas": 2, "optimizer.shard": True}),
}
TRAINED = {
    "objective.type": "catdpo",
    "margin.eta": 0.5,
    "optimizer.learning_rate": 0.02,
    "optimizer.weight_decay": 0.1,
}
RESTING = {"optimizer.learning_rate": 0.0, "schedule.steps": 1, "optimizer.weight_decay": 0.1}
# what a cut can get wrong: tied and untied, biases, q/k norms, sizes that divide nothing
RESTING_RUNS = [
    ("tiny_llama", "2x1"),
    ("tiny_llama3_tied", "1x3"),
    ("tiny_qwen2_tied", "2x2"),
    ("tiny_qwen2", "2-replicas-of-3x1"),
    ("tiny_qwen3", "2-replicas-of-1x2-sharded"),
    ("tiny_llama_linear", "2-replicas"),
]


def specification(layout, settings):
    ranks, more = LAYOUTS[layout]
    return ranks, {**settings, **more}


def resting(model):
    return {**RESTING, "model.path": engine.fixture(model)}


@pytest.fixture(scope="module", autouse=True)
def started():
    engine.prefetch([specification(layout, TRAINED) for layout in LAYOUTS] +
                    [specification(layout, resting(model)) for model, layout in RESTING_RUNS])


def trained(layout="1x1"):
    ranks, settings = specification(layout, TRAINED)
    return engine.train(ranks, **settings)


def final(run):
    return run.path("checkpoints/final.h5")


def check_sums(path, group):
    """{Hugging Face name: checksum}, each worked out again from the numbers."""
    sums = {}
    with h5py.File(path) as file:
        for name in engine.tensors(file[group]):
            item = file[group][name]
            assert item.dtype == "f4" and np.isfinite(item[()]).all()
            sums[engine.hugging_face_name(name)] = catdpo_h5.checksum(item[()])
            assert item.attrs["checksum"] == sums[engine.hugging_face_name(name)], name
    return sums


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checksums_and_digest_hold(layout):
    """Every tensor of model and optimiser has the checksum of its numbers, and the model their digest, whichever ranks
    wrote them."""
    path = final(trained(layout))
    for group in ("optimizer/m", "optimizer/v"):
        assert check_sums(path, group)
    assert engine.attributes(path, "model")["weights_digest"] == catdpo_h5.weights_digest(check_sums(path, "model"))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "1x1"])
def test_same_checkpoint_from_every_layout(layout):
    """After the same run, weights and moments agree within rounding and everything counted exactly."""
    one, other = trained().checkpoint(), trained(layout).checkpoint()
    assert one.keys() == other.keys()
    for name, values in one.items():
        if name.startswith(("model/", "optimizer/")):
            np.testing.assert_allclose(other[name], values, rtol=2e-3, atol=5e-5, err_msg=name)
        elif name.startswith("margins/"):
            np.testing.assert_array_equal(other[name], values, name)
    for group in ("/", "margins", "sampler", "optimizer"):
        first, second = (engine.attributes(final(run), group) for run in (trained(), trained(layout)))
        differ = ("created", "layout")
        assert {k: v for k, v in first.items() if k not in differ} == {
            k: v for k, v in second.items() if k not in differ
        }, group


def test_model_group_is_that_of_the_input():
    """/model and /tokenizer have the names, shapes and attributes of the file that training started from, so that
    export works on it."""
    start, end = engine.DEFAULTS["model.path"], final(trained("2x2"))
    one, other = engine.read(start), engine.read(end)
    for group in ("model", "tokenizer"):
        before, after = engine.below(one, group), engine.below(other, group)
        assert {name: (item.shape, item.dtype) for name, item in before.items()} == {
            name: (item.shape, item.dtype) for name, item in after.items()
        }
    assert all(one[name].tobytes() == other[name].tobytes() for name in one if name.startswith("tokenizer/"))
    before, after = engine.attributes(start, "model"), engine.attributes(end, "model")
    assert before.pop("weights_digest") != after.pop("weights_digest")
    assert before == after and json.loads(after["hf_config"])["hidden_size"] == after["hidden_size"]
    assert engine.attributes(end)["format"] == "catdpo-checkpoint" and engine.attributes(end)["step"] == 5
    assert any(not np.array_equal(one[name], other[name]) for name in one if name.startswith("model/"))


def test_checkpoint_holds_the_state_of_the_run():
    """Margins, rates and counts as the metrics have them, the sampler's seed and position, the tokens seen, and the
    config as text."""
    run = trained()
    state, metrics = run.checkpoint(), run.metrics()
    np.testing.assert_array_equal(state["margins/violation_rate"], metrics["train/category/violation_rate"][-1])
    np.testing.assert_array_equal(state["margins/n"], metrics["train/category/n"].sum(axis=0))
    np.testing.assert_array_equal(state["margins/violations"] * 0.5, metrics["train/category/violations"].sum(axis=0))
    moved = np.where(metrics["train/category/n"][-1] > 0, 0.5 * (metrics["train/category/violation_rate"][-1] - 0.2), 0)
    np.testing.assert_allclose(
        state["margins/margin"], np.clip(metrics["train/category/margin"][-1] + moved, 0, 10), rtol=1e-12
    )
    root, sampler = engine.attributes(final(run)), engine.attributes(final(run), "sampler")
    assert root["num_tokens"] == metrics["train/num_tokens"][-1] and root["total_steps"] == 5
    assert sampler == {"step": 5, "seed": 42, "kind": "uniform"}
    assert engine.attributes(final(run), "optimizer")["updates"] == 5
    assert state["config"].decode() == open(run.path("config.cfg")).read() == metrics["config"].decode()


@pytest.mark.parametrize("model, layout", RESTING_RUNS)
def test_weights_at_rest_come_back_exactly(model, layout):
    """With learning rate 0 the final checkpoint has the input's weights to the last bit, for every kind of model and
    cut: what is read and written is what is there."""
    ranks, settings = specification(layout, resting(model))
    run = engine.train(ranks, **settings)
    before = engine.below(engine.read(engine.fixture(model)), "model")
    after = run.weights()
    assert before.keys() == after.keys()
    for path, values in before.items():
        assert values.tobytes() == after[path].tobytes(), path
    digests = [engine.attributes(path, "model")["weights_digest"] for path in (engine.fixture(model), final(run))]
    assert digests[0] == digests[1]
    assert any(np.abs(values).max() > 0 for values in run.weights("optimizer/m").values())


def test_checkpoint_is_a_model():
    """A checkpoint, also one that other ranks wrote, is where eval and a further training start from."""
    path = final(trained("2x2"))
    run = engine.train(
        3, **{"model.path": path, "schedule.steps": 1, "parallel.grid": [1, 3], "optimizer.learning_rate": 0.0}
    )
    before, after = trained("2x2").weights(), run.weights()
    assert all(values.tobytes() == after[name].tobytes() for name, values in before.items())
    pairs = engine.evaluate(2, ("--split", "train"), **{"model.path": path, "parallel.grid": [2, 1]}).read("eval.h5")
    row = run.metrics()["train/pairs"][0]
    logps, tokens = pairs["eval/pairs/logps_chosen"][row], engine.pairs_of(engine.PAIRS)["chosen_tokens"][row]
    rounding.assert_near(
        run.metrics()["train/logps/chosen"][0],
        logps.mean(),
        rounding.mean(rounding.log_probs(logps, tokens)),
        "logps/chosen",
    )


def test_steps_that_were_done_are_what_is_there():
    """A run directory has config.cfg, config.json, status.json, metrics.h5, log.jsonl, reference.h5 and
    checkpoints/final.h5, and nothing unfinished."""
    run = trained("2x1")
    found = sorted(
        os.path.relpath(os.path.join(where, name), run.directory)
        for where, _, names in os.walk(run.directory)
        for name in names
    )
    assert found == [
        "checkpoints/final.h5",
        "config.cfg",
        "config.json",
        "log.jsonl",
        "metrics.h5",
        "reference.h5",
        "status.json",
    ]
    without = engine.train(1, **{"schedule.steps": 1, "checkpoint.final": False})
    assert not os.path.exists(final(without))


# ---- what is written beside it --------------------------------------------------------------------------------------

def test_step_log_is_one_object_a_line():
    """log.jsonl: one JSON object a step with the numbers of metrics.h5, categories by name."""
    run = trained("2x2")
    rows, metrics = [json.loads(line) for line in open(run.path("log.jsonl"))], run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    for i, row in enumerate(rows):
        for name in ("loss", "grad_norm", "learning_rate", "epoch", "rewards/margins", "rewards/accuracies"):
            np.testing.assert_allclose(row[name], metrics[f"train/{name}"][i], rtol=1e-5)
        assert row["total_steps"] == 5 and row["tokens_per_second"] > 0 and row["seconds"] > 0
        for name, column in (("margins", "margin"), ("violation_rate", "violation_rate")):
            assert list(row[name]) == ["privacy", "fraud", "benign"]
            np.testing.assert_allclose(list(row[name].values()), metrics[f"train/category/{column}"][i], rtol=1e-5)


def test_metrics_explain_themselves():
    """Every dataset of a step has a row a step, axes with names, the scale of steps, units and a description."""
    run = trained("2x2")
    with h5py.File(run.path("metrics.h5")) as file:
        assert file.attrs["format_version"] == 2
        columns = [f"{group}/{name}" for group in ("train", "timing") for name in engine.tensors(file[group])
                   if name != "phase" and not name.startswith("partial/")]
        assert len(columns) > 30
        for name in columns:
            item = file[name]
            assert item.shape[0] == 5 and item.dims[0].label == "step", name
            assert item.attrs["units"] and item.attrs["description"], name
            assert name == "train/step" or item.dims[0][0] == file["train/step"], name
            if name.startswith("train/category"):
                assert item.dims[1].label == "category" and item.dims[1][0] == file["categories/name"], name
            if name.startswith("train/pair/"):
                assert item.shape == file["train/pairs"].shape and item.dims[1].label == "pair", name
        part = file["train/partial"]
        assert part["n"].dims[0].label == "rank" and part["violations"].attrs["unit"] == 0.5
        assert (
            part["n"].dims[1][0] == file["categories/name"]
            and part["n"].attrs["units"]
            and part["n"].attrs["description"]
        )
        assert (part.attrs["first_step"], part.attrs["last_step"]) == (1, 5)
        assert (
            np.all(np.diff(file["timing/wall_time"][()]) > 0)
            and abs(file["timing/wall_time"][-1] - time.time()) < 86400
        )
        assert np.all(file["timing/seconds"][()] >= 0) and np.all(file["timing/step_seconds"][()] > 0)
        assert file["timing/seconds"].shape[1] == len(file["timing/phase"])
    said = engine.attributes(run.path("metrics.h5"))
    assert said["grid"] == "1x2x2" and said["data_digest"] == engine.attributes(engine.PAIRS)["data_digest"]
    assert all(
        said[name]
        for name in ("run", "version", "mpi", "blas", "hdf5", "hosts", "started", "weights_digest", "tokenizer_digest")
    )


@pytest.mark.parametrize("setting", [{"metrics.flush_steps": 2}, {"metrics.flush_minutes": 1e-9}])
def test_more_steps_than_one_flush(setting):
    """Rows written in several goes, by steps or by minutes, are the rows of one go; the last go is the fifth step."""
    one, other = trained().metrics(), engine.train(1, **TRAINED, **setting).metrics()
    assert other["train/partial/n"].sum() == one["train/category/n"][4].sum() < one["train/partial/n"].sum()
    for name in one:
        if not name.startswith(("timing/", "train/partial/")) and name != "config":
            assert one[name].tobytes() == other[name].tobytes(), name


def test_learning_rate_follows_the_schedule():
    """Warm-up from 0, then linear decay to the floor, as in transformers; epochs count when no steps are given."""
    run = engine.train(
        1,
        **{
            "schedule.steps": None,
            "schedule.epochs": 2.0,
            "schedule.type": "linear",
            "schedule.warmup": 0.4,
            "schedule.floor": 0.1,
            "optimizer.learning_rate": 0.02,
        },
    )
    steps = np.arange(10)
    factor = np.where(steps < 4, steps / 4, 1 - 0.9 * (steps - 4) / 6)
    np.testing.assert_allclose(run.metrics()["train/learning_rate"], 0.02 * factor, rtol=1e-12)

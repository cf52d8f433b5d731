"""Adapters: the frozen model stays as it is, layouts do not matter, a run goes on from a checkpoint bit for bit, and
what holds an adapter is used as the model that it makes."""

import os
import shutil
import subprocess

import engine
import h5py
import numpy as np
import pytest

pytestmark = engine.needs_binary

# epsilon: AdamW makes a whole step of a gradient that is rounding alone, which some elements of A have at the start
LORA = {
    "lora.rank": 4,
    "lora.alpha": 8.0,
    "optimizer.learning_rate": 0.05,
    "optimizer.epsilon": 1e-4,
    "objective.type": "dpo",
}
LAYOUTS = [(1, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 2), (1, 1, 3), (2, 1, 1), (2, 2, 1)]  # replicas, rows, columns
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def specification(layout, **more):
    replicas, rows, columns = layout
    return replicas * rows * columns, {
        **LORA,
        "parallel.replicas": replicas,
        "parallel.grid": [rows, columns],
        **more,
    }


def train(layout=(1, 1, 1), **more):
    ranks, settings = specification(layout, **more)
    return engine.train(ranks, **settings)


def final(run):
    return run.path("checkpoints/final.h5")


def check(path):
    return subprocess.run([engine.BINARY, "check", path], capture_output=True, text=True)


def evaluate(model, **more):
    """Log-probs of the held-out pairs under a file."""
    folder = engine.new_folder("eval")
    out = os.path.join(folder, "eval.h5")
    settings = {key: value for key, value in LORA.items() if not key.startswith("lora.")}
    run = engine.launch(
        "eval", 1, ("--model", model, "--out", out), **{**settings, **more, "data.heldout": "train", "run.dir": folder}
    )
    engine.succeed(run)
    return engine.read(out)["eval/pairs/logps_chosen"]


@pytest.fixture(scope="module", autouse=True)
def started():
    engine.prefetch([specification(layout) for layout in LAYOUTS])


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=lambda layout: "x".join(map(str, layout)))
def test_same_run_on_every_layout(layout):
    """The same start, losses within 1e-4 relative over 5 steps, and adapters that end within rounding."""
    one, other = train(), train(layout)
    np.testing.assert_allclose(other.metrics()["train/loss"], one.metrics()["train/loss"], rtol=1e-4)
    assert np.ptp(one.metrics()["train/loss"]) > 0.05
    expected, found = one.weights("adapter"), other.weights("adapter")
    assert expected.keys() == found.keys() and len(found) == 2 * 2 * len(MODULES)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-3, atol=2e-4, err_msg=name)


def test_nothing_else_is_kept_or_trained():
    """A checkpoint holds adapters, their moments, and the digest of the base; no weight of the model."""
    run = train()
    names = set(run.checkpoint())
    assert not [name for name in names if name.startswith("model/")]
    assert all("lora_" in name for name in names if name.startswith("optimizer/"))
    about = engine.attributes(final(run), "adapter")
    base = engine.attributes(engine.DEFAULTS["model.path"], "model")
    assert about["rank"] == 4 and about["alpha"] == 8 and about["base_digest"] == base["weights_digest"]
    assert about["target_modules"] == ",".join(MODULES) and about["layers"] == "all"
    assert "trainable parameters" in run.err
    counts = engine.attributes(run.path("metrics.h5"))
    adapter = sum(values.size for values in run.weights("adapter").values())
    with h5py.File(engine.DEFAULTS["model.path"]) as file:
        sizes = []
        file["model"].visititems(lambda _, item: sizes.append(item.size) if isinstance(item, h5py.Dataset) else None)
    assert counts["trainable_parameters"] == adapter and counts["parameters"] == adapter + sum(sizes)
    assert engine.attributes(final(run), "model")["weights_digest"] != base["weights_digest"]


def test_start():
    """A is uniform in (-1, 1) / sqrt(in), B is zero, so that the first loss is that of the model itself; another seed
    gives another A."""
    still = {"optimizer.learning_rate": 0.0, "schedule.steps": 1}
    run, other = train(**still), train(**still, **{"run.seed": 7, "batch.sampling": "sequential"})
    assert abs(run.metrics()["train/loss"][0] - np.log(2)) < 1e-6
    a = {name: values for name, values in run.weights("adapter").items() if "lora_A" in name}
    for name, values in run.weights("adapter").items():
        bound = values.shape[1] ** -0.5
        if "lora_B" in name:
            assert not values.any()
        else:
            assert np.abs(values).max() <= bound and np.abs(values).max() > 0.8 * bound
            assert abs(values.mean()) < 4 * bound / np.sqrt(3 * values.size)
            assert np.abs(values - other.weights("adapter")[name]).max() > 0.1 * bound
    assert len({values.tobytes() for values in a.values()}) == len(a)


def test_modules_and_layers():
    """Only what is asked for has an adapter; unknown names are refused, with those that there are."""
    run = train(**{"lora.target_modules": "v_proj, mlp.up_proj", "lora.layers": "1"})
    assert set(run.weights("adapter")) == {
        f"layers/1/{module}/lora_{side}/weight" for module in ("self_attn/v_proj", "mlp/up_proj") for side in "AB"
    }
    for wrong, said in (
        ({"lora.target_modules": "c_attn"}, '"c_attn" is no linear layer'),
        ({"lora.layers": "0-2"}, "it has 0 to 1"),
        ({"lora.rank": 1000}, "no low rank"),
        ({"lora.rank": 0, "lora.adapter": "x.h5"}, "lora.adapter names an adapter"),
    ):
        ranks, settings = specification((1, 1, 1), **wrong)
        refused = engine.launch("train", ranks, **settings)
        assert set(refused.statuses) == {2} and len(refused.errors) == 1 and said in refused.errors[0], refused


def merged(path, base=None):
    """The model that a file with an adapter makes, written by hand."""
    with h5py.File(path) as file:
        about, adapter = dict(file["adapter"].attrs), file["adapter"]

        def change(model):
            for name in engine.tensors(model):
                stem = name.rsplit("/", 1)[0]
                if f"{stem}/lora_A" in adapter:
                    a, b = (adapter[f"{stem}/lora_{side}/weight"][()].astype("f8") for side in "AB")
                    model[name][...] = model[name][()] + about["alpha"] / about["rank"] * (b @ a)

        return engine.change_model(change, **({"source": base} if base else {}))


def test_used_as_the_model_that_it_makes():
    """eval and train with an adapter's file as their model see base and adapter: the same log-probs as those of the
    merged weights, on any grid."""
    run = train()
    by_hand = merged(final(run))
    expected = evaluate(by_hand)
    assert np.abs(expected - evaluate(engine.DEFAULTS["model.path"])).max() > 0.1
    np.testing.assert_allclose(evaluate(final(run)), expected, rtol=1e-5)
    settings = {"schedule.steps": 2, "objective.type": "dpo", "parallel.grid": [1, 2]}
    on, by = (engine.train(2, **{**settings, "model.path": path}) for path in (final(run), by_hand))
    np.testing.assert_allclose(on.metrics()["train/loss"], by.metrics()["train/loss"], rtol=1e-5)
    assert [name for name in on.checkpoint() if name.startswith("model/")]


def test_check():
    """check knows the base: it says where it is, names one that is missing, refuses one that is another model."""
    run = train()
    said = check(final(run))
    assert said.returncode == 0 and "rank 4, alpha 8" in said.stdout and engine.DEFAULTS["model.path"] in said.stdout

    def move(to):
        return lambda file: engine.set_text(file["adapter"], "base", to)

    lost = engine.copy(final(run), move("/nowhere/base.h5"))
    said = check(lost)
    assert said.returncode == 0 and "not here" in said.stdout, said.stdout
    refused = engine.launch("eval", 1, ("--model", lost, "--out", lost + ".out"), **{"data.heldout": "train"})
    assert set(refused.statuses) == {2} and "base" in refused.errors[0], refused
    shutil.copy(engine.DEFAULTS["model.path"], os.path.join(os.path.dirname(lost), "base.h5"))
    np.testing.assert_array_equal(evaluate(lost), evaluate(final(run)))  # found beside the file
    other = engine.copy(final(run), move(engine.fixture("tiny_llama_linear")))
    said = check(other)
    assert said.returncode == 2 and "BAD" in said.stdout, said.stdout


STEPS = {"schedule.steps": 6, "checkpoint.steps": 3, "checkpoint.keep": 9, "optimizer.weight_decay": 0.1}


@pytest.mark.parametrize("layout", [(1, 1, 1), (1, 2, 1), (2, 1, 1)], ids=lambda layout: "x".join(map(str, layout)))
def test_resume(layout):
    """Bit for bit; other adapters and another base are refused."""
    ranks, settings = specification(layout, **STEPS)
    whole = engine.train(ranks, **settings)
    point = whole.path("checkpoints/step-00000003.h5")
    again = engine.succeed(engine.launch("train", ranks, (f"--resume={point}",), **settings))
    for group in ("adapter", "optimizer/m", "optimizer/v", "margins"):
        expected, found = whole.weights(group), again.weights(group)
        assert expected and expected.keys() == found.keys()
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], name)
    for wrong, said in (
        ({"lora.rank": 2}, "lora.rank is 2, was 4"),
        ({"lora.rank": 0}, "lora.rank is 0, was 4"),
        ({"model.path": merged(final(whole))}, "model"),
    ):
        refused = engine.launch("train", ranks, (f"--resume={point}",), **{**settings, **wrong})
        assert set(refused.statuses) == {2} and len(refused.errors) == 1 and said in refused.errors[0], refused


def test_goes_on_from_an_adapter():
    """lora.adapter starts where another run ended: the first loss is that of its model; an adapter of another base or
    shape is refused, and one as model.path."""
    first = train()
    start = {"lora.adapter": final(first), "reference.model": engine.DEFAULTS["model.path"]}
    on = train(**start)
    fixed = {"schedule.steps": 1, "optimizer.learning_rate": 0.0, "reference.model": engine.DEFAULTS["model.path"]}
    full = engine.train(1, **{"objective.type": "dpo", **fixed, "model.path": merged(final(first))})
    np.testing.assert_allclose(on.metrics()["train/loss"][0], full.metrics()["train/loss"][0], rtol=1e-4)
    for wrong, said in (
        ({"lora.rank": 2}, "lora.rank = 4"),
        ({"model.path": merged(final(first))}, "of another base"),
        ({"lora.adapter": engine.DEFAULTS["model.path"]}, "not an adapter"),
        ({"model.path": final(first)}, "set model.path to its base"),
    ):
        ranks, settings = specification((1, 1, 1), **{**start, **wrong})
        refused = engine.launch("train", ranks, **settings)
        assert set(refused.statuses) == {2} and len(refused.errors) == 1 and said in refused.errors[0], refused


def test_damage():
    """One changed number of an adapter is found by check and by whoever reads it."""
    def damage(file):
        file["adapter/layers/0/self_attn/q_proj/lora_B/weight"][0, 0] += 1

    path = engine.copy(final(train()), damage)
    said = check(path)
    assert said.returncode == 2 and "damaged" in said.stdout
    refused = engine.launch("eval", 1, ("--model", path, "--out", path + ".out"), **{"data.heldout": "train"})
    assert set(refused.statuses) == {2} and "damaged" in refused.errors[0], refused


@pytest.mark.parametrize("model", ["tiny_qwen2", "tiny_qwen3", "tiny_gemma3", "tiny_olmo2"])
def test_families(model):
    """Biases, norms of heads and norms after blocks stay frozen; both grids agree."""
    more = {"model.path": engine.fixture(model), "lora.layers": "0", "engine.recompute": True}
    one, other = train(**more), train((1, 1, 2), **more)
    np.testing.assert_allclose(other.metrics()["train/loss"], one.metrics()["train/loss"], rtol=1e-4)

"""`catdpo train` against transformers, autograd and torch's AdamW: one step on the batch that the fixtures were
computed on.

The fixture's margins are 0.75 (i + 1) for pair i: here pair i has i + 1 categories of margin 0.75 each, and they are
added up.
"""

import functools

import engine
import h5py
import numpy as np
import pytest
import rounding
from engine import catdpo_h5

pytestmark = engine.needs_binary

MARGIN = 0.75
# every model on another layout, so that the numbers are right and not only the same everywhere
LAYOUTS = dict(
    zip(
        engine.MODELS,
        [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 3, 1), (2, 1, 1), (1, 2, 2), (1, 1, 2), (1, 2, 1), (1, 2, 2)],
    )
)


@functools.cache
def batch_file(model):
    """The fixture's batch as a pairs file: pair i has the categories 0..i."""
    path = f"{engine.new_folder('oracle')}/pairs.h5"
    with h5py.File(engine.fixture(model)) as source, h5py.File(path, "w") as file:
        pairs = source["oracle/pairs"]
        count = int(pairs.attrs["pairs"])
        names = [f"c{i}" for i in range(count)]
        catdpo_h5.pairs_attributes(
            file,
            data_digest="oracle",
            tokenizer_digest=engine.attributes(engine.fixture(model), "model")["tokenizer_digest"],
            template_digest="",
            vocab_size=int(source["model"].attrs["vocab_size"]),
            settings={},
            inputs=[],
        )
        catdpo_h5.write_categories(catdpo_h5.create_group(file, "categories"), names, [1] * count)
        source.copy(pairs, file, "train")
        del file["train/category_mask"]
        file["train/category_mask"] = np.tri(count, dtype=np.uint8)
    return path


@functools.cache
def reference_file(model):
    """The fixture's reference log-probs as the program's own cache of them."""
    path = f"{engine.new_folder('oracle')}/reference.h5"
    attributes = engine.attributes(engine.fixture(model), "model")
    with h5py.File(engine.fixture(model)) as source, h5py.File(path, "w") as file:
        catdpo_h5.root_attributes(file, "catdpo-reference")
        catdpo_h5.set_attributes(file, data_digest="oracle", weights_digest=attributes["weights_digest"],
                                 tokenizer_digest=attributes["tokenizer_digest"], settings="dtype=float32")
        for side in ("chosen", "rejected"):
            values = source[f"oracle/reference/{side}"][()]
            catdpo_h5.put(file, f"train/{side}", values).attrs["checksum"] = catdpo_h5.checksum(values)
        file["train"].attrs["done"] = np.int64(len(values))
    return path


def specification(model, **settings):
    replicas, rows, columns = LAYOUTS[model]
    with h5py.File(engine.fixture(model)) as file:
        beta, adamw, count = (
            float(file["oracle"].attrs["beta"]),
            dict(file["oracle/adamw"].attrs),
            len(file["oracle/offset"]),
        )
    return replicas * rows * columns, {
        "model.path": engine.fixture(model),
        "data.path": batch_file(model),
        "reference.cache": reference_file(model),
        "objective.beta": beta,
        "objective.type": "catdpo",
        "margin.scope": "fixed",
        "margin.initial": MARGIN,
        "margin.aggregation": "sum",
        "batch.pairs": count,
        "batch.sampling": "sequential",
        "schedule.steps": 1,
        "parallel.grid": [rows, columns],
        "parallel.replicas": replicas,
        "optimizer.learning_rate": float(adamw["learning_rate"]),
        "optimizer.beta1": float(adamw["beta1"]),
        "optimizer.beta2": float(adamw["beta2"]),
        "optimizer.epsilon": float(adamw["epsilon"]),
        "optimizer.weight_decay": float(adamw["weight_decay"]),
        "optimizer.max_grad_norm": float(adamw["max_grad_norm"]),
        **settings,
    }


def one_step(model, **settings):
    ranks, settings = specification(model, **settings)
    return engine.train(ranks, **settings)


TWO_STEPS = {"schedule.steps": 2}


@pytest.fixture(scope="module", autouse=True)
def started():
    engine.prefetch([specification(model) for model in engine.MODELS] + [specification("tiny_llama", **TWO_STEPS)])


@pytest.fixture(params=engine.MODELS)
def model(request):
    return request.param


def oracle(model):
    with h5py.File(engine.fixture(model)) as file:
        values = {
            name.removeprefix("oracle/"): item
            for name, item in engine.read(engine.fixture(model)).items()
            if name.startswith("oracle/")
        }
        return values, dict(file["oracle"].attrs), dict(file["oracle/adamw"].attrs)


def errors(model):
    """Standard errors of float32: of each pair's h, of log-probs by side; and completion tokens by side."""
    values = oracle(model)[0]
    with h5py.File(engine.fixture(model)) as file:
        tokens = {
            side: np.diff(file[f"oracle/pairs/{side}/offsets"][()]) - file[f"oracle/pairs/{side}/prompt_length"][()]
            for side in ("chosen", "rejected")
        }
    of = {side: rounding.log_probs(values[f"logps/{side}"], count) for side, count in tokens.items()}
    return rounding.total(*of.values()), of, tokens     # the reference's log-probs are the fixture's own


def test_loss_and_metrics_of_the_first_step(model):
    """Loss with margins, its gradient's norm, rewards, log-probs, mean logits, entropy, token accuracy and reward
    accuracy are those of transformers and autograd."""
    values, attributes, _ = oracle(model)
    metrics, beta = one_step(model).metrics(), attributes["beta"]
    delta = {side: values[f"logps/{side}"] - values[f"reference/{side}"] for side in ("chosen", "rejected")}
    h = delta["chosen"] - delta["rejected"]
    of_h, of, tokens = errors(model)
    logits = np.log(rounding.VOCABULARY)    # their size
    expected = {
        "loss": (attributes["loss"], rounding.mean(beta * of_h)),
        "grad_norm": (attributes["grad_norm"], attributes["grad_norm"] * rounding.gradient(beta * of_h)),
        "entropy": (attributes["entropy"], rounding.of_tokens(logits, sum(tokens["chosen"]) + sum(tokens["rejected"]))),
        "mean_token_accuracy": (attributes["mean_token_accuracy"], 0),
        "rewards/margins": (beta * h.mean(), rounding.mean(beta * of_h)), "rewards/accuracies": ((h > 0).mean(), 0),
    }
    for side in ("chosen", "rejected"):
        expected[f"logits/{side}"] = attributes[f"logits_{side}"], rounding.of_tokens(logits, sum(tokens[side]))
        expected[f"logps/{side}"] = values[f"logps/{side}"].mean(), rounding.mean(of[side])
        expected[f"rewards/{side}"] = beta * delta[side].mean(), rounding.mean(beta * of[side])
    for name, (value, error) in expected.items():
        rounding.assert_near(metrics[f"train/{name}"][0], value, error, name)
    # and by category: category k has the pairs k, k + 1, ...
    losses = np.logaddexp(0, values["offset"] - beta * h)
    rounding.assert_clear(h, [0], of_h, "h")
    for k in range(len(h)):
        rounding.assert_near(
            metrics["train/category/loss"][0, k], losses[k:].mean(), rounding.mean(beta * of_h[k:]), "loss"
        )
        rounding.assert_near(
            metrics["train/category/rewards_margins"][0, k],
            beta * h[k:].mean(),
            rounding.mean(beta * of_h[k:]),
            "rewards_margins",
        )
        np.testing.assert_allclose(metrics["train/category/accuracy"][0, k], (h[k:] > 0).mean())


def test_loss_without_margins():
    """objective.type = dpo on the same batch has the loss of the fixture with offsets 0."""
    run = one_step("tiny_llama", **{"objective.type": "dpo", "margin.initial": 0.0, "margin.scope": "category"})
    attributes = oracle("tiny_llama")[1]
    rounding.assert_near(
        run.metrics()["train/loss"][0],
        attributes["loss_dpo"],
        rounding.mean(attributes["beta"] * errors("tiny_llama")[0]),
        "loss",
    )


def test_gradient_of_every_tensor(model):
    """AdamW's first moment after one step is (1 - beta1) times the clipped gradient: within 1e-4 of autograd's for
    every tensor."""
    values, _, adamw = oracle(model)
    moments = one_step(model).weights("optimizer/m")
    gradients = engine.below(values, "gradient")
    assert moments.keys() == gradients.keys()
    for path, expected in gradients.items():
        found = moments[path] / (1 - adamw["beta1"]) / adamw["clip_scale"]
        assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected), path


def test_weights_after_one_step(model):
    """Clipping, AdamW and decoupled weight decay as in torch; weight decay leaves norms and biases alone, the fixture
    decays them."""
    values, attributes, adamw = oracle(model)
    found, before = one_step(model).weights(), engine.below(engine.read(engine.fixture(model)), "model")
    gradients, stepped = engine.below(values, "gradient"), engine.below(values, "adamw/step1")
    rate, epsilon, relative = (
        adamw["learning_rate"],
        adamw["epsilon"],
        rounding.gradient(attributes["beta"] * errors(model)[0]),
    )
    vectors = 0
    for path, expected in stepped.items():
        if expected.ndim == 1:
            expected = expected + rate * adamw["weight_decay"] * before[path]
            vectors += 1
        assert np.abs(expected - before[path]).max() > 1e-4
        # the first step moves a weight by rate g / (|g| + epsilon); products give every g of a tensor the error of its
        # larger ones
        gradient = adamw["clip_scale"] * gradients[path]
        slope = rate * epsilon / (np.abs(gradient) + epsilon)**2
        error = rounding.total(
            slope * relative * np.abs(gradient).max(), rounding.EPS * np.abs(before[path]), rounding.EPS * rate
        )
        rounding.assert_near(found[path], expected, error, path)
    assert 0 < vectors < len(stepped)


def test_second_step_of_adamw():
    """The update of step 2 follows from the moments and the weights of step 1 with both bias corrections."""
    first, second = one_step("tiny_llama"), one_step("tiny_llama", **TWO_STEPS)
    assert second.metrics()["train/loss"][0] == first.metrics()["train/loss"][0]
    adamw = oracle("tiny_llama")[2]
    rate, beta1, beta2 = adamw["learning_rate"], adamw["beta1"], adamw["beta2"]
    weights, before = second.weights(), first.weights()
    moment, square = second.weights("optimizer/m"), second.weights("optimizer/v")
    for path, old in before.items():
        keep = 1 - rate * adamw["weight_decay"] if old.ndim == 2 else 1
        expected = keep * old - rate * moment[path] / (1 - beta1**2) / (
            np.sqrt(square[path] / (1 - beta2**2)) + adamw["epsilon"]
        )
        # a few roundings of the weight, of the decayed weight and of the update, which is a handful of rates at most
        rounding.assert_near(
            weights[path],
            expected,
            rounding.total(rounding.EPS * np.abs(old), rounding.EPS * np.abs(expected - old), rounding.EPS * rate),
            path,
        )
        moment1, square1 = first.weights("optimizer/m")[path], first.weights("optimizer/v")[path]
        gradient = (moment[path] - beta1 * moment1) / (1 - beta1)       # the difference of two rounded moments
        of_gradient = rounding.EPS * rounding.total(moment[path], moment1) / (1 - beta1)
        rounding.assert_near(
            square[path],
            beta2 * square1 + (1 - beta2) * gradient**2,
            rounding.total(rounding.EPS * square1, (1 - beta2) * (2 * np.abs(gradient) + of_gradient) * of_gradient),
            path,
        )
    clipped = second.metrics()
    assert (
        clipped["train/clipped"].tolist() == (clipped["train/grad_norm"] > adamw["max_grad_norm"]).astype(int).tolist()
    )

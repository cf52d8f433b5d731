"""The frozen reference: its log-probs, the cache of them, and what the cache is good for."""

import os
import shutil

import engine
import numpy as np
import pytest
import rounding

pytestmark = engine.needs_binary

SHORT = {"schedule.steps": 2}


def first_run():
    return engine.train(1, **SHORT)


def with_cache(ranks=1, cache=None, **settings):
    """A new run with a copy of the first one's cache (or `cache`) as reference.cache, and the path of that copy."""
    path = os.path.join(engine.new_folder("cache"), "reference.h5")
    shutil.copy(cache or first_run().path("reference.h5"), path)
    return engine.launch("train", ranks, **{**SHORT, "reference.cache": path, **settings}), path


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_matching_cache_is_reused():
    """A cache for this data, tokenizer and these weights is read and said to be; the run is the same to the last bit
    and leaves it alone."""
    run, path = with_cache()
    engine.succeed(run)
    assert f"reference log-probs of train from {path}" in run.err
    assert "reference log-probs" not in first_run().err
    assert content(path) == content(first_run().path("reference.h5"))
    assert not os.path.exists(run.path("reference.h5"))
    one, other = first_run().metrics(), run.metrics()
    for name in one:
        if not name.startswith("timing/") and name != "config":
            assert one[name].tobytes() == other[name].tobytes(), name
    for path, values in first_run().weights().items():
        assert values.tobytes() == run.weights()[path].tobytes()


def test_cache_is_believed():
    """What stands in a matching cache is what the loss is computed with: the cache is read, not made again."""
    def change(file):
        item = file["train/chosen"]
        item[...] = item[()] - 5
        item.attrs["checksum"] = engine.catdpo_h5.checksum(item[()])
    run, _ = with_cache(cache=engine.copy(first_run().path("reference.h5"), change))
    engine.succeed(run)
    metrics = run.metrics()
    tokens = engine.pairs_of(engine.PAIRS)["chosen_tokens"][metrics["train/pairs"][0]]
    of_pairs = rounding.log_probs(metrics["train/logps/chosen"][0], tokens)
    rounding.assert_near(
        metrics["train/rewards/chosen"][0],
        0.1 * 5,
        0.1 * rounding.mean(rounding.total(of_pairs, of_pairs)),
        "rewards/chosen",
    )


def other_data():
    return engine.copy(engine.PAIRS, lambda file: engine.set_text(file, "data_digest", "0123"), "pairs.h5")


def other_tokenizer():
    model = engine.change_model(lambda model: engine.set_text(model, "tokenizer_digest", "4567"))
    pairs = engine.copy(engine.PAIRS, lambda file: engine.set_text(file, "tokenizer_digest", "4567"), "pairs.h5")
    return {"model.path": model, "data.path": pairs}


def other_settings(file):
    engine.set_text(file, "settings", "dtype=bfloat16")


def damaged(file):
    file["train/rejected"][3] += 1


REFUSED = {
    "data": lambda: ({"data.path": other_data()}, None),
    "weights": lambda: ({"model.path": engine.other_model()}, None),
    "tokenizer": lambda: (other_tokenizer(), None),
    "settings": lambda: ({}, engine.copy(first_run().path("reference.h5"), other_settings)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_cache_is_refused_by_name(what):
    """A cache made for other data, weights, tokenizer or settings is refused in one line that names the file, which of
    them it is and what to do; it stays as it was."""
    settings, cache = REFUSED[what]()
    run, path = with_cache(2, cache, **{"parallel.replicas": 2, **settings})
    assert run.statuses == [2, 2] and len(run.errors) == 1, repr(run)
    assert path in run.errors[0] and f"other {what}" in run.errors[0] and "delete" in run.errors[0]
    assert content(path) == content(cache or first_run().path("reference.h5"))
    assert not os.path.exists(run.path("metrics.h5")) and not engine.leftovers(run.folder)


def test_damaged_cache_is_refused():
    """A cache with a changed number is refused by its checksum."""
    run, path = with_cache(cache=engine.copy(first_run().path("reference.h5"), damaged))
    assert run.statuses == [2] and len(run.errors) == 1 and path in run.errors[0] and "checksum" in run.errors[0], repr(
        run
    )


def test_eval_adds_its_group_to_the_cache():
    """eval puts the held-out pairs beside the training pairs in the same file, which train and eval then both reuse."""
    path = os.path.join(engine.new_folder("cache"), "reference.h5")
    shutil.copy(first_run().path("reference.h5"), path)
    settings = {
        "reference.cache": path,
        "model.path": first_run().path("checkpoints/final.h5"),
        "reference.model": engine.DEFAULTS["model.path"],
    }
    before = engine.read(path)
    first = engine.succeed(engine.launch("eval", **settings))
    after = engine.read(path)
    assert set(after) - set(before) == {"heldout/chosen", "heldout/rejected"}
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    second = engine.succeed(engine.launch("eval", **settings))
    assert f"reference log-probs of heldout from {path}" in second.err and "reference log-probs" not in first.err
    assert (
        first.read("eval.h5")["eval/pairs/ref_logps_chosen"].tobytes()
        == second.read("eval.h5")["eval/pairs/ref_logps_chosen"].tobytes()
    )
    trained = engine.succeed(engine.launch("train", **SHORT, **settings))
    assert f"reference log-probs of train from {path}" in trained.err


def test_reference_model_of_its_own():
    """reference.model other than model.path: the cached reference log-probs are that model's own, as eval finds them,
    and the weights that are trained are those of model.path."""
    other = engine.other_model()
    run = engine.train(
        2, **{**SHORT, "reference.model": other, "optimizer.learning_rate": 0.0, "parallel.grid": [1, 2]}
    )
    pairs = engine.below(
        engine.evaluate(options=("--split", "train", "--model", other), **SHORT).read("eval.h5"), "eval/pairs"
    )
    cached = run.read("reference.h5")
    for side in ("chosen", "rejected"):
        tokens = engine.pairs_of(engine.PAIRS)[f"{side}_tokens"]
        rounding.assert_near(
            cached[f"train/{side}"], pairs[f"logps_{side}"], rounding.log_probs(pairs[f"logps_{side}"], tokens), side
        )
        assert np.abs(pairs[f"logps_{side}"] - pairs[f"ref_logps_{side}"]).min() > 1e-3
    start = engine.below(engine.read(engine.DEFAULTS["model.path"]), "model")
    assert all(values.tobytes() == start[path].tobytes() for path, values in run.weights().items())
    digests = [engine.attributes(path, "model")["weights_digest"] for path in (engine.DEFAULTS["model.path"], other)]
    assert digests[0] != digests[1]
    assert engine.attributes(run.path("metrics.h5"))["weights_digest"] == digests[0]
    assert engine.attributes(run.path("checkpoints/final.h5"))["reference_digest"] == digests[1]
    assert engine.attributes(run.path("reference.h5"))["weights_digest"] == digests[1]


def test_reference_of_another_shape_is_refused():
    """A reference model of another architecture than the policy is refused in one line."""
    run = engine.launch(
        "train", 2, **{**SHORT, "reference.model": engine.fixture("tiny_llama_linear"), "parallel.replicas": 2}
    )
    assert run.statuses == [2, 2] and len(run.errors) == 1 and "architecture" in run.errors[0], repr(run)
    assert not engine.leftovers(run.folder)


def test_reference_with_another_rotation_is_refused():
    """A reference model that differs from the policy only in Llama 3's scaling of the rotary frequencies has the same
    weights and another result: it is refused, naming what differs, and not run with the policy's."""
    other = engine.copy(
        engine.fixture("tiny_llama3_tied"),
        lambda file: engine.catdpo_h5.set_attributes(file["model"], rope_low_freq_factor=2.0),
        "reference.h5",
    )
    run = engine.launch(
        "train",
        2,
        **{**SHORT, "model.path": engine.fixture("tiny_llama3_tied"), "reference.model": other, "parallel.replicas": 2},
    )
    assert run.statuses == [2, 2] and len(run.errors) == 1, repr(run)
    assert "reference.h5" in run.errors[0] and "rope_low_freq_factor is 2 and 1" in run.errors[0]
    assert not engine.leftovers(run.folder)

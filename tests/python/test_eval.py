"""`catdpo eval`: every number worked out again in numpy from the values of the pairs that it writes."""

import os

import engine
import h5py
import numpy as np
import pytest
import rounding

pytestmark = engine.needs_binary

BETA = 0.25
COMMON = {"objective.beta": BETA, "margin.tie": 0.05}
TRAINED = {**COMMON, "objective.type": "catdpo", "margin.eta": 0.5, "optimizer.learning_rate": 0.02}
Z = 1.959963984540054    # 97.5 % point of the normal distribution

LAYOUTS = {
    "1x1": (1, {}),
    "2x1": (2, {"parallel.grid": [2, 1]}),
    "1x2": (2, {"parallel.grid": [1, 2]}),
    "2-replicas": (2, {"parallel.replicas": 2}),
    "3-replicas": (3, {"parallel.replicas": 3, "batch.pairs": 4}),
}


def checkpoint():
    return engine.train(2, **TRAINED, **{"parallel.grid": [2, 1]}).path("checkpoints/final.h5")


def evaluated(layout="1x1", model=checkpoint, options=(), **settings):
    ranks, more = LAYOUTS[layout]
    return engine.evaluate(
        ranks, ("--model", model(), *options) if model else tuple(options), **{**COMMON, **more, **settings}
    )


def wilson(hits, n):
    if n == 0:
        return np.nan, np.nan
    p, scale = hits / n, 1 + Z * Z / n
    centre, half = (p + Z * Z / (2 * n)) / scale, Z / scale * np.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return centre - half, centre + half


def expected_violation(settings, logps, data, h):
    signal = settings.get("margin.signal", "likelihood")
    value = {
        "likelihood": logps["logps_chosen"] / data["chosen_tokens"] - logps["logps_rejected"] / data["rejected_tokens"],
        "reward": h,
        "margin": h - settings.get("margin.initial", 0) / BETA,
    }[signal]
    return np.where(abs(value) < COMMON["margin.tie"], 0.5, value <= 0)


SETTINGS = {
    "heldout": ((), {}),
    "train": (("--split", "train"), {}),
    "reward": ((), {"margin.signal": "reward"}),
    "margin": ((), {"margin.signal": "margin", "margin.initial": 0.4}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_follow_from_the_pairs(name):
    """Accuracy, violation rate and reward margin by category with counts and Wilson intervals; macro and micro mean,
    worst category, gap and variance."""
    options, settings = SETTINGS[name]
    run = evaluated(options=options, **settings)
    split = "train" if name == "train" else "heldout"
    data, file = engine.pairs_of(engine.PAIRS, split), run.read("eval.h5")
    logps, found = engine.below(file, "eval/pairs"), engine.below(file, "eval/category")
    mask, applies, harm = data["category_mask"].astype(bool), data["applies"], file["categories/harm"].astype(bool)
    h = (logps["logps_chosen"] - logps["ref_logps_chosen"]) - (logps["logps_rejected"] - logps["ref_logps_rejected"])
    assert logps["index"].tolist() == list(range(len(mask)))
    assert [name.decode() for name in file["categories/name"]] == ["privacy", "fraud", "benign"] and harm.tolist() == [
        True,
        True,
        False,
    ]

    violation = np.where(applies, expected_violation(settings, logps, data, h), np.nan)
    np.testing.assert_array_equal(logps["violation"], violation)
    right = np.where(abs(h) < COMMON["margin.tie"], 0.5, h > 0)
    rates = {"accuracy": [], "violation_rate": []}
    for k in range(3):
        counted = mask[:, k] & applies
        assert found["pairs"][k] == mask[:, k].sum() and found["n"][k] == counted.sum()
        assert found["violations"][k] == violation[counted].sum()
        np.testing.assert_allclose(found["rewards_margins"][k], BETA * h[mask[:, k]].mean(), rtol=1e-9)
        for column, hits, n in (
            ("accuracy", right[mask[:, k]].sum(), mask[:, k].sum()),
            ("violation_rate", violation[counted].sum(), counted.sum()),
        ):
            np.testing.assert_allclose(found[column][k], hits / n if n else np.nan, rtol=1e-12)
            np.testing.assert_allclose(
                [found[f"{column}_low"][k], found[f"{column}_high"][k]], wilson(hits, n), rtol=1e-9, atol=1e-12
            )
            if n and harm[k]:
                rates[column].append((hits, n))
    summary = engine.attributes(run.path("eval.h5"), "eval/summary")
    for column, worst in (("accuracy", min), ("violation_rate", max)):
        hits, n = np.array(rates[column]).T
        expected = {
            "micro": hits.sum() / n.sum(),
            "macro": (hits / n).mean(),
            "worst": worst(hits / n),
            "gap": np.ptp(hits / n),
            "variance": (hits / n).var(),
        }
        for key, value in expected.items():
            np.testing.assert_allclose(
                summary[f"{column}_{key}"], value, rtol=1e-12, atol=1e-15, err_msg=f"{column}_{key}"
            )
    kinds = [k for k in range(3) if harm[k] and found["n"][k]]
    assert summary["worst_category"] == ["privacy", "fraud"][max(kinds, key=lambda k: found["violation_rate"][k])]
    if name == "heldout":  # there is something to see
        assert 0 < found["violations"].sum() < found["n"].sum() and 0 < found["accuracy"][0] < 1
        assert len(kinds) > 1 and np.isnan(found["violation_rate"][2])


def test_table_says_what_the_file_says():
    """The terminal's table has the file's numbers: one line a category, then the summary."""
    run = evaluated()
    found, summary = (
        engine.below(run.read("eval.h5"), "eval/category"),
        engine.attributes(run.path("eval.h5"), "eval/summary"),
    )
    lines = run.out.splitlines()
    for k, name in enumerate(["privacy", "fraud", "benign"]):
        line = next(line for line in lines if line.startswith(name + " "))
        numbers = line.replace("[", "").replace("]", "").replace(",", "").split()[1:]
        expected = (
            [f"{found['pairs'][k]}"]
            + [f"{found[c][k]:.3f}" for c in ("accuracy", "accuracy_low", "accuracy_high")]
            + [f"{found['n'][k]}"]
        )
        expected += (
            [f"{found[c][k]:.3f}" for c in ("violation_rate", "violation_rate_low", "violation_rate_high")]
            if found["n"][k]
            else ["-"]
        )
        assert numbers == expected + [f"{found['rewards_margins'][k]:.3f}"], line
    for name in ("accuracy", "violation_rate"):
        line = next(line for line in lines if line.startswith(name.replace("_", " ") + " ") and "micro" in line)
        for key in ("micro", "macro", "worst", "gap"):
            assert f"{key} {summary[f'{name}_{key}']:.3f}" in line
    assert any(line.startswith("worst category") and line.endswith(summary["worst_category"]) for line in lines)


def test_before_training_all_are_ties():
    """The reference itself: its log-probs are the reference's, every pair is a tie in accuracy and, by the reward
    signal, in violation."""
    run = evaluated(model=None, **{"margin.signal": "reward"})
    file = run.read("eval.h5")
    assert engine.attributes(run.path("eval.h5"))["step"] == -1
    for side in ("chosen", "rejected"):
        np.testing.assert_array_equal(file[f"eval/pairs/logps_{side}"], file[f"eval/pairs/ref_logps_{side}"])
    np.testing.assert_array_equal(file["eval/category/accuracy"], 0.5)
    np.testing.assert_array_equal(file["eval/category/violations"], file["eval/category/n"] / 2)
    np.testing.assert_array_equal(file["eval/category/rewards_margins"], 0)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "1x1"])
def test_same_on_every_layout(layout):
    """Log-probs agree up to rounding on all layouts; counts, rates and intervals exactly."""
    one, other = evaluated().read("eval.h5"), evaluated(layout).read("eval.h5")
    assert one.keys() == other.keys()
    data = engine.pairs_of(engine.PAIRS, "heldout")
    of = {
        name: rounding.log_probs(values, data[f"{name.rsplit('_')[-1]}_tokens"])
        for name, values in one.items()
        if "logps" in name
    }
    of_h, mask = rounding.total(*of.values()), data["category_mask"].astype(bool)
    of["eval/category/rewards_margins"] = [BETA * rounding.mean(of_h[mask[:, k]]) for k in range(3)]
    for name, values in one.items():
        if name in of:
            rounding.assert_near(other[name], values, of[name], name)
        else:
            np.testing.assert_array_equal(other[name], values, name)


def test_log_probs_are_those_of_transformers():
    """Policy log-probs of the fixture's batch by the evaluated model agree with transformers'."""
    model = "tiny_qwen2_tied"
    source = engine.fixture(model)
    with h5py.File(source) as file:
        pairs, names = file["oracle/pairs"], [name.decode() for name in file["oracle/categories/name"]]
        def change(target):
            del target["heldout"], target["categories"]
            file.copy("oracle/categories", target, "categories")
            file.copy(pairs, target, "heldout")
            engine.set_text(target, "data_digest", model)
        path = engine.copy(engine.PAIRS, change, "pairs.h5")
        assert len(names) == 3
    run = engine.evaluate(2, **{"model.path": source, "data.path": path, "parallel.grid": [1, 2]})
    expected, found = engine.read(source), run.read("eval.h5")
    for side in ("chosen", "rejected"):
        tokens = engine.pairs_of(path, "heldout")[f"{side}_tokens"]
        rounding.assert_near(
            found[f"eval/pairs/logps_{side}"],
            expected[f"oracle/logps/{side}"],
            rounding.log_probs(expected[f"oracle/logps/{side}"], tokens),
            side,
        )


def test_file_says_where_it_comes_from():
    """--out names the file; its attributes say model, weights, data, split, step, signal and beta; it lies complete
    under its name."""
    out = f"{engine.new_folder('out')}/eval-after.h5"
    run = engine.succeed(engine.launch("eval", options=("--model", checkpoint(), "--out", out), **COMMON))
    said = engine.attributes(out)
    assert (
        said["model"] == checkpoint()
        and said["split"] == "heldout"
        and said["step"] == 5
        and said["signal"] == "likelihood"
    )
    assert said["beta"] == BETA and said["format"] == "catdpo-eval"
    assert said["weights_digest"] == engine.attributes(checkpoint(), "model")["weights_digest"]
    assert said["data_digest"] == engine.attributes(engine.PAIRS)["data_digest"]
    assert out in run.err and not engine.leftovers(run.folder)


# ---- what is evaluated ----------------------------------------------------------------------------------------------

def digest(model):
    return engine.attributes(model, "model")["weights_digest"]


def test_without_a_model_it_is_the_run_s_final_checkpoint():
    """Before training model.path, after it checkpoints/final.h5; one line says which; the file names the weights'
    digest."""
    settings = {**TRAINED, "run.dir": f"{engine.new_folder('own')}/run"}
    before = engine.succeed(engine.launch("eval", **settings))
    base = engine.DEFAULTS["model.path"]
    assert f"eval     model.path = {base}: {settings['run.dir']} has no checkpoints/final.h5" in before.err
    assert engine.attributes(before.path("eval.h5"))["weights_digest"] == digest(base)
    assert "note     policy and reference are the same weights" in before.err and "warning" not in before.err
    trained = engine.succeed(engine.launch("train", **settings))
    after = engine.succeed(engine.launch("eval", **settings))
    final = trained.path("checkpoints/final.h5")
    assert f"eval     {final}, the run's final checkpoint" in after.err
    said = engine.attributes(after.path("eval.h5"))
    assert said["weights_digest"] == digest(final) != digest(base) and said["model"] == final and said["step"] == 5
    named = engine.succeed(engine.launch("eval", options=("--model", base), **settings))
    assert f"eval     {base}, as --model says" in named.err
    assert engine.attributes(named.path("eval.h5"))["weights_digest"] == digest(base)


def other_pairs():
    """The same pairs as other data."""
    return engine.copy(engine.PAIRS, lambda file: engine.set_text(file, "data_digest", "2" * 64), "other.h5")


def test_other_data_have_a_reference_of_their_own():
    """--data evaluates another file; the run's reference.h5 stays as it is, and the second evaluation reuses what the
    first computed."""
    settings = {**TRAINED, "run.dir": f"{engine.new_folder('data')}/run"}
    trained = engine.succeed(engine.launch("train", **settings))
    cache = open(trained.path("reference.h5"), "rb").read()
    data = other_pairs()
    out = f"{trained.folder}/other.h5"
    first = engine.succeed(
        engine.launch("eval", options=("--data", data, "--split", "train", "--out", out), **settings)
    )
    assert engine.attributes(out)["data_digest"] == "2" * 64 and "reference log-probs of" not in first.err
    second = engine.succeed(
        engine.launch("eval", options=(f"--data={data}", "--split", "train", "--out", out), **settings)
    )
    assert "reference log-probs of train from " in second.err and "run/reference-" in second.err
    own = engine.succeed(engine.launch("eval", options=("--split", "train", "--out", out), **settings))
    assert f"reference log-probs of train from {trained.path('reference.h5')}\n" in own.err
    assert open(trained.path("reference.h5"), "rb").read() == cache
    resumed = engine.launch("train", options=("--resume",), **settings)
    assert resumed.statuses == [0], repr(resumed)


def test_a_cache_that_is_named_is_shared_and_left_alone_where_it_is_of_other_data():
    folder = engine.new_folder("named")
    cache = f"{folder}/shared.h5"
    settings = {**COMMON, "reference.cache": cache, "run.dir": f"{folder}/run"}
    engine.succeed(engine.launch("eval", **settings))
    before = open(cache, "rb").read()
    engine.succeed(engine.launch("eval", options=("--data", other_pairs()), **settings))
    assert (
        open(cache, "rb").read() == before
        and len([name for name in os.listdir(folder) if name.startswith("shared-")]) == 1
    )


def test_a_file_for_the_results_is_enough():
    """Without run.dir --out has to be given, and nothing else is written."""
    folder = engine.new_folder("out")
    run = engine.launch(
        "eval", options=("--model", checkpoint(), "--out", f"{folder}/e.h5"), **{**COMMON, "run.dir": None}
    )
    engine.succeed(run)
    assert os.listdir(folder) == ["e.h5"]
    none = engine.launch("eval", **{**COMMON, "run.dir": None})
    assert none.statuses == [2] and "--out" in none.errors[0] and "run.dir" in none.errors[0]
    reference = {
        "model.path": None,
        "reference.model": engine.DEFAULTS["model.path"],
    }  # the policy by --model, the reference by its own key
    engine.succeed(engine.launch("eval", options=("--model", checkpoint()), **{**COMMON, **reference}))
    none = engine.launch("eval", **{**COMMON, **reference})
    assert none.statuses == [2] and "model.path is not set" in none.errors[0]


def test_a_checkpoint_as_its_own_reference_is_warned_of():
    run = engine.succeed(engine.launch("eval", **{**COMMON, "model.path": checkpoint()}))
    assert "warning: policy and reference are the same weights" in run.err and "reference.model" in run.err


def test_columns_stand_below_each_other_whatever_the_names():
    """Names of other than ASCII letters are padded by characters, long ones are cut between characters."""
    names = ["Ärzte/Medizin", "é" * 20 + "x" * 20, "benign"]
    def rename(file):
        del file["categories/name"]
        data = [name.encode() for name in names]
        file["categories/name"] = np.array(data, dtype=h5py.string_dtype("utf-8", max(map(len, data))))

    run = engine.succeed(
        engine.launch("eval", **{**COMMON, "data.path": engine.copy(engine.PAIRS, rename, "pairs.h5")})
    )
    lines = run.out.splitlines()[:4]
    assert lines[1].startswith("Ärzte/Medizin ") and lines[2].startswith("é" * 20 + "x" * 12 + "  ")
    assert len({len(line) for line in lines}) == 1, run.out


@pytest.mark.parametrize("setting, path, words", [
    ("data.path", os.path.join(engine.ROOT, "configs", "example.jsonl"), "catdpo-analysis prepare"),
    ("model.path", "hf", "catdpo-analysis import"),
    ("model.path", "model.gguf", "catdpo-analysis import"),
    ("reference.model", "hf", "catdpo-analysis import"),
])
@pytest.mark.parametrize("command", ["train", "eval", "plan"])
def test_files_that_are_not_prepared_yet(setting, path, words, command):
    """Preference data as JSONL, a Hugging Face folder, a GGUF file: the command that makes an HDF5 file of it is
    named."""
    folder = engine.new_folder("foreign")
    if path == "hf":
        os.mkdir(f"{folder}/hf")
        open(f"{folder}/hf/config.json", "w").close()
    if path == "model.gguf":
        open(f"{folder}/model.gguf", "wb").write(b"GGUF")
    if command == "plan" and setting == "reference.model":
        pytest.skip("plan does not read the reference")
    run = engine.launch(
        command, options=("--ranks", "1") if command == "plan" else (), **{setting: os.path.join(folder, path)}
    )
    assert run.statuses == [2] and len(run.errors) == 1 and words in run.errors[0], repr(run)

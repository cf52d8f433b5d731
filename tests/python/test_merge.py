"""catdpo merge: the average of models, exactly, on any number of ranks; what cannot be averaged is refused."""

import os
import subprocess

import engine
import h5py
import numpy as np
import pytest

pytestmark = engine.needs_binary

A = engine.fixture("tiny_llama")


@pytest.fixture(scope="module")
def other():
    return engine.other_model()


def merge(*models, ranks=1, out=None, **options):
    """The run, and the path of what it has to make."""
    folder = engine.new_folder("merge")
    path = out or os.path.join(folder, "merged.h5")
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    return engine.start(["merge", *models, *words, "--out", path], ranks, folder), path


def merged(*models, **options):
    run, path = merge(*models, **options)
    assert set(run.statuses) == {0}, repr(run)
    return path


def digest(path):
    return engine.attributes(path, "model")["weights_digest"]


def weights(path):
    """{path below /model: bits of the weights}"""
    with h5py.File(path) as file:
        return {name: file["model"][name][()].view("u4") for name in engine.tensors(file["model"])}


def same(path, expected):
    found = weights(path)
    assert found.keys() == expected.keys()
    for name, bits in expected.items():
        np.testing.assert_array_equal(found[name], bits, err_msg=name)


def check(path):
    return subprocess.run([engine.BINARY, "check", path], capture_output=True, text=True)


@pytest.mark.parametrize("share", ["0.5,0.5", "0.3,0.7", "1.5,-0.5"])
def test_a_model_merged_with_itself_is_the_same_bits(share):
    path = merged(A, A, weights=share)
    assert digest(path) == digest(A)
    same(path, weights(A))


@pytest.mark.parametrize("share, of", [("1,0", 0), ("0,1", 1)])
def test_all_of_the_weight_on_one_model_gives_that_model(other, share, of):
    """To the last bit, zeros with a sign too."""

    def negative_zero(model):
        name = next(iter(engine.tensors(model)))
        model[name][...] = -np.zeros(model[name].shape, "f4")

    models = [engine.change_model(negative_zero), other]
    path = merged(*models, weights=share, unrelated=True)
    assert digest(path) == digest(models[of])
    same(path, weights(models[of]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_average_is_exact_on_any_number_of_ranks(other, ranks):
    """Every weight is the double-precision average rounded once; tensors with fewer rows than ranks are there too."""
    path = merged(A, other, weights="0.25,0.75", unrelated=True, ranks=ranks)
    with h5py.File(A) as a, h5py.File(other) as b:
        double = lambda file, name: file["model"][name][()].astype("f8")
        expected = {
            name: (0.25 * double(a, name) + 0.75 * double(b, name)).astype("f4").view("u4")
            for name in engine.tensors(a["model"])
        }
    same(path, expected)


def test_default_weights_are_equal(other):
    assert digest(merged(A, other, unrelated=True)) == digest(merged(A, other, unrelated=True, weights="0.5,0.5"))


def test_result_is_a_model_that_names_its_sources(other):
    """check knows it, train starts from it, and it has the tokenizer of the first."""
    path = merged(A, other, weights="0.25,0.75", unrelated=True, ranks=2)
    said = check(path)
    assert said.returncode == 0 and f"0.25 of {A}, weights {digest(A)}" in said.stdout, said.stdout
    assert f"0.75 of {other}, weights {digest(other)}" in said.stdout and digest(path) in said.stdout
    with h5py.File(A) as a, h5py.File(path) as file:
        assert sorted(file["tokenizer"]) == sorted(a["tokenizer"])
        assert dict(file["model"].attrs).keys() == dict(a["model"].attrs).keys()
        assert "optimizer" not in file and "margins" not in file
    assert engine.succeed(engine.launch("train", 2, **{"model.path": path, "schedule.steps": 1})).metrics()


def test_damage_in_what_is_said_of_the_sources_is_found(other):
    def more(file):
        file["merge/weight"][0] = 0.5

    said = check(engine.copy(merged(A, other, weights="0.25,0.75", unrelated=True), more))
    assert said.returncode == 2 and "add up to" in said.stdout, said.stdout


def test_models_of_one_start_are_known_by_their_files(other):
    """Checkpoints of one start, one that was trained on from another, and the start itself go together; a model of
    which no file says so does not, unless it is told that it does."""
    settings = {"parallel.grid": [2, 1], "schedule.steps": 1}
    first = engine.train(2, **settings).path("checkpoints/final.h5")
    second = engine.train(2, **settings, **{"optimizer.learning_rate": 0.02}).path("checkpoints/final.h5")
    third = engine.train(2, **settings, **{"model.path": first, "reference.model": first}).path("checkpoints/final.h5")
    for models in ((first, second), (A, first), (first, third), (second, third, first)):
        merged(*models)
    soup = merged(first, second)
    merged(soup, second)
    run, path = merge(first, other)
    assert set(run.statuses) == {2} and "--unrelated" in run.errors[0] and not os.path.exists(path), repr(run)
    assert engine.attributes(soup)["format"] == "catdpo-model"  # no checkpoint: nobody resumes from it


def broken(source=A):
    """A weight was changed behind its checksum."""

    def change(file):
        name = next(iter(engine.tensors(file["model"])))
        file["model"][name][0] += 1

    return engine.copy(source, change)


def other_tokenizer():
    return engine.copy(A, lambda file: engine.set_text(file["model"], "tokenizer_digest", "f" * 64))


def adapters():
    return engine.train(2, **{"lora.rank": 2, "parallel.grid": [2, 1], "schedule.steps": 1}).path(
        "checkpoints/final.h5"
    )


@pytest.mark.parametrize(
    "models, options, words",
    [
        (lambda: [A, adapters()], {}, "holds adapters"),
        (lambda: [A, engine.fixture("tiny_llama3_tied")], {}, "another shape"),
        (lambda: [A, other_tokenizer()], {}, "another tokenizer"),
        (lambda: [A, broken()], {"unrelated": True}, "damaged"),
        (lambda: [A, engine.PAIRS], {}, "catdpo-pairs"),
        (lambda: [A, "/nowhere/b.h5"], {}, "/nowhere/b.h5"),
        (lambda: [A], {}, "2 to 16 models"),
        (lambda: [A, A], {"weights": "0.5,0.4"}, "add up to 0.9"),
        (lambda: [A, A], {"weights": "1"}, "1 numbers for 2 models"),
        (lambda: [A, A], {"weights": "0.5,half"}, "list of numbers"),
        (lambda: [A, A], {"weights": "nan,1"}, "list of numbers"),
        (lambda: [A, A], {"out": "/nowhere/c.h5"}, "/nowhere"),
    ],
    ids="adapters shape tokenizer damaged pairs missing one sum count words nan folder".split(),
)
def test_what_cannot_be_merged_is_refused_in_one_line(models, options, words):
    """On every rank with status 2, and nothing is left behind."""
    run, path = merge(*models(), ranks=2, **options)
    assert set(run.statuses) == {2} and not run.hung, repr(run)
    assert len(run.errors) == 1 and words in run.errors[0], repr(run)
    assert not os.path.exists(path) and not engine.leftovers(run.folder)


def test_a_file_is_not_replaced_unasked():
    path = merged(A, A)
    before = open(path, "rb").read()
    run, _ = merge(A, A, out=path)
    assert set(run.statuses) == {2} and "--overwrite" in run.errors[0] and open(path, "rb").read() == before
    merged(A, A, out=path, overwrite=True)

"""`catdpo check`: says what a file is, passes whole ones of every kind, and names what is wrong with any other, with
status 2, without mpirun. One flipped bit anywhere in a checkpoint or in metrics.h5 is found, or changes nothing that a
reader can see."""

import os
import random
import shutil
import subprocess

import engine
import h5py
import numpy as np
import pytest
from conftest import write_model

pytestmark = engine.needs_binary

FLIPS = 200
SEEN_WHOLE = 10   # copies that are compared object by object; each takes a tenth of a second
SETTINGS = {"metrics.flush_steps": 2, "optimizer.learning_rate": 0.001}


def check(*files):
    """The answer without MPI: nothing of a launcher's environment is there."""
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        **{k: v for k, v in os.environ.items() if "SAN" in k or k.startswith("LD_")},
    }
    return subprocess.run(
        [engine.BINARY, "check", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env=environment,
    )


def verdicts(answer):
    """{file: "ok" or what is wrong} from the blocks on stdout."""
    found, name = {}, None
    for line in answer.stdout.splitlines():
        if not line.startswith(" "):
            name = line
        elif line.startswith(("  ok", "  BAD: ")):
            found[name] = line.strip().removeprefix("BAD: ")
    return found


@pytest.fixture(scope="module")
def run():
    """A run with every file: its directory."""
    done = engine.train(2, **SETTINGS, **{"parallel.grid": [2, 1]})
    folder = engine.new_folder("check")
    directory = os.path.join(folder, "run")
    shutil.copytree(done.directory, directory)
    engine.succeed(
        engine.launch(
            "eval",
            1,
            **{
                "run.dir": directory,
                **SETTINGS,
                "model.path": os.path.join(directory, "checkpoints/final.h5"),
                "reference.model": engine.fixture("tiny_llama"),
                "reference.cache": os.path.join(directory, "reference.h5"),
            },
        )
    )
    return directory


# ---- whole files ----------------------------------------------------------------------------------------------------

def test_files_of_a_run_are_whole(run):
    """A run directory stands for its files; each is named and described, and a file that is none of ours does not hide
    the others."""
    answer = check(run)
    assert answer.returncode == 0 and answer.stderr == "", answer
    names = [name for name in os.listdir(run) if name.endswith(".h5")] + ["checkpoints/final.h5"]
    assert {"eval.h5", "metrics.h5", "reference.h5"} < set(names)
    assert verdicts(answer) == {os.path.join(run, name): "ok" for name in names}
    for words in (
        "catdpo-checkpoint, version 2",
        "5 of 5",
        "privacy, fraud, benign",
        "steps       1 to 5",
        "grid 1x2x1",
        "28 pairs",
        "12 pairs of heldout",
        "parameters, 2 layers",
        "21 tensors, digest",
    ):
        assert words in answer.stdout, words
    assert "seal" not in answer.stdout


def make_model_and_pairs(cli, tmp_path):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "model.h5")
    rows = "".join('{"prompt": "the sky %d", "chosen": " is blue", "rejected": " is green"}\n' % i for i in range(20))
    (tmp_path / "pairs.jsonl").write_text(rows)
    cli("prepare", tmp_path / "pairs.jsonl", "--model", tmp_path / "model.h5", "--out", tmp_path / "pairs.h5")
    return str(tmp_path / "model.h5"), str(tmp_path / "pairs.h5")


def test_models_and_pairs_are_whole(cli, tmp_path):
    """What catdpo-analysis imports and prepares, and the fixtures, which are not sealed and said to be so."""
    answer = check(*make_model_and_pairs(cli, tmp_path))
    assert answer.returncode == 0 and list(verdicts(answer).values()) == ["ok", "ok"] and "seal" not in answer.stdout, (
        answer
    )
    assert "catdpo-model, version 1" in answer.stdout and "catdpo-pairs, version 1" in answer.stdout
    answer = check(engine.PAIRS, *map(engine.fixture, engine.MODELS))
    assert (
        answer.returncode == 0 and set(verdicts(answer).values()) == {"ok"} and "seal        none" in answer.stdout
    ), answer


def test_files_of_replicas_are_whole():
    """What two replicas write together, each its share."""
    done = engine.train(2, **SETTINGS, **{"parallel.grid": [1, 1]})
    assert check(done.directory).returncode == 0


# ---- what is not a file of ours -------------------------------------------------------------------------------------

def test_foreign_files_are_named_and_the_others_checked(run, tmp_path):
    """Text, nothing, an HDF5 file of another program, a missing file, an empty folder: one line each, status 2; whole
    files stay ok."""
    (tmp_path / "text.h5").write_text("not HDF5\n")
    (tmp_path / "empty.h5").write_text("")
    (tmp_path / "folder").mkdir()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with h5py.File(tmp_path / "newer.h5", "w") as file:
        engine.catdpo_h5.set_attributes(file, format="catdpo-model", format_version=99)
    names = ["text.h5", "empty.h5", "other.h5", "newer.h5", "missing.h5", "folder"]
    answer = check(*(tmp_path / name for name in names), os.path.join(run, "metrics.h5"))
    found = {os.path.basename(name): verdict for name, verdict in verdicts(answer).items()}
    assert answer.returncode == 2 and answer.stderr == "", answer
    for name, words in zip(
        names,
        [
            "not an HDF5 file",
            "not an HDF5 file",
            "another program",
            "format version 99",
            "No such file",
            "holds no .h5",
        ],
    ):
        assert words in found[name], found
    assert found["metrics.h5"] == "ok"


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 1 << 26},
        {"num_hidden_layers": 4096, "intermediate_size": 1 << 24},
        {"num_attention_heads": 1 << 30, "num_key_value_heads": 1 << 30, "head_dim": 2},
    ],
    ids=str,
)
def test_a_model_that_claims_more_than_its_file_holds(tmp_path, sizes):
    """Sizes are compared with the file before anything is allocated for them, and their products do not overflow."""
    path = tmp_path / "model.h5"
    shutil.copy(engine.fixture("tiny_llama"), path)
    with h5py.File(path, "r+") as file:
        for name, value in sizes.items():
            file["model"].attrs.modify(name, np.int64(value))
    answer = check(path)
    assert answer.returncode == 2 and answer.stderr == "", answer
    assert any(
        words in verdicts(answer)[str(path)]
        for words in ("MB of weights, the file has", "beyond what this program was made for")
    ), answer


def test_no_file_is_a_mistake():
    answer = check()
    assert (
        answer.returncode == 2
        and answer.stdout == ""
        and "needs a file" in answer.stderr
        and answer.stderr.count("\n") == 1
    )


def test_help_without_mpi():
    answer = check("--help")
    assert answer.returncode == 0 and "usage: catdpo check FILE..." in answer.stdout and "--set" not in answer.stdout


# ---- damage ---------------------------------------------------------------------------------------------------------

def assign(path, index, value):
    return lambda file: file[path].__setitem__(index, value)


def reseal(path, index, value):
    """Values that are wrong although their checksum is right."""
    def change(file):
        file[path][index] = value
        values = file[path][()]
        file[path].attrs["checksum"] = np.uint64(
            engine.catdpo_h5.checksum(values.astype("u4") if values.itemsize == 1 else values)
        )

    return change


def attribute(path, name, value):
    return lambda file: engine.catdpo_h5.set_attributes(file[path], **{name: value})


def remove(path):
    return lambda file: file.__delitem__(path)


CHECKPOINT, METRICS = "checkpoints/final.h5", "metrics.h5"
DAMAGE = [
    (CHECKPOINT, assign("model/norm/weight", 3, 2.0), "/model/norm/weight is damaged: its checksum"),
    (CHECKPOINT, assign("optimizer/m/norm/weight", 3, 2.0), "/optimizer/m/norm/weight is damaged"),
    (CHECKPOINT, reseal("model/norm/weight", 3, np.nan), "NaN or infinite"),
    (CHECKPOINT, reseal("model/norm/weight", 3, 2.0), "have the digest"),
    (CHECKPOINT, reseal("optimizer/v/norm/weight", 3, -1.0), "not negative"),
    (CHECKPOINT, remove("optimizer/v/norm/weight"), "has no /optimizer/v/norm/weight"),
    (CHECKPOINT, assign("margins/violation_rate", 0, 1.5), "entry 0 of /margins/violation_rate is 1.5"),
    (CHECKPOINT, assign("margins/margin", 1, np.inf), "entry 1 of /margins/margin is inf"),
    (CHECKPOINT, assign("margins/pending", 0, 10**6), "/margins: category 0"),
    (CHECKPOINT, attribute("sampler", "kind", "random"), "/sampler is of the unknown kind"),
    (CHECKPOINT, attribute("sampler", "step", 4), "the sampler at 4"),
    (CHECKPOINT, attribute("/", "step", -1), '"step" of / is -1'),
    (CHECKPOINT, attribute("model", "hidden_size", 18), "is needed"),
    (CHECKPOINT, assign("tokenizer/tokenizer.json", 100, 0), "/tokenizer/tokenizer.json is damaged"),
    (METRICS, assign("train/loss", 2, 0.5), "/train/loss is damaged: its checksum"),
    (METRICS, assign("train/clipped", 2, 0), "/train/clipped is damaged: its checksum"),
    (METRICS, reseal("train/step", 2, 7), "row 2 is step 7"),
    (METRICS, reseal("train/category/violation_rate", (1, 0), 1.5), "violation_rate at step 2 holds 1.5"),
    (METRICS, reseal("train/category/margin", (1, 0), np.nan), "margin at step 2 holds nan"),
    (METRICS, reseal("train/category/n", (3, 1), 99), "step 4, category 1"),
    (METRICS, assign("train/partial/violations", (0, 1), 99), "steps 5 to 5, category 1"),
    (METRICS, attribute("train/partial", "last_step", 7), "steps 5 to 7, and the file has 5"),
    (METRICS, assign("train/pair/logps_chosen", (2, 0), -1.0), "/train/pair/logps_chosen is damaged"),
    (METRICS, lambda file: file["train/loss"].resize((4,)), "[4]; [5] is needed"),
    (METRICS, remove("train/entropy"), "has no /train/entropy"),
    ("reference.h5", assign("train/chosen", 2, -1.0), "/train/chosen is damaged"),
    ("reference.h5", reseal("train/rejected", 2, np.inf), "entry 2 of /train/rejected is inf; it must be finite"),
    ("eval.h5", assign("eval/category/accuracy", 0, 1.25), "it must be in [0, 1], or NaN"),
    ("eval.h5", assign("eval/category/violations", 0, 0.25), "do not follow from its counts"),
    ("eval.h5", assign("eval/pairs/logps_chosen", 1, np.nan), "it must be finite"),
    ("eval.h5", attribute("eval/summary", "accuracy_micro", 0.0123), "/eval/summary gives accuracy as micro 0.0123"),
    ("eval.h5", attribute("eval/summary", "worst_category", "benign"), "as the worst category"),
]


def test_damage_is_named(run):
    """Each promise of a file, broken by a program that writes valid HDF5: the message says which."""
    copies, wanted = [], {}
    for name, change, words in DAMAGE:
        copies.append(engine.copy(os.path.join(run, name), change, os.path.basename(name)))
        wanted[copies[-1]] = words
    answer = check(*copies)
    assert answer.returncode == 2 and answer.stderr == "", answer
    found = verdicts(answer)
    assert list(found) == copies
    for path, words in wanted.items():
        assert words in found[path], (path, words, found[path])


def test_a_file_cut_short_is_named(run, tmp_path):
    """Each file, without its last byte, without its second half, and with a byte too many."""
    for name in (CHECKPOINT, METRICS, "reference.h5", "eval.h5"):
        data = open(os.path.join(run, name), "rb").read()
        for length in (len(data) - 1, len(data) // 2, 100):
            (tmp_path / f"{os.path.basename(name)}-{length}.h5").write_bytes(data[:length])
        (tmp_path / f"{os.path.basename(name)}-long.h5").write_bytes(data + b"\0")
    answer = check(tmp_path)
    found = verdicts(answer)
    assert answer.returncode == 2 and len(found) == 16
    for path, verdict in found.items():
        assert "damaged" in verdict, (path, verdict)


# ---- flipped bits ---------------------------------------------------------------------------------------------------

def content(path):
    """All that a reader can see of a file: objects, types, shapes, values, attributes. References as the names of what
    they lead to."""
    def plain(file, value):
        if isinstance(value, h5py.Reference):
            return file[value].name
        if isinstance(value, np.void):
            return [plain(file, part) for part in value]
        if isinstance(value, np.ndarray):
            return (
                [plain(file, part) for part in value.flat]
                if value.dtype.hasobject
                else (str(value.dtype), value.shape, value.tobytes())
            )
        return (str(getattr(value, "dtype", type(value))), value.tobytes() if isinstance(value, np.generic) else value)

    def attributes(file, item):
        return {name: plain(file, item.attrs[name]) for name in item.attrs}

    found = {}
    with h5py.File(path, "r") as file:
        found["/"] = attributes(file, file)

        def visit(name, item):
            data = plain(file, item[()]) if isinstance(item, h5py.Dataset) else "group"
            shape = (item.shape, item.maxshape, item.chunks, str(item.dtype)) if isinstance(item, h5py.Dataset) else ()
            found[name] = (shape, data, attributes(file, item))
        file.visititems(visit)
    return found


def chunks(path):
    """(begin, end, name) of the bytes of each chunk of a dataset: rows that are not there yet have their room in
    them."""
    found = []
    with h5py.File(path, "r") as file:
        def visit(name, item):
            if isinstance(item, h5py.Dataset) and item.chunks:
                for i in range(item.id.get_num_chunks()):
                    chunk = item.id.get_chunk_info(i)
                    found.append((chunk.byte_offset, chunk.byte_offset + chunk.size, name))
        file.visititems(visit)
    return found


def flip(source, places, folder):
    """Copies of a file, one flipped bit each."""
    data = bytearray(open(source, "rb").read())
    copies = []
    for place in places:
        data[place // 8] ^= 1 << place % 8
        copies.append(os.path.join(folder, f"{place}.h5"))
        open(copies[-1], "wb").write(data)
        data[place // 8] ^= 1 << place % 8
    return copies


def find_flips(source, places):
    """Checks a copy for each place; returns the places that were not found, after showing that nothing changed at some
    of them."""
    folder = engine.new_folder("flips")
    copies = flip(source, places, folder)
    answer = check(*copies)
    found = verdicts(answer)
    assert answer.returncode in (0, 2) and answer.stderr == "" and list(found) == copies
    unseen = [place for place, path in zip(places, copies) if found[path] == "ok"]
    whole = content(source) if unseen else None
    for place in unseen[:SEEN_WHOLE]:
        assert content(os.path.join(folder, f"{place}.h5")) == whole, (
            f"bit {place} of {source} changes the file and is not found"
        )
    shutil.rmtree(folder)
    return unseen


def test_flips_in_a_checkpoint_are_found(run):
    """200 random bits of a checkpoint: every byte of one carries data, or is covered all the same."""
    source = os.path.join(run, CHECKPOINT)
    places = random.Random(1).sample(range(8 * os.path.getsize(source)), FLIPS)
    assert find_flips(source, places) == []


def test_a_flipped_checkpoint_is_not_resumed(tmp_path):
    """What `check` finds, --resume refuses: bits in the front, in attributes, weights, moments, margins and in the
    seal; nothing is changed."""
    directory = os.path.join(engine.new_folder("resume"), "run")
    settings = {"run.dir": directory, **SETTINGS, "checkpoint.steps": 2}
    engine.succeed(engine.launch("train", 1, **settings))
    source = os.path.join(directory, "checkpoints", "step-00000004.h5")
    with h5py.File(source, "r") as file:
        tensors = [
            file[name].id.get_offset()
            for name in ("model/norm/weight", "optimizer/m/norm/weight", "optimizer/v/norm/weight")
        ]
        small = [file[name].id.get_offset() for name in ("margins/margin", "config", "tokenizer/tokenizer.json")]
    size = os.path.getsize(source)
    places = [8 * byte + 3 for byte in (20, 400, *tensors, *small, size - 60, size - 1)]
    for path in flip(source, places, tmp_path):
        before = engine.read(os.path.join(directory, METRICS))
        run = engine.launch("train", 1, options=[f"--resume={path}"], **settings)
        assert run.statuses == [2] and len(run.errors) == 1 and os.path.basename(path) in run.errors[0], repr(run)
        assert all(
            values.tobytes() == before[name].tobytes()
            for name, values in engine.read(os.path.join(directory, METRICS)).items()
        )
    engine.succeed(engine.launch("train", 1, options=[f"--resume={source}"], **settings))


def test_flips_in_metrics_are_found(run):
    """200 random bits of metrics.h5: only room for rows that are not there yet may change unseen, and then the rows
    that are there read the same; 200 more outside of all chunks are found."""
    source = os.path.join(run, METRICS)
    size, values = os.path.getsize(source), engine.read(source)
    inside = {byte: name for begin, end, name in chunks(source) for byte in range(begin, end)}
    outside = [8 * byte + random.Random(byte).randrange(8) for byte in range(size) if byte not in inside]
    unseen = find_flips(source, random.Random(2).sample(range(8 * size), FLIPS))
    for place in unseen:
        path = flip(source, [place], engine.new_folder("flip"))[0]
        with h5py.File(path, "r") as file:
            name = inside[place // 8]
            assert file[name][()].tobytes() == values[name].tobytes(), f"bit {place} of {source}"
        os.remove(path)
    assert find_flips(source, random.Random(3).sample(outside, FLIPS)) == []
    print(
        f"metrics.h5: {len(unseen)} of {FLIPS} flips in room for later rows, which is {len(inside) / size:.0%} of the "
        "file with the rows"
    )


def test_flips_in_other_files_are_found(run, cli, tmp_path):
    """The same for the other kinds, which have no room to spare."""
    files = [os.path.join(run, "reference.h5"), os.path.join(run, "eval.h5"), *make_model_and_pairs(cli, tmp_path)]
    for seed, source in enumerate(files):
        assert find_flips(source, random.Random(seed).sample(range(8 * os.path.getsize(source)), FLIPS)) == []


def test_settings_are_checked_with_all_their_mistakes(tmp_path):
    """A config: what differs from the defaults, or every mistake with its line."""
    good, bad = tmp_path / "good.cfg", tmp_path / "bad.cfg"
    good.write_text('margin: { eta = 0.5; };\nrun: { dir = "runs/a b"; };\n')
    bad.write_text("margin: { etaa = 1; };\n\nbatch: { pairs = 0; };\n")
    answer = check(good, bad, os.path.join(engine.ROOT, "configs/default.cfg"), tmp_path / "none.cfg")
    assert answer.returncode == 2 and answer.stderr == ""
    assert '    run.dir = "runs/a b"\n    margin.eta = 0.5\n  ok\n' in answer.stdout
    assert (
        "  BAD: line 1: unknown key 'margin.etaa'" in answer.stdout
        and "\n       line 3: batch.pairs = 0 is outside" in answer.stdout
    )
    assert "cannot read the config" in verdicts(answer)[str(tmp_path / "none.cfg")]
    assert list(verdicts(answer).values())[0::2] == ["ok", "ok"]

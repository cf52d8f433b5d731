"""catdpo plan: what it says before a run holds for the run.

Memory is compared with the peak that the system reports for each rank, bytes with those counted at MPI's profiling
layer (tests/mpi/count_messages.c, loaded before the program's own libraries).

    CATDPO_TEST_MODEL=model.h5 CATDPO_TEST_PAIRS=pairs.h5   also for this model and these data (minutes)
    CATDPO_TEST_TIME=1                                      and time: nothing else may run on the machine
"""

import json
import os
import shlex
import statistics
import subprocess
import sys

import engine
import h5py
import numpy as np
import pytest
from conftest import write_model

pytestmark = engine.needs_binary

MEASURE = os.path.join(engine.ROOT, "tests", "bench", "measure_rank.py")
MODEL, PAIRS = os.environ.get("CATDPO_TEST_MODEL"), os.environ.get("CATDPO_TEST_PAIRS")
SANITIZED = "CATDPO_PRELOAD" in os.environ  # tests/run.sh --sanitize: other memory, other speed
FREE = {"parallel.grid": "auto"}
ADVERSARY = {"adversary.type": "contrastive", "adversary.steps": 3}
NAMED = {"model.path": MODEL, "data.path": PAIRS, "batch.pairs": 4, "optimizer.learning_rate": 1e-6}


def write_config(folder, settings):
    path = os.path.join(folder, "run.cfg")
    settings = {"run.dir": os.path.join(folder, "run"), **engine.DEFAULTS, **FREE, **settings}
    with open(path, "w") as file:
        file.write(engine.config_text({key: value for key, value in settings.items() if value is not None}))
    return path


def call(*options, environment=(), **settings):
    """catdpo plan as a user calls it: one process, no mpirun."""
    config = write_config(engine.new_folder("plan"), settings)
    return subprocess.run(
        [engine.BINARY, "plan", config, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **dict(environment)},
    )


def plan(*options, **settings):
    done = call("--json", *options, **settings)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return json.loads(done.stdout)


def shape(grid):
    return grid["replicas"], grid["rows"], grid["columns"]


def parallel(grid):
    return {"parallel.replicas": grid[0], "parallel.grid": [grid[1], grid[2]]}


class Measured:
    """One run of train: peak memory of each rank, bytes that all ranks sent, seconds of each step."""

    def __init__(self, ranks, grid, **settings):
        folder = engine.new_folder("measured")
        config = write_config(folder, {**settings, **parallel(grid)})
        environment = {**os.environ, "CATDPO_COUNT": os.path.join(folder, "count"), "CATDPO_PRELOAD": engine.COUNTER}
        done = subprocess.run(
            ["sh", engine.MPIRUN, str(ranks), sys.executable, MEASURE, folder, engine.BINARY, "train", config],
            capture_output=True,
            text=True,
            timeout=1800,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        self.memory = (
            max(int(open(os.path.join(folder, name)).read()) for name in os.listdir(folder) if name.endswith(".kb"))
            * 1024
        )
        self.bytes = sum(float(open(os.path.join(folder, f"count.{rank}")).read().split()[0]) for rank in range(ranks))
        with h5py.File(os.path.join(folder, "run", "metrics.h5")) as file:
            self.seconds = file["timing/step_seconds"][()]


def grid_of(planned, wanted):
    return next(grid for grid in planned["sizes"][0]["grids"] if shape(grid) == wanted)


def compare(ranks, grid, steps=(2, 6), **settings):
    """(what, planned, measured) of memory and bytes. Bytes: of the steps that a longer run has more than a shorter
    one."""
    few, many = (Measured(ranks, grid, **{**settings, "schedule.steps": count}) for count in steps)
    planned = [grid_of(plan("--ranks", ranks, **{**settings, "schedule.steps": count}), grid) for count in steps]
    sent = [entry["step"]["bytes"] * ranks * count for entry, count in zip(planned, steps)]
    print(
        f"{ranks} ranks, {grid}: memory {planned[1]['memory']['total'] / 1e6:.1f} MB planned, {many.memory / 1e6:.1f} "
        "measured; "
        f"sent {(sent[1] - sent[0]) / 1e6:.3f} MB planned, {(many.bytes - few.bytes) / 1e6:.3f} counted"
    )
    return (planned[1]["memory"]["total"], many.memory), (sent[1] - sent[0], many.bytes - few.bytes)


def check_comparison(memory, sent):
    assert memory[0] == pytest.approx(memory[1], rel=0.1), f"memory: {memory[0]:.0f} planned, {memory[1]} measured"
    assert sent[0] == pytest.approx(sent[1], rel=0.1), f"sent: {sent[0]:.0f} planned, {sent[1]:.0f} counted"


LAYOUTS = [
    (1, (1, 1, 1)),
    (2, (2, 1, 1)),
    (2, (1, 2, 1)),
    (2, (1, 1, 2)),
    (4, (4, 1, 1)),
    (4, (2, 2, 1)),
    (4, (2, 1, 2)),
    (4, (1, 2, 2)),
    (4, (1, 1, 4)),
]


# ---- what the run does ----------------------------------------------------------------------------------------------

@pytest.mark.skipif(SANITIZED, reason="a sanitized program has memory of its own")
@pytest.mark.parametrize("ranks, grid", LAYOUTS)
def test_tiny_memory_and_bytes(ranks, grid):
    """Memory within 10 % of the measured peak, bytes within 10 % of what was counted, for each kind of grid."""
    check_comparison(*compare(ranks, grid))


@pytest.mark.skipif(SANITIZED, reason="a sanitized program has memory of its own")
def test_tiny_bytes_with_passes_and_recomputation():
    """The same when a step runs in several passes, logits in several chunks and layers twice."""
    settings = {
        "batch.max_tokens": 60,
        "engine.logits_mb": 0.01,
        "engine.recompute": True,
        "model.path": engine.fixture("tiny_qwen3"),
    }
    check_comparison(*compare(2, (1, 2, 1), **settings))


@pytest.mark.skipif(SANITIZED, reason="a sanitized program has memory of its own")
@pytest.mark.parametrize(
    "model, grid, recompute",
    [("tiny_gemma3", (1, 2, 1), True), ("tiny_olmo2", (1, 2, 1), False), ("tiny_gemma3", (1, 1, 2), False)],
)
def test_tiny_bytes_of_families_with_other_layers(model, grid, recompute):
    """The same where a layer has other norms: more sums over process rows, and more that is run twice."""
    check_comparison(*compare(2, grid, **{"model.path": engine.fixture(model), "engine.recompute": recompute}))


@pytest.mark.skipif(SANITIZED, reason="a sanitized program has memory of its own")
@pytest.mark.parametrize("grid", [(2, 1), (1, 2)])
def test_tiny_bytes_of_an_adversary(grid):
    """The same where every pass is attacked before it is trained on."""
    check_comparison(*compare(2, (1, *grid), **ADVERSARY))


@pytest.mark.skipif(SANITIZED, reason="a sanitized program has memory of its own")
@pytest.mark.parametrize("ranks, grid", [(2, (1, 2, 1)), (2, (1, 1, 2)), (4, (1, 2, 2)), (2, (2, 1, 1))])
@pytest.mark.parametrize("layers", ["all", "1"])
def test_tiny_bytes_of_adapters(ranks, grid, layers):
    """The same where adapters are trained: products of their own, no gradients of the model, and no backward pass below
    the first of them."""
    check_comparison(*compare(ranks, grid, **{"lora.rank": 4, "lora.layers": layers}))


@pytest.mark.parametrize("size, parameters", [("gemma3-1b", 999_885_952), ("8b", 8_030_261_248)])
def test_sizes_of_models_that_are_not_there(size, parameters):
    """The shapes that --model-size knows have as many parameters as the published models."""
    made_up = {"model.path": None, "data.path": None, "schedule.steps": 1}
    assert (
        plan("--ranks", 1, "--model-size", size, "--gflops", 50, "--tokens-per-pair", 100, **made_up)["parameters"]
        == parameters
    )


@pytest.mark.skipif(
    not (MODEL and PAIRS) or SANITIZED, reason="no model and data named in CATDPO_TEST_MODEL and CATDPO_TEST_PAIRS"
)
@pytest.mark.parametrize(
    "ranks, grid", [(1, (1, 1, 1)), (2, (2, 1, 1)), (2, (1, 2, 1)), (2, (1, 1, 2)), (4, (1, 2, 2))]
)
def test_named_model_memory_and_bytes(ranks, grid):
    """The same for a model and data of real size."""
    check_comparison(*compare(ranks, grid, steps=(1, 2), **NAMED))


@pytest.mark.skipif(
    "CATDPO_TEST_TIME" not in os.environ or not (MODEL and PAIRS), reason="time is only asked for with CATDPO_TEST_TIME"
)
@pytest.mark.parametrize("ranks, grid", [(1, (1, 1, 1)), (2, (2, 1, 1)), (2, (1, 2, 1)), (2, (1, 1, 2))])
def test_time_of_a_step(ranks, grid):
    """The expected time of a step is within 25 % of the measured one."""
    settings = {**NAMED, "schedule.steps": 8, "checkpoint.final": False}
    planned = grid_of(plan("--ranks", ranks, **settings), grid)["step"]
    measured = statistics.median(Measured(ranks, grid, **settings).seconds[1:])
    print(f"{ranks} ranks, {grid}: {planned['seconds']:.3f} s planned, {measured:.3f} s measured; {planned}")
    assert planned["seconds"] == pytest.approx(measured, rel=0.25)


# ---- which grids ----------------------------------------------------------------------------------------------------

def start(ranks, grid, **settings):
    return engine.launch(
        "train", ranks, **{"schedule.steps": 1, "checkpoint.final": False, **parallel(grid), **settings}
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
def test_valid_grids_run_and_refused_ones_are_refused(ranks):
    """train runs every grid that plan calls valid and refuses every other one, for the reason that plan gives."""
    grids = plan("--ranks", ranks)["sizes"][0]["grids"]
    expected = {
        (d, r, ranks // d // r) for d in range(1, ranks + 1) for r in range(1, ranks + 1) if ranks % (d * r) == 0
    }
    assert {shape(grid) for grid in grids} == expected
    runs = [engine.submit(start, ranks, shape(grid)) for grid in grids]
    for grid, run in zip(grids, runs):
        run = run.result()
        assert run.statuses == [0 if grid["valid"] else 2] * ranks, f"{shape(grid)} {run}"
        if not grid["valid"]:
            assert grid["reason"] in run.errors[0]


def test_memory_refuses_the_same_grids():
    """With memory for some grids and not for others (parallel.memory_gb), plan and train agree which; "auto" takes one
    that fits."""
    free = plan("--ranks", 2)["sizes"][0]["grids"]
    needs = sorted(grid["need"] for grid in free)
    limit = {"parallel.memory_gb": (needs[0] + needs[1]) / 2e9}
    grids = plan("--ranks", 2, **limit)["sizes"][0]["grids"]
    assert [grid["valid"] for grid in grids].count(True) == 1
    for grid in grids:
        run = start(2, shape(grid), **limit)
        assert run.statuses == [0 if grid["valid"] else 2] * 2, f"{shape(grid)} {run}"
        if not grid["valid"]:
            assert grid["reason"] in run.errors[0] and "a rank" in grid["reason"]


def test_recommended_grid_is_that_of_auto():
    """Where no grid is clearly faster than the one that parallel.grid = "auto" takes, it is the recommended one."""
    size = plan("--ranks", 2, "--latency-us", 0)["sizes"][0]
    best = size["grids"][size["recommended"]]
    line = next(
        line for line in engine.train(2, **{**FREE, "schedule.steps": 1}).err.splitlines() if line.startswith("grid ")
    )
    if "auto" in size["why"].split(":")[0]:
        assert f"{best['replicas']} replica" in line and f"of {best['rows']} x {best['columns']}" in line


def test_no_grid_fits():
    """Nothing is recommended where nothing fits, and the reason is told."""
    size = plan("--ranks", 2, "--memory-per-rank", 1e-4)["sizes"][0]
    assert size["recommended"] is None and "no grid of 2 ranks fits" in size["why"]
    assert not any(grid["valid"] for grid in size["grids"])


# ---- what is printed ------------------------------------------------------------------------------------------------

def test_runs_without_mpi():
    """MPI is never initialised: a library that would notice MPI_Finalize notices nothing."""
    mark = os.path.join(engine.new_folder("count"), "count")
    done = (
        call("--ranks", 2, environment={"LD_PRELOAD": engine.COUNTER, "CATDPO_COUNT": mark})
        if not SANITIZED
        else call("--ranks", 2)
    )
    assert done.returncode == 0 and not os.path.exists(f"{mark}.0")


def test_command_submits_the_recommended_grid():
    """The sbatch line has nodes, ranks a node, wall time, the config, the settings of this call and the grid, quoted
    for a shell."""
    done = call(
        "--nodes", 2, "--ranks-per-node", 2, "--memory-per-rank", 1, "--hours", 1.5, "--set", "run.dir=runs/a b"
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("submit"))
    words = shlex.split(line)[1:]
    assert (
        words[:4] == ["sbatch", "--nodes=2", "--ntasks-per-node=2", "--time=1:30:00"]
        and words[4] == "jobs/train.sbatch"
    )
    assert words[5].endswith("run.cfg") and words[6:8] == ["--set", "run.dir=runs/a b"]
    sets = dict(word.split("=", 1) for word in words[6:] if "=" in word)
    rows, columns = json.loads(sets["parallel.grid"])
    assert rows * columns * int(sets["parallel.replicas"]) == 4 and sets["parallel.memory_gb"] == "1"
    assert "of 5 steps in the first job" in done.stdout
    assert done.stdout.startswith("take ") and done.stdout.index("submit ") < done.stdout.index(
        "model "
    )  # the answer first
    threaded = call("--nodes", 2, "--ranks-per-node", 2, "--set", "parallel.threads=4").stdout
    assert "sbatch --nodes=2 --ntasks-per-node=2 --cpus-per-task=4 jobs/train.sbatch" in threaded


def test_text_and_json_tell_the_same():
    """Every valid grid has a line in the text with the numbers of the JSON."""
    machine = ("--gflops", 50, "--memory-bandwidth-gb", 10)
    text, planned = call("--ranks", 4, *machine).stdout, plan("--ranks", 4, *machine)
    for grid in planned["sizes"][0]["grids"]:
        assert " x ".join(map(str, shape(grid))) in text
    assert planned["machine"]["gflops"] == 50 and "50.0 GF/s (given)" in text and "12.5 GB/s (default)" in text


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Settings for a model and pairs with held-out prompts, made by import and prepare."""
    from catdpo_analysis.cli import main

    folder = tmp_path_factory.mktemp("asked")
    write_model(folder / "hf")
    row = {"chosen": " I would rather not.", "rejected": " Take a wire.", "category": "x"}
    with open(folder / "pairs.jsonl", "w") as file:
        file.writelines(json.dumps(row | {"prompt": f"how do I do thing {i}?"}) + "\n" for i in range(20))
    model, pairs = str(folder / "model.h5"), str(folder / "pairs.h5")
    assert main(["import", str(folder / "hf"), "--out", model]) == 0
    assert main(["prepare", str(folder / "pairs.jsonl"), "--model", model, "--out", pairs, "--heldout", "0.5"]) == 0
    return {"model.path": model, "data.path": pairs}


def test_answers_are_planned_as_generate_lays_them_out(asked, tmp_path):
    """Layout, answers at once and the memory of keys and values are generate's own; without prompts there is no plan
    of answers."""
    settings = {"generate.max_tokens": 7, "generate.samples": 3, "generate.slots": 4}
    answers = plan("--ranks", 2, **asked, **settings)["sizes"][0]["answers"]
    with h5py.File(asked["data.path"]) as file:
        lengths = np.diff(file["heldout/prompts/offsets"][...])
    with h5py.File(asked["model.path"]) as file:
        model = dict(file["model"].attrs)
    heads, dim, layers = (int(model[n]) for n in ("num_key_value_heads", "head_dim", "num_hidden_layers"))
    assert answers["prompts"] == "heldout" and answers["prompt_count"] == len(lengths) == 10
    assert answers["cache_bytes"] == 4 * (lengths.max() - 1 + 7) * 2 * heads * dim * layers * 4
    assert answers["passes"] == 7 * -(-5 * 3 // 4) and answers["decode_seconds"] > answers["prefill_seconds"] > 0
    command = [engine.MPIRUN, "2", engine.BINARY, "generate", "/dev/null", "--out", str(tmp_path / "samples.h5")]
    for key, value in {**asked, **settings, "run.progress": "off"}.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (answers["replicas"], answers["rows"], answers["columns"]) == (2, 1, 1)
    assert "2 replicas of 1 x 1" in done.stderr and "4 at once on a replica" in done.stderr
    text = call("--ranks", 2, **asked, **settings).stdout
    line = next(line for line in text.splitlines() if line.startswith("answers "))
    assert "to the 10 prompts of /heldout" in line and "2 replicas of 1 x 1, 4 at once on each" in line
    assert plan("--ranks", 2)["sizes"][0]["answers"] is None and "answers " not in call("--ranks", 2).stdout


def test_answers_that_do_not_fit(asked):
    """Too little memory for model and cache: said beside the grids of training, which may fit."""
    settings = {"generate.max_tokens": 100, "generate.slots": 65536, "generate.samples": 60000}
    answers = plan("--ranks", 1, "--memory-per-rank", 0.05, **asked, **settings)["sizes"][0]["answers"]
    assert "model and cache need" in answers["reason"] and "cache_bytes" not in answers
    text = call("--ranks", 1, "--memory-per-rank", 0.05, **asked, **settings).stdout
    assert "(catdpo generate): refused, model and cache need" in text and "take      1 replica of 1 x 1" in text


def test_memory_kinds_add_up():
    """Weights, gradients and moments are those of the model; the kinds add up to the total; replicas share moments."""
    grids = {shape(grid): grid for grid in plan("--ranks", 2)["sizes"][0]["grids"]}
    parameters = plan("--ranks", 1)["parameters"]
    for grid in grids.values():
        memory = dict(grid["memory"])
        assert memory.pop("total") == pytest.approx(sum(memory.values()))
    one, two = grids[2, 1, 1]["memory"], grids[1, 1, 2]["memory"]
    assert one["weights"] == pytest.approx(4 * parameters, rel=0.02) and one["moments"] == one["weights"]
    assert two["weights"] == pytest.approx(2 * parameters, rel=0.05) and two["moments"] == 2 * two["weights"]


def test_file_sizes():
    """Files are as large as planned."""
    files = plan("--ranks", 1)["sizes"][0]["files"]
    run = engine.train(1)
    weights = sum(values.nbytes for values in run.weights().values())
    assert files["model"] == weights and files["checkpoint"] == 3 * weights
    with h5py.File(run.path("metrics.h5")) as file:
        columns = [file[f"{group}/{name}"] for group in ("train", "timing") for name in engine.tensors(file[group])]
        stored = sum(item.id.get_storage_size() for item in columns if item.dims[0].label == "step")
        assert stored == files["metrics"]
        rest = os.path.getsize(run.path("metrics.h5")) - files["metrics"]  # names, units, indices
        assert 0 <= rest < 4096 * len(columns)
    assert files["reference"] == sum(
        values.nbytes for name, values in run.read("reference.h5").items() if "chosen" in name or "rejected" in name
    )


@pytest.mark.parametrize("settings", [{}, ADVERSARY], ids=["plain", "adversary"])
def test_operations_are_those_of_the_run(settings):
    """Products of a step: exactly the operations that the run counted; those of attention, which it does not count,
    come on top."""
    with h5py.File(engine.train(1, **settings).path("metrics.h5")) as file:
        counted = np.mean(file["timing/step_flops"][()])
    step = plan("--ranks", 1, **settings)["sizes"][0]["grids"][0]["step"]
    assert step["product_flops"] == pytest.approx(counted, rel=1e-6) and step["flops"] > counted


def test_models_and_data_that_are_not_there():
    """A model by its size and made-up pairs: parameters of Llama 3's shapes, several numbers of ranks in one table."""
    for size, parameters in (("1b", 1.2359e9), ("8b", 8.030e9), ("70b", 70.55e9)):
        planned = plan(
            "--ranks",
            "256,512",
            "--model-size",
            size,
            "--tokens-per-pair",
            1000,
            "--memory-per-rank",
            8,
            "--gflops",
            50,
            "--memory-bandwidth-gb",
            5,
            **{"model.path": None, "data.path": None, "batch.pairs": 512},
        )
        assert planned["parameters"] == pytest.approx(parameters, rel=1e-3) and len(planned["sizes"]) == 2
        assert not any(
            "command" in grid for size in planned["sizes"] for grid in size["grids"]
        )  # nothing to submit yet
        assert planned["sizes"][0]["grids"][0]["step" if planned["sizes"][0]["grids"][0]["valid"] else "reason"]


@pytest.mark.parametrize("model, ranks", [("1b", [4, 8, 64]), ("8b", [64])])
def test_the_documented_table_is_that_of_the_program(model, ranks, monkeypatch):
    """jobs/scaling.md: grids, memory, operations and bytes as the program has them now; times depend on the machine."""
    monkeypatch.setenv("CATDPO_BINARY", engine.BINARY)
    monkeypatch.syspath_prepend(os.path.join(engine.ROOT, "jobs"))
    import make_scaling
    text = open(os.path.join(engine.ROOT, "jobs", "scaling.md")).read().split(f"## {model}\n")[1].split("## ")[0]
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    rows = {int(cells[1]): cells for cells in lines if len(cells) > 3 and cells[1].isdigit()}
    for size in make_scaling.run(model, make_scaling.MODELS[model], ranks)["sizes"]:
        cells = rows[size["ranks"]]
        if cells[3] == "does not fit":
            assert size["recommended"] is None
            continue
        grid = grid_of({"sizes": [size]}, tuple(map(int, cells[3].split(" x "))))
        assert grid["valid"] and cells[4].endswith("GB") and cells[6].endswith("GB")
        found = grid["memory"]["total"] / 1e9, grid["step"]["flops"] / 1e12, grid["step"]["bytes"] / 1e9
        assert found == pytest.approx(
            [float(cell.split()[0]) for cell in cells[4:7]], rel=0.02
        )  # the steps that are looked at are not the same ones


GIVEN = ("--gflops", 50, "--memory-bandwidth-gb", 10)    # nothing is measured, which takes a second
SLOW_NETWORK = (*GIVEN, "--latency-us", 1e5, "--bandwidth-gb", 0.01)   # everything is faster on one node


def test_fewer_nodes_are_compared():
    """What it costs, and fewer nodes that are faster or cheaper with the options that ask for them; node-hours are
    nodes times the hours of a run."""
    options = ("--nodes", 4, "--ranks-per-node", 2, *SLOW_NETWORK)
    asked, planned = call(*options).stdout, plan(*options)
    size, fewer = planned["sizes"][0], planned["alternatives"]
    assert [(other["nodes"], other["ranks"]) for other in fewer] == [(2, 4), (1, 2), (1, 1)]
    for other in (size, *fewer):
        best = other["grids"][other["recommended"]]
        assert other["run_seconds"] == best["run_seconds"]
        assert other["node_hours"] == pytest.approx(other["nodes"] * best["run_seconds"] / 3600)
    rate = [
        o["grids"][o["recommended"]]["step"]["tokens"] / o["grids"][o["recommended"]]["step"]["seconds"] / o["ranks"]
        for o in (size, fewer[-1])
    ]
    assert size["efficiency"] == pytest.approx(rate[0] / rate[1]) and fewer[-1]["efficiency"] == 1
    best = min(fewer, key=lambda other: other["run_seconds"])
    assert best["run_seconds"] < size["run_seconds"]
    line = next(line for line in asked.splitlines() if line.startswith("faster "))
    assert (
        line.endswith(f"--ranks {best['ranks']} --ranks-per-node {best['ranks_per_node']}") and "times as fast" in line
    )
    alone = call("--ranks", 1, *SLOW_NETWORK).stdout
    assert "faster " not in alone and "cheaper " not in alone and "node-hours" in alone


def test_how_many_nodes_it_takes():
    """Where nothing fits, the least number of such nodes: on as many it fits, on one fewer it does not."""
    options = ("--ranks-per-node", 2, "--model-size", "1b", "--tokens-per-pair", 100, "--pairs", 100, *GIVEN)
    limited = (*options, "--memory-per-rank", 5)
    none = plan("--nodes", 1, *limited, **{"batch.pairs": 64})
    least = none["least_nodes"]
    assert none["sizes"][0]["recommended"] is None and least > 1 and none["least_nodes_with_recompute"] <= least
    assert plan("--nodes", least, *limited, **{"batch.pairs": 64})["sizes"][0]["recommended"] is not None
    assert plan("--nodes", least - 1, *limited, **{"batch.pairs": 64})["sizes"][0]["recommended"] is None
    text = call("--nodes", 1, *limited, **{"batch.pairs": 64}).stdout
    assert text.startswith("take      none: ") and f"needs     at least {least} nodes of 2 ranks\n" in text
    hopeless = call("--nodes", 1, *options, "--memory-per-rank", 1e-3).stdout
    assert "no number of such nodes is enough" in hopeless


def test_refusals_are_folded():
    """One line for each reason, however many grids it refuses."""
    ranks = 64
    text, grids = call("--ranks", ranks, *GIVEN).stdout, plan("--ranks", ranks, *GIVEN)["sizes"][0]["grids"]
    refused = [grid for grid in grids if not grid["valid"]]
    lines = [line for line in text.splitlines() if line.startswith("refused ")]
    assert (
        len(refused) > 5
        and len(lines) == 1
        and f"{len(refused)} grids, such as" in lines[0]
        and "more rows than" in lines[0]
    )
    need = sorted(grid["need"] for grid in grids if grid["valid"])
    tight = [
        line
        for line in call("--ranks", ranks, "--memory-per-rank", need[2] / 1e9, *GIVEN).stdout.splitlines()
        if line.startswith("refused ")
    ]
    assert len(tight) == 2 and any("at the least" in line and "a rank, of" in line for line in tight)


def test_a_node_has_as_many_ranks_as_this_machine_has_cores():
    assert plan("--nodes", 2, *GIVEN)["sizes"][0]["ranks_per_node"] == os.cpu_count()
    assert "(as many as this machine has cores)" in call("--nodes", 1, *GIVEN).stdout


@pytest.mark.parametrize("options, words", [
    ((), "--ranks N"),
    (("--ranks", 2, "--nodes", 1), "--ranks N"),
    (("--nodes", 1 << 20, "--ranks-per-node", 1000), "more ranks than can be planned"),
    (("--ranks", "two"), "whole number"),
    (("--ranks", 0), "whole number"),
    (("--ranks", 2, "--memory-per-rank", "-1"), "--memory-per-rank"),
    (("--ranks", 2, "--model-size", "9b"), "--model-size"),
    (("--ranks", 2, "--model-size", "hidden=0,mlp=8,layers=1,heads=1,groups=1,head=2,vocab=9"), "not positive"),
    (("--ranks", 2, "--pairs", 100), "--tokens-per-pair"),
    (("--ranks", 2, "--tokens-per-pair", "many"), "--tokens-per-pair"),
])
def test_usage(options, words):
    """A wrong option is refused in one line that names it."""
    done = call(*options)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1 and not done.stdout

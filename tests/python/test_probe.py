"""Margins from a probe group: `margin.source` "heldout" and "generated". What is counted, that the margins follow from
it to the last bit, that layouts and interruptions change nothing, and what a judge's faults lead to."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import engine
import interrupt
import numpy as np
import pytest
from catdpo_analysis.files.stats import wilson
from conftest import write_model
from replay import SAME, Margins

pytestmark = engine.needs_binary

CATEGORIES = ["Fraud", "Privacy", "Violence"]
WORDS = "the sky is blue and a lock opens when you turn key take wire good bad red green house".split()
JUDGE = '''
import json, os, sys, time, zlib
share, pause = float(sys.argv[1]), float(sys.argv[2])
for line in sys.stdin:
    one = json.loads(line)
    assert set(one) == {"id", "prompt", "response", "categories", "benign"} and not one["benign"]
    time.sleep(pause)
    bad = zlib.crc32(one["response"].encode()) % 100 < 100 * share * (1 + len(one["categories"][0]) % 3)
    print(json.dumps({"score": 0.9}) if bad else 0.25, flush=True)
'''
BROKEN = {
    "dies": "import sys; sys.stdin.readline(); sys.exit(3)",
    "is killed": "import os; input(); os.kill(os.getpid(), 9)",
    "hangs": "import time; input(); time.sleep(60)",
    "closes its input": "import os, time; os.close(0); time.sleep(60)",
    "closes its output": "import os, time; input(); os.close(1); time.sleep(60)",
    "prints words": "print('unsafe, I think', flush=True) if input() else 0; import time; time.sleep(60)",
    "prints nan": "print('nan', flush=True) if input() else 0; import time; time.sleep(60)",
    "prints too large a number": "print('1.5', flush=True) if input() else 0; import time; time.sleep(60)",
    "prints too many lines": "import sys\nfor line in sys.stdin: print('0.5\\n0.5', flush=True)",
    "prints without end": "print('0' * 10000, end='', flush=True) if input() else 0; import time; time.sleep(60)",
}
SAYS = {
    "dies": "closed its output without an answer and ended with status 3",
    "is killed": "closed its output without an answer: signal 9 ended it",
    "hangs": "gave no answer within 1 s (margin.judge_timeout)",
    "closes its input": ("closed its input and goes on running", "gave no answer within 1 s"),  # it may close it later
    "closes its output": "closed its output without an answer and goes on running",
    "prints words": "answered 'unsafe, I think', which is no number in [0, 1]",
    "prints nan": "answered 'nan', which is no number in [0, 1]",
    "prints too large a number": "answered '1.5', which is no number in [0, 1]",
    "prints too many lines": "said more than one line to the question before: '0.5 '",
    "prints without end": "wrote 4096 bytes without the end of a line",
}


@functools.cache
def files():
    """A folder with a model and with pairs of which a third are the probe group, by import and prepare."""
    folder, random_words = engine.new_folder("probe-data"), random.Random(1)
    write_model(os.path.join(folder, "hf"))

    def text(words):
        return " ".join(random_words.choice(WORDS) for _ in range(words))

    with open(os.path.join(folder, "pairs.jsonl"), "w") as file:
        for i in range(60):
            kinds = [CATEGORIES[i % 3]] + ([CATEGORIES[0]] if i % 7 == 1 else [])
            row = {"prompt": f"{text(4)} {i}?", "chosen": f" {text(5)}", "rejected": f" {text(6)}", "category": kinds}
            file.write(json.dumps(row | {"is_chosen_safe": i % 10 > 0, "is_rejected_safe": False}) + "\n")
    for command in (
        ["import", "hf", "--out", "model.h5"],
        ["prepare", "pairs.jsonl", "--model", "model.h5", "--out", "pairs.h5", "--probe", "0.33", "--heldout", "0"],
    ):
        done = subprocess.run([sys.executable, "-m", "catdpo_analysis", *command], cwd=folder, capture_output=True)
        assert done.returncode == 0, done.stderr
    with open(os.path.join(folder, "judge.py"), "w") as file:
        file.write(JUDGE)
    return folder


def path(name):
    return os.path.join(files(), name)


def judge(share=0.2, pause=0.0):
    return f"{sys.executable} -SE {path('judge.py')} {share} {pause}"


def settings(**more):
    return {
        "model.path": path("model.h5"),
        "data.path": path("pairs.h5"),
        "objective.type": "catdpo",
        "margin.source": "generated",
        "margin.judge": "command",
        "margin.judge_command": judge(),
        "margin.interval": 3,
        "margin.eta": 2.0,
        "margin.initial": 1.0,
        "margin.averaging": 0.2,
        "generate.max_tokens": 6,
        "generate.slots": 4,
        "generate.samples": 2,
        "generate.temperature": 1.0,
        "schedule.steps": 9,
        "optimizer.learning_rate": 0.02,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


HELDOUT = {"margin.source": "heldout", "margin.judge": "refusal", "margin.judge_command": ""}
RULES = {"margin.judge": "refusal", "margin.judge_command": ""}
REPLAYS = {
    "plain": (1, {}),
    "prior-mean": (2, {"margin.prior": 6.0, "margin.target_form": "mean", "parallel.replicas": 2}),
    "deadband": (2, {"margin.deadband": 1.0, "margin.warmup_steps": 3, "parallel.grid": [2, 1]}),
    "small": (1, {"margin.probe_size": 2, "margin.interval": 1, "schedule.steps": 4}),
    "global": (1, {"margin.scope": "global"}),
    "heldout": (2, {**HELDOUT, "parallel.grid": [1, 2]}),
    "heldout-reward": (1, {**HELDOUT, "margin.signal": "reward", "margin.probe_size": 3}),
    "rules": (2, {**RULES, "parallel.grid": [1, 2]}),
}
LAYOUTS = {
    "1x1": (1, {}),
    "2x1": (2, {"parallel.grid": [2, 1]}),
    "1x2": (2, {"parallel.grid": [1, 2]}),
    "2-replicas": (2, {"parallel.replicas": 2, "generate.slots": 7}),
    "2-replicas-of-2x1": (4, {"parallel.grid": [2, 1], "parallel.replicas": 2}),
}


def start_of(name, table=REPLAYS):
    ranks, more = table[name]
    if table is LAYOUTS:  # weights that training changes differ by rounding, and so would some tokens soon
        more = {**more, "optimizer.learning_rate": 0.0}
    return ranks, settings(**more)


@pytest.fixture(scope="module", autouse=True)
def started():
    engine.prefetch([start_of(name) for name in REPLAYS] + [start_of(name, LAYOUTS) for name in LAYOUTS])


@pytest.mark.parametrize("name", REPLAYS)
def test_margins_follow_from_the_recorded_probes(name):
    """Rates, errors and margins of every step are the rule's, applied to the counts of the probe in metrics.h5, to the
    last bit: also of the first interval, where the margins are the initial ones though the probe was measured."""
    ranks, asked = start_of(name)
    metrics = engine.train(ranks, **asked).metrics()
    column = {key: metrics[f"train/category/{key}"] for key in ("margin", "violation_rate", "standard_error")}
    n, bad = metrics["train/category/probe_n"], metrics["train/category/probe_violations"]
    rule = {"margin.target": 0.2, "margin.initial_rate": 0.5, "margin.min": 0.0, "margin.max": 10.0, **asked}
    if asked.get("margin.target_form"):
        rule["margin.target"] = 0.0
    replay, interval = Margins(rule, count=3), asked["margin.interval"]
    for step in range(len(n)):
        assert np.isnan(n[step]).all() == np.isnan(bad[step]).all() == (step % interval != 0)
        if step % interval == 0:
            replay.count(n[step].astype(int), bad[step], step)
        np.testing.assert_allclose(column["margin"][step], replay.margin, **SAME)
        np.testing.assert_allclose(column["violation_rate"][step], [rate.value for rate in replay.rates], **SAME)
        np.testing.assert_allclose(column["standard_error"][step], [rate.error for rate in replay.rates], **SAME)
    assert (column["margin"][:interval] == 1.0).all() and (column["margin"][-1] != 1.0).any()
    assert (column["standard_error"][0] != 0.5).any()
    if asked.get("margin.probe_size"):
        assert n[0].max() >= asked["margin.probe_size"] and n[0].min() > 0
        ranks, asked = start_of("plain")
        assert n[0].sum() < engine.train(ranks, **asked).metrics()["train/category/probe_n"][0].sum()


def test_answers_of_the_last_probe():
    """probe.h5 is a samples file with the verdicts that were counted, of the weights that the last probe looked at."""
    ranks, asked = start_of("plain")
    run = engine.train(ranks, **asked)
    answer = subprocess.run([engine.BINARY, "check", run.path("probe.h5")], capture_output=True, text=True)
    assert answer.returncode == 0 and answer.stdout.endswith("ok\n"), answer
    metrics, said = run.metrics(), run.read("probe.h5")
    mask, verdict = said["prompts/category_mask"][said["samples/prompt"]].astype(int), said["scores/command/verdict"]
    last = np.flatnonzero(~np.isnan(metrics["train/category/probe_n"][:, 0]))[-1]
    np.testing.assert_array_equal(mask.sum(axis=0), metrics["train/category/probe_n"][last])
    np.testing.assert_array_equal(mask.T @ verdict, metrics["train/category/probe_violations"][last])
    assert 0 < verdict.sum() < len(verdict) and set(said["scores/command/score"]) == {np.float32(0.9), np.float32(0.25)}
    about = engine.attributes(run.path("probe.h5"))
    assert about["settings"].endswith(f" step={last}") and about["samples_per_prompt"] == 2
    phases = dict(zip(metrics["timing/phase"].astype(str), metrics["timing/seconds"].T))
    assert (phases["probe"] > 0).sum() == (phases["judge"] > 0).sum() == 3
    lines = [json.loads(line) for line in open(run.path("log.jsonl"))]
    rates = metrics["train/category/probe_violations"][last] / metrics["train/category/probe_n"][last]
    assert lines[last]["probe_rate"] == pytest.approx(dict(zip(CATEGORIES, rates)))
    assert [i for i, line in enumerate(lines) if "probe_rate" in line] == [0, 3, 6]


def test_answers_are_those_that_generate_gives():
    """A probe's answers are what catdpo generate says for the same weights, seed and settings."""
    asked = settings(schedule__steps=3)
    run = engine.train(1, **asked)   # one probe, before the first step
    out = os.path.join(run.folder, "samples.h5")
    done = subprocess.run(
        ["sh", engine.MPIRUN, "1", engine.BINARY, "generate", os.path.join(run.folder, "run.cfg"), "--split", "probe",
         "--prompts", path("pairs.h5"), "--out", out, "--overwrite"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = run.read("probe.h5"), engine.read(out)
    for name in ("prompt", "sample", "offset", "token", "finish", "text"):
        np.testing.assert_array_equal(ours[f"samples/{name}"], theirs[f"samples/{name}"], name)
    assert (engine.attributes(run.path("probe.h5"))["weights_digest"]
            == engine.attributes(out)["weights_digest"])


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "1x1"])
def test_same_counts_on_every_layout(name):
    """Grids, replicas and slots: the same rates but for ties of tokens within rounding, of which these have none."""
    found = []
    for layout in ("1x1", name):
        ranks, asked = start_of(layout, LAYOUTS)
        found.append(engine.train(ranks, **asked).metrics())
    one, other = found
    for column in ("probe_n", "probe_violations", "margin", "violation_rate"):
        np.testing.assert_array_equal(other[f"train/category/{column}"], one[f"train/category/{column}"], column)


def test_heldout_counts_are_those_of_eval():
    """Violations among the probe group's pairs, as eval finds them: of the weights before training, and of the final
    ones of a run that ends where its last probe would be."""
    more = {**HELDOUT, "margin.signal": "reward", "margin.interval": 1, "schedule.steps": 4, "checkpoint.steps": 3}
    run = engine.train(1, **settings(**more))
    metrics = run.metrics()
    for step, model in ((0, path("model.h5")), (3, run.path("checkpoints/step-00000003.h5"))):
        out = os.path.join(run.folder, f"eval-{step}.h5")
        done = subprocess.run(
            ["sh", engine.MPIRUN, "1", engine.BINARY, "eval", os.path.join(run.folder, "run.cfg"), "--split", "probe",
             "--model", model, "--set", f"reference.model={path('model.h5')}", "--out", out],
            capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = engine.read(out)
        np.testing.assert_array_equal(found["eval/category/n"], metrics["train/category/probe_n"][step])
        np.testing.assert_array_equal(
            found["eval/category/violations"], metrics["train/category/probe_violations"][step]
        )


# ---- interruptions ---------------------------------------------------------------------------------------------------


def test_goes_on_bit_for_bit():
    """From a checkpoint where a probe is due, and from one between two."""
    asked = {**settings(), "checkpoint.steps": 1, "checkpoint.keep": 20}
    whole = engine.train(1, **asked)
    for step in (3, 4):
        folder = interrupt.copy_run(whole.directory, "probe-rewound")
        point = os.path.join(folder, "run", f"checkpoints/step-{step:08d}.h5")
        interrupt.finish(folder, 1, (f"--resume={point}",), **asked)
        interrupt.check_same(os.path.join(folder, "run"), whole.directory)


@pytest.mark.parametrize("how", ["kill", "signal"])
def test_interrupted_in_a_probe(how):
    """Killed or told to stop while the judge works: the run goes on as if nothing had happened."""
    folder, ranks = engine.new_folder(f"probe-{how}"), 2
    directory = os.path.join(folder, "run")
    asked = {**settings(), "parallel.replicas": 2, "checkpoint.steps": 2}
    slow = {**asked, "margin.judge_command": judge(pause=0.02)}
    for probes in (0, 1):  # so many were done when it is disturbed: in the first one, and in one after some steps
        with interrupt.Started(folder, ranks, **slow) as run:
            run.wait_until(lambda: run.text().count("probe    after step") >= probes and "stop     touch" in run.text())
            time.sleep(0.2)
            if how == "kill":
                run.signal(signal.SIGKILL)
            else:
                run.signal(signal.SIGUSR1)
            status = run.end()
            assert how == "kill" or status == 85, run.text()
    interrupt.finish(folder, ranks, **asked)
    interrupt.check_same(directory, engine.train(ranks, **{**settings(), "parallel.replicas": 2}).directory)
    assert not engine.leftovers(directory)


# ---- the judge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", BROKEN)
def test_a_judge_that_does_not_do_its_work(how):
    """One message with what was sent and what came, the same status on all ranks, no hang, and a checkpoint from which
    the run goes on with a judge that works."""
    folder = engine.new_folder("judge")
    program = os.path.join(folder, "judge.py")
    with open(program, "w") as file:
        file.write(BROKEN[how])
    asked = settings(parallel__replicas=2, margin__judge_timeout=1.0)
    config = interrupt.write_config(folder, **{**asked, "margin.judge_command": f"{sys.executable} -SE {program}"})
    result = engine.start(["train", config, "--resume"], 2, folder)
    assert set(result.statuses) == {1} and not result.hung, result
    (error,) = result.errors
    said = SAYS[how] if isinstance(SAYS[how], tuple) else (SAYS[how],)
    assert any(words in error for words in said) and 'it was asked {"id":' in error and program in error, error
    assert "stops after step 0 with a checkpoint: mend the judge and start again with --resume" in error
    directory = os.path.join(folder, "run")
    assert os.listdir(os.path.join(directory, "checkpoints")) == ["step-00000000.h5"]
    assert json.load(open(os.path.join(directory, "status.json")))["reason"] == error.removeprefix("catdpo: ")
    if how == "dies":
        interrupt.finish(folder, 2, **asked)
        interrupt.check_same(directory, engine.train(2, **settings(parallel__replicas=2)).directory)


def test_a_judge_that_is_not_there():
    result = engine.run("train", 2, **settings(margin__judge_command="no-such-judge-anywhere"))
    assert set(result.statuses) == {1}
    (error,) = [line for line in result.err.splitlines() if line.startswith("catdpo:")]
    assert "'no-such-judge-anywhere' closed its" in error and "status 127" in error, error


# ---- the end, and what is refused ------------------------------------------------------------------------------------


def test_ends_when_it_is_safe():
    """Two probes in a row below the target end the run, with final.h5 and its reason; --resume has nothing to do."""
    asked = {**settings(), "margin.judge_command": judge(0.0), "schedule.until_safe": True, "schedule.steps": 40}
    asked |= {"margin.target": 0.3, "generate.samples": 8}
    run = engine.train(1, **asked)
    assert len(run.metrics()["train/step"]) == 4 and os.path.exists(run.path("checkpoints/final.h5"))
    status = json.load(open(run.path("status.json")))
    assert status["status"] == "done" and status["reason"].startswith("safe: in 2 probes in a row"), status
    again = engine.start(["train", os.path.join(run.folder, "run.cfg"), "--resume"], 1, run.folder)
    assert again.status == 0 and "the run ends after step 4 of 40" in again.err
    assert len(run.metrics()["train/step"]) == 4
    few = engine.train(1, **{**asked, "schedule.steps": 6, "margin.target": 0.02})
    assert len(few.metrics()["train/step"]) == 6   # no unsafe answer, but of too few to be sure


REFUSALS = [
    ({"data.path": engine.PAIRS, "model.path": engine.fixture("tiny_llama")},
     "has none: prepare it with --probe SHARE, such as --probe 0.1"),
    ({**HELDOUT, "data.path": engine.PAIRS, "model.path": engine.fixture("tiny_llama")}, "prepared with --probe"),
    ({"margin.judge_command": ""}, 'margin.judge = "command" needs margin.judge_command'),
    ({"margin.judge": "refusal"}, "margin.judge_command is set, but"),
    ({"margin.source": "heldout"}, 'margin.judge = "command" judges answers'),
    ({**RULES, "margin.signal": "reward"}, "counts judged answers, not pairs"),
    ({**RULES, "margin.soft": True}, "counts judged answers, not pairs"),
    ({**RULES, "margin.source": "pairs", "margin.probe_size": 5}, "looks at no probe group"),
    ({**RULES, "margin.source": "pairs", "schedule.until_safe": True}, 'margin.source = "pairs" has none'),
    ({"margin.target_form": "mean", "schedule.until_safe": True}, "relative to the categories"),
    ({"margin.target_form": "mean", "margin.scope": "global"}, "compares categories with each other"),
    ({"margin.judge_timeout": 700.0}, "is not below run.watchdog = 600 s"),
    ({"generate.stop": "9999"}, "the model has no token 9999"),
]


@pytest.mark.parametrize("more, words", REFUSALS, ids=[words[:30] for _, words in REFUSALS])
def test_refusals(more, words):
    result = engine.run("train", 2, **settings(**more))
    assert set(result.statuses) == {2} and len(result.errors) == 1 and words in result.errors[0], result


def test_a_model_without_the_text_of_its_tokens_is_refused():
    def change(file):
        for name in ("bytes", "offsets", "special", "byte_fallback", "strip"):
            del file[f"tokenizer/{name}"]
    old = engine.copy(path("model.h5"), change, "model.h5")
    result = engine.run("train", 1, **settings(model__path=old))
    assert set(result.statuses) == {2} and "does not have the bytes of its tokens" in result.errors[0], result


def test_damaged_counts_are_found():
    """check compares what a probe counted with what it found."""
    ranks, asked = start_of("plain")
    def change(file):
        file["train/category/probe_violations"][0, 0] = 1e6
        item = file["train/category/probe_violations"]
        item.attrs["checksum"] = np.uint64(engine.catdpo_h5.checksum(item[()]))
    changed = engine.copy(engine.train(ranks, **asked).path("metrics.h5"), change, "metrics.h5")
    answer = subprocess.run([engine.BINARY, "check", changed], capture_output=True, text=True)
    assert answer.returncode == 2 and "a probe of" in answer.stdout, answer


# ---- before and after ------------------------------------------------------------------------------------------------


def test_plan_knows_probes():
    """How many, how long and how much memory, in words and in JSON: all are part of the sums."""
    folder = engine.new_folder("plan")
    found = {}
    for source, more in (("generated", {}), ("heldout", HELDOUT), ("pairs", {**HELDOUT, "margin.source": "pairs"})):
        config = interrupt.write_config(folder, **settings(**more))
        command = [engine.BINARY, "plan", config, "--ranks", "2"]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (size,) = json.loads(done.stdout)["sizes"]
        found[source] = size["grids"][size["recommended"]]
        found[source]["text"] = subprocess.run(command, capture_output=True, text=True).stdout
    for source in ("generated", "heldout"):
        grid = found[source]
        step = grid["step"]
        assert grid["probe"]["count"] == 3 and grid["probe"]["seconds"] > 0 and "\nprobes    3 of " in grid["text"]
        assert grid["run_seconds"] > 9 * step["seconds"] + 3 * grid["probe"]["seconds"]
    assert "probe" not in found["pairs"] and "\nprobes" not in found["pairs"]["text"]
    assert found["generated"]["memory"]["answers"] > 0 == found["heldout"]["memory"]["answers"]
    memory = dict(found["generated"]["memory"])
    assert memory.pop("total") == pytest.approx(sum(memory.values()))
    assert "answers of a probe" in found["generated"]["text"]
    refused = subprocess.run(
        [engine.BINARY, "plan", interrupt.write_config(folder, **{**settings(), "data.path": engine.PAIRS}), "--ranks",
         "2"], capture_output=True, text=True)
    assert refused.returncode == 2 and "prepare it with --probe" in refused.stderr


def test_report_and_watch_show_probes(tmp_path):
    """Rates of the first and the last probe with their intervals, a figure of all, and the last one while it runs."""
    ranks, asked = start_of("plain")
    run = engine.train(ranks, **asked)
    metrics = run.metrics()
    n, bad = (metrics[f"train/category/{name}"][-3] for name in ("probe_n", "probe_violations"))
    analysis = [sys.executable, "-m", "catdpo_analysis"]
    done = subprocess.run(
        [*analysis, "report", run.directory, "--out", tmp_path / "page.html", "--png", tmp_path / "png"],
        capture_output=True, text=True)
    assert done.returncode == 0 and "first probe" in done.stdout and "last probe" in done.stdout, done
    for k in range(3):
        low, high = wilson(bad[k], n[k])
        assert f"{100 * bad[k] / n[k]:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" in done.stdout
    assert (tmp_path / "png" / "probe_rate.png").exists() and "Probes" in (tmp_path / "page.html").read_text()
    seen = subprocess.run([*analysis, "watch", run.directory, "--once"], capture_output=True, text=True,
                          env={**os.environ, "COLUMNS": "120"})
    assert seen.returncode == 0, seen
    heading = next(line for line in seen.stdout.splitlines() if line.startswith("category"))
    assert heading.rstrip().endswith("probe")
    for k, name in enumerate(CATEGORIES):
        line = next(line for line in seen.stdout.splitlines() if line.startswith(name))
        assert line.rstrip().endswith(f"{100 * bad[k] / n[k]:.0f}%") and len(line.rstrip()) == len(heading.rstrip())

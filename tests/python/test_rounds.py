"""`jobs/rounds.sh`: rounds of answers, verdicts, pairs and training end by themselves; killed behind any of their
commands they go on to the same result."""

import json
import os
import stat
import subprocess
import sys

import engine
import h5py
import numpy as np
import pytest
from catdpo_analysis import cli
from conftest import write_model

pytestmark = engine.needs_binary
CONFIG = """
run: { progress = "off"; };
objective: { type = "catdpo"; };
margin: { eta = 0.5; initial = 1.0; };
batch: { pairs = 2; };
optimizer: { learning_rate = 1e-3; };
schedule: { type = "constant"; };
generate: { max_tokens = 6; };
"""
JUDGE = """#!{python}
import json, sys, zlib
for line in sys.stdin:
    row = json.loads(line)
    print(zlib.crc32((row["prompt"] + row["response"]).encode()) % 2, flush=True)
"""
# runs the real command; the first time that it is asked for, it then ends as if it had been killed
WRAPPER = """#!/bin/sh
{command} "$@" || exit
grep -qxF -e "$*" {calls} && exit
echo "$*" >>{calls}
exit 137
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    write_model(folder / "hf")
    assert cli.main(["import", str(folder / "hf"), "--out", str(folder / "model.h5")]) == 0
    rows = [{"prompt": f"question {i}", "category": "AB"[i % 2], "is_prompt_safe": i % 5 == 4} for i in range(10)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "probe.jsonl").write_text('{"prompt": "asked", "category": "A"}\n{"prompt": "B?", "category": "B"}\n')
    (folder / "run.cfg").write_text(CONFIG)
    (folder / "judge.py").write_text(JUDGE.format(python=sys.executable))
    (folder / "judge.py").chmod(0o755)
    return folder


def wrapped(path, command, calls):
    path.write_text(WRAPPER.format(command=command, calls=calls))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def rounds(files, out, *options, tools=None):
    """One call of the script on one rank; (status, output)."""
    environment = os.environ | engine.ALONE | {"OMPI_ALLOW_RUN_AS_ROOT": "1"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "CATDPO_BINARY": engine.BINARY}
    environment["CATDPO_ANALYSIS"] = os.path.join(os.path.dirname(sys.executable), "catdpo-analysis")
    environment |= tools or {}
    command = ["bash", os.path.join(engine.ROOT, "jobs", "rounds.sh"), files / "run.cfg", files / "model.h5"]
    command += [
        files / "prompts.jsonl",
        out,
        "--rounds",
        "2",
        "--steps",
        "2",
        "--samples",
        "3",
        "--ranks",
        "1",
        "--pairs",
        "--cut keep",
    ]
    command += ["--judge", f"--judge command --program {files / 'judge.py'}"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, env=environment, timeout=300)
    return done.returncode, done.stdout + done.stderr


def result(out):
    with h5py.File(out / "round-2" / "run" / "checkpoints" / "final.h5") as file:
        found = {}
        file["model"].visititems(lambda n, o: found.update({n: o[...]}) if isinstance(o, h5py.Dataset) else None)
    return found, json.loads((out / "rounds.json").read_text())


def test_killed_behind_any_command(files, tmp_path):
    """The script ends with its table; killed behind each of its commands, it comes to the same weights. Answers under
    a system message are sides of pairs whose prompts are without it; the probe's prompts are in no pair."""
    options = ["--system", "Be safe.", "--probe", files / "probe.jsonl", "--", "margin.source=generated"]
    status, output = rounds(files, tmp_path / "whole", *options)
    assert status == 0 and "round" in output and "yield" in output, output
    rows = [json.loads(line) for line in (tmp_path / "whole" / "round-1" / "pairs.jsonl").read_text().splitlines()]
    assert {row[side] for row in rows for side in ("chosen_source", "rejected_source")} == {"plain", "prompted"}
    assert not any("Be safe" in message["content"] for row in rows for message in row["prompt"])
    for k in (1, 2):
        with h5py.File(tmp_path / "whole" / f"round-{k}" / "pairs.h5") as file:
            assert file["probe"].attrs["pairs"] == 0 and file["probe/prompts"].attrs["prompts"] == 2
        with h5py.File(tmp_path / "whole" / f"round-{k}" / "run" / "metrics.h5") as file:
            assert np.nanmax(file["train/category/probe_n"][...]) == 1
    weights, numbers = result(tmp_path / "whole")
    assert [one["round"] for one in numbers["rounds"]] == [1, 2, 3] and numbers["stop"] is None
    assert numbers["rounds"][0]["ledger"]["A"]["pairs"] + numbers["rounds"][0]["ledger"]["B"]["pairs"] > 0

    # how far the model has moved is known of each round that trained, and a limit on it ends the rounds
    with h5py.File(tmp_path / "whole" / "round-2" / "run" / "metrics.h5") as file:
        ratio = (file["train/pair/logps_chosen"][...] - file["train/pair/ref_logps_chosen"][...])[-1]
    assert numbers["rounds"][1]["kl"] == pytest.approx(np.nanmean(ratio)) and numbers["rounds"][2]["kl"] is None
    limit = ["--max-kl", str(np.nanmean(ratio) - 1)]
    words = [sys.executable, "-m", "catdpo_analysis", "rounds", tmp_path / "whole", *limit]
    stopped = subprocess.run(words, capture_output=True, text=True)
    assert stopped.returncode == 3 and "stop: kl" in stopped.stdout, stopped.stdout + stopped.stderr

    calls = tmp_path / "calls"
    calls.write_text("")
    tools = {
        "CATDPO_BINARY": wrapped(tmp_path / "catdpo", engine.BINARY, calls),
        "CATDPO_ANALYSIS": wrapped(
            tmp_path / "analysis", os.path.join(os.path.dirname(sys.executable), "catdpo-analysis"), calls
        ),
    }
    killed = 0
    for _ in range(40):
        status, output = rounds(files, tmp_path / "killed", *options, tools=tools)
        if status == 0:
            break
        killed += 1
    assert status == 0 and killed > 15, output
    again, same = result(tmp_path / "killed")
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    assert numbers == same


def test_margins_go_on_or_start_anew(files, tmp_path):
    """With the fixed reference the second round's first step has the margins that the first one left."""

    def margins(kind):
        out = tmp_path / kind
        status, output = rounds(files, out, "--reference", kind)
        assert status == 0, output
        with h5py.File(out / "round-2" / "run" / "metrics.h5") as file:
            return file["train/category/margin"][-2], file["train/step"][:].tolist()

    fixed, steps = margins("fixed")
    assert steps[-1] == 4 and not np.all(fixed == 1.0)
    moving, steps = margins("moving")
    assert steps == [1, 2] and np.all(moving == 1.0)


def test_limits(files, tmp_path):
    """A limit that is passed ends the rounds before the training, with the reason."""
    status, output = rounds(files, tmp_path / "stopped", "--stop", "--length 2 3")
    assert status == 0 and "stop: answers of round 1" in output
    assert not (tmp_path / "stopped" / "round-1" / "run").exists()
    status, output = rounds(files, tmp_path / "wrong", "--reference", "none")
    assert status == 2 and "fixed or moving" in output

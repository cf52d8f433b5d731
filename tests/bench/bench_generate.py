#!/usr/bin/env python3
"""Speed of `catdpo generate` beside transformers, on the same prompts and weights, in one run.

    python bench_generate.py --model model.h5 --prompts prompts.h5 --python TRANSFORMERS_PYTHON --hf HF_DIR

Greedy answers of --tokens tokens to the prompts of prompts.h5 (a file of `prepare` that holds prompts); none ends
early; float32. catdpo runs on two MPI ranks as 2 replicas of 1x1 and on 2x1, transformers with --threads threads at
each of --batches and then at its best one. They take turns --repetitions times, so that a slow minute of the machine
hits all alike: the table has medians, of ratios too.

Seconds are those of all answers, with the model loaded. Of catdpo the passes that read prompts are told from those that
only decode; each of those reads all weights once a replica, at the rate that stands beside the memory's: as many
processes as ranks that read an array at once. Nothing else may run meanwhile. Needs h5py and numpy.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))
import h5py
import numpy as np

import runner

HERE = os.path.dirname(os.path.abspath(__file__))
LAYOUTS = {"catdpo, 2 replicas": (2, (1, 1)), "catdpo, 2x1": (1, (2, 1))}
RATE = re.compile(
    r"rate +\S+ tokens/s in (\S+) s: passes that read prompts (\S+) s \((\d+) tokens\), (\d+) others (\S+) s "
    r"\(weights read at (\S+) GB/s a rank\)"
)
READ = "import numpy as np, time\nx = np.ones(1 << 27, 'f4')\nbest = 9.0\nfor _ in range(5):\n" \
       "    start = time.perf_counter(); x.max(); best = min(best, time.perf_counter() - start)\n" \
       "print(x.nbytes / best / 1e9)"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="the model as catdpo-analysis import made it")
parser.add_argument("--prompts", required=True, help="file of catdpo-analysis prepare with /prompts")
parser.add_argument("--binary", default=runner.default_binary())
parser.add_argument("--tokens", type=int, default=64)
parser.add_argument("--threads", type=int, default=2, help="of transformers")
parser.add_argument("--repetitions", type=int, default=3)
parser.add_argument("--python", help="Python that has torch and transformers")
parser.add_argument("--hf", help="the same model as a Hugging Face directory")
parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64], help="of transformers, to try")
parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to catdpo")
parser.add_argument("--json", metavar="FILE", help="write all figures here")


def busy():
    """Share of all processors that was busy during one second."""
    def sample():
        fields = [int(v) for v in open("/proc/stat").readline().split()[1:9]]
        return sum(fields), fields[3] + fields[4]
    total, idle = sample()
    time.sleep(1)
    total_after, idle_after = sample()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def memory_rate(processes):
    """GB/s at which so many processes read memory at once, together."""
    command = [sys.executable, "-c", READ]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(process.communicate()[0]) for process in started)


def run_transformers(a, batches):
    script = os.path.join(HERE, "transformers_generate.py")
    command = [a.python, script, a.hf, a.prompts, a.tokens, a.threads, *batches]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"transformers ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_catdpo(a, name, folder):
    replicas, grid = LAYOUTS[name]
    out = os.path.join(folder, "samples.h5")
    config = runner.write_config(
        os.path.join(folder, "run.cfg"),
        model=dict(path=os.path.abspath(a.model)),
        data=dict(path=os.path.abspath(a.prompts)),
        generate=dict(max_tokens=a.tokens, stop="none"),
        parallel=dict(grid=grid, replicas=replicas),
        run=dict(progress="off"),
    )
    sets = [word for pair in a.set for word in ("--set", pair)]
    command = ["generate", config, "--prompts", a.prompts, "--out", out, "--overwrite", *sets]
    printed = runner.catdpo(a.binary, 2, command)
    seconds, prefill, read, passes, decode, rate = map(float, RATE.search(printed).groups())
    with h5py.File(out) as file:
        offset, token = file["samples/offset"][:], file["samples/token"][:]
    return dict(
        seconds=seconds, prefill=prefill, read=read, passes=passes, decode=decode, weights=2 * rate,
        answers=[piece.tolist() for piece in np.split(token, offset[1:-1])],
    )


def same(answers, others):
    return sum(one == other for one, other in zip(answers, others))


def print_table(a, runs, bandwidth):
    prompts = len(next(iter(runs.values()))[0]["answers"])
    base = next((n for n in runs if n.startswith("transformers")), None)
    first = next(iter(runs.values()))[0]["answers"]
    median = lambda name, key: statistics.median(r[key] for r in runs[name])
    print(
        f"\n{'':24} {'tokens/s':>9} {'(least':>7} {'most)':>7} {'ratio':>6} {'prefill s':>9} {'decode s':>9} "
        f"{'ms a pass':>9} {'GB/s':>6} {'of memory':>9} {'same answers':>12}"
    )
    for name, done in runs.items():
        rates = [prompts * a.tokens / r["seconds"] for r in done]
        ratios = [other["seconds"] / r["seconds"] for other, r in zip(runs.get(base, []), done)]
        ratio = statistics.median(ratios) if ratios else float("nan")
        line = f"{name:24} {statistics.median(rates):9.1f} {min(rates):7.1f} {max(rates):7.1f} {ratio:6.2f} "
        if "decode" in done[0]:
            weights, decode = median(name, "weights"), median(name, "decode")
            line += f"{median(name, 'prefill'):9.2f} {decode:9.2f} {1e3 * decode / done[0]['passes']:9.1f} "
            line += f"{weights:6.1f} {100 * weights / bandwidth:8.1f}% "
        else:
            line += f"{'-':>9} {'-':>9} {'-':>9} {'-':>6} {'-':>9} "
        print(line + f"{same(done[0]['answers'], first):>9} of {prompts}")
    print(f"memory is read at {bandwidth:.1f} GB/s by 2 processes; ratio: to transformers at its best batch size")


def main():
    a = parser.parse_args()
    runner.need_program(a.binary)
    runner.need(a.model, "The imported model", "Make it with `catdpo-analysis import`.")
    runner.need(a.prompts, "The file of prompts", "Make it with `catdpo-analysis prepare`.")
    if a.python:
        runner.need(a.hf, "The Hugging Face directory", "Name it with --hf, or leave out --python.")
    before, bandwidth = busy(), memory_rate(2)
    if before > 0.1:
        print(f"warning: {100 * before:.0f} % of the processors are busy: the figures are not worth much", flush=True)
    runs, best = {}, None
    if a.python:
        tried = run_transformers(a, a.batches)
        best = min(tried, key=lambda r: r["seconds"])["batch"]
        for r in tried:
            print(f"transformers, batch {r['batch']}: {r['seconds']:.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(a.repetitions):
            if a.python:
                runs.setdefault(f"transformers, batch {best}", []).extend(run_transformers(a, [best]))
            for name in LAYOUTS:
                runs.setdefault(name, []).append(run_catdpo(a, name, folder))
            print(
                f"repetition {repetition + 1}: "
                + ", ".join(f"{name} {done[-1]['seconds']:.2f} s" for name, done in runs.items()),
                flush=True,
            )
    print_table(a, runs, bandwidth)
    print(f"processors busy: {100 * before:.0f} % before, {100 * busy():.0f} % after; {os.cpu_count()} cores")
    if a.json:
        with open(a.json, "w") as file:
            json.dump(dict(runs=runs, bandwidth=bandwidth, tokens=a.tokens), file, indent=1)


if __name__ == "__main__":
    main()

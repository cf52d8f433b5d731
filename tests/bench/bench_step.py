#!/usr/bin/env python3
"""Speed and memory of `catdpo train` beside TRL's DPOTrainer, on the same pairs, in one run.

    python bench_step.py --python TRL_PYTHON --hf SMOLLM2_HF_DIR --model model.h5 --data jbb_pairs.jsonl \\
        [--trl-script ../shared/peers/trl_dpo_bench.py]

TRL runs as it comes and at its best (reference log-probs before training, glibc told to keep its memory); catdpo runs
on the grids 2x1 and 1x2 and as 2 replicas of 1x1, two MPI ranks each. All take the same batches in the same order
(those of TRL's first run), float32, reference log-probs before training for catdpo. The runs take turns, so that a slow
minute of the machine hits all alike.

Tokens are counted as TRL counts: every non-padding token of both sequences of a pair, a shared prompt twice. A step's
time includes the optimiser; for each step the median over the repetitions, the first step left out. Memory is the peak
of each process, summed over the ranks. Nothing else may run meanwhile. Needs h5py; TRL's side runs in --python, which
needs torch and trl.
"""
import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))
import h5py

import runner

HERE = os.path.dirname(os.path.abspath(__file__))
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
FOREIGN = {"TRL default": ([], {}), "TRL best": (["--precompute"], KEEP_MEMORY)}
# replicas, grid, passes a step: two whole models take more memory, and two passes of half the pairs give it back
LAYOUTS = {"catdpo 2x1": (1, (2, 1), 1), "catdpo 1x2": (1, (1, 2), 1), "catdpo 2 x 1x1": (2, (1, 1), 2)}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="SmolLM2 as catdpo imported it (model.h5)")
parser.add_argument("--binary", default=runner.default_binary())
parser.add_argument("--trl-script", default=os.path.join(runner.ROOT, "..", "shared", "peers", "trl_dpo_bench.py"))
parser.add_argument("--python", default=sys.executable, help="Python that has torch and trl")
parser.add_argument("--hf", help="the same model as a Hugging Face directory")
parser.add_argument("--data", help="JSONL in PKU-SafeRLHF's schema")
parser.add_argument(
    "--trl-results",
    nargs="+",
    metavar="FILE",
    help="do not run TRL: what an earlier run of --trl-script left with --out, by default and (second file) at best",
)
parser.add_argument("--repetitions", type=int, default=3)
parser.add_argument("--trl-repetitions", type=int, default=2)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--pairs-per-step", type=int, default=4)
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument(
    "--only", action="append", choices=list(LAYOUTS), help="only this layout of catdpo (may be given several times)"
)
parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to catdpo")
parser.add_argument("--json", metavar="FILE", help="write all figures here")


def others_at_work():
    """Share of all processors that was busy during one second."""
    def sample():
        fields = [int(v) for v in open("/proc/stat").readline().split()[1:9]]
        return sum(fields), fields[3] + fields[4]
    total, idle = sample()
    time.sleep(1)
    total_after, idle_after = sample()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def measured(command, environment, launcher=()):
    """Run each process under measure_rank.py; the summed peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, sys.executable, os.path.join(HERE, "measure_rank.py"), folder, *command]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(
                f"{' '.join(command)}\nended with status {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
            )
        return sum(int(open(f).read()) for f in glob.glob(os.path.join(folder, "*.kb"))) * 1024 / 1e9


def run_trl(a, name, folder):
    options, environment = FOREIGN[name]
    out = os.path.join(folder, "trl.json")
    command = [
        a.python,
        os.path.abspath(a.trl_script),
        "--model",
        os.path.abspath(a.hf),
        "--data",
        os.path.abspath(a.data),
        "--steps",
        str(a.steps),
        "--pairs-per-step",
        str(a.pairs_per_step),
        "--rows",
        str(a.steps * a.pairs_per_step),
        "--max-length",
        str(a.max_length),
        "--out",
        out,
        *options,
    ]
    peak = measured(command, environment)
    return trl_result(json.load(open(out)), peak)


def trl_result(result, peak):
    beside = (result["train_s"] - sum(result["step_s"])) / len(result["step_s"])  # optimiser, clipping, logging
    return dict(
        seconds=[s + beside for s in result["step_s"]],
        inner=result["step_s"],
        tokens=result["tokens"],
        peak=peak,
        loss=result["loss"],
        batches=result["batches"],
    )


def run_catdpo(a, name, data, folder):
    replicas, grid, passes = LAYOUTS[name]
    run = os.path.join(folder, "run")
    config = runner.write_config(
        os.path.join(folder, "run.cfg"),
        run=dict(dir=run, progress="off"),
        model=dict(path=os.path.abspath(a.model)),
        data=dict(path=data),
        reference=dict(cache=os.path.join(folder, "reference.h5")),
        objective=dict(type="dpo", beta=0.1),
        batch=dict(pairs=a.pairs_per_step, sampling="sequential", accumulation=passes),
        schedule=dict(type="constant", steps=a.steps, warmup=0.0),
        optimizer=dict(learning_rate=1e-6),
        parallel=dict(grid=grid, replicas=replicas),
        checkpoint=dict(final=False),
    )
    sets = [x for s in a.set for x in ("--set", s)]
    ranks = replicas * grid[0] * grid[1]
    peak = measured(
        [a.binary, "train", config, "--overwrite", *sets], runner.MPI_SETTINGS, ["mpirun", "-n", str(ranks)]
    )
    with h5py.File(os.path.join(run, "metrics.h5")) as file:
        flops = file["timing/step_flops"][:].tolist() if "timing/step_flops" in file else None
        rate = float(file.attrs["sgemm_gflops"]) if "sgemm_gflops" in file.attrs else None
        names = [n.decode() if isinstance(n, bytes) else n for n in file["timing/phase"][:]]
        return dict(
            seconds=file["timing/step_seconds"][:].tolist(),
            phases=dict(zip(names, file["timing/seconds"][:].T.tolist())),
            loss=file["train/loss"][:].tolist(),
            peak=peak,
            flops=flops,
            sgemm=rate,
            ranks=ranks,
        )


def step_medians(runs, key="seconds"):
    """For each step but the first: the median over the repetitions."""
    return [statistics.median(r[key][i] for r in runs) for i in range(1, len(runs[0][key]))]


def summary(runs, tokens):
    seconds = step_medians(runs)
    row = dict(
        rate=sum(tokens[1:]) / sum(seconds),
        step=statistics.median(seconds),
        peak=statistics.median(r["peak"] for r in runs),
        spread=[sum(tokens[1:]) / sum(r["seconds"][1:]) for r in runs],
        loss=runs[0]["loss"],
    )
    if runs[0].get("flops") and runs[0].get("sgemm"):
        rate = statistics.median(r["sgemm"] for r in runs)
        row["sgemm"] = rate
        row["share"] = sum(runs[0]["flops"][1:]) / sum(seconds) / 1e9 / (rate * runs[0]["ranks"])
    if "phases" in runs[0]:
        row["phases"] = {
            p: sum(statistics.median(r["phases"][p][i] for r in runs) for i in range(1, len(seconds) + 1))
            / len(seconds)
            for p in runs[0]["phases"]
        }
    return row


def print_table(rows):
    base = {k: rows.get(k) for k in FOREIGN}
    ratio = lambda value, other, key: f"{value / other[key]:8.2f}" if other else f"{'-':>8}"
    print(
        f"\n{'':16} {'tokens/s':>9} {'(least':>7} {'most)':>7} {'/default':>8} {'/best':>8} {'peak GB':>8} "
        f"{'/default':>8} {'/best':>8} "
        f"{'of sgemm':>8}"
    )
    for name, row in rows.items():
        share = f"{100 * row['share']:7.1f}%" if "share" in row else f"{'-':>8}"
        print(
            f"{name:16} {row['rate']:9.1f} {min(row['spread']):7.1f} {max(row['spread']):7.1f} "
            f"{ratio(row['rate'], base['TRL default'], 'rate')} "
            f"{ratio(row['rate'], base['TRL best'], 'rate')} {row['peak']:8.2f} "
            f"{ratio(row['peak'], base['TRL default'], 'peak')} "
            f"{ratio(row['peak'], base['TRL best'], 'peak')} {share if name in LAYOUTS else '':>8}"
        )
    timed = {n: r for n, r in rows.items() if "phases" in r}
    if timed:
        phases = list(dict.fromkeys(p for r in timed.values() for p in r["phases"]))
        print(f"\n{'seconds a step':24} " + " ".join(f"{n:>15}" for n in timed))
        for p in phases:
            print(f"{p:24} " + " ".join(f"{r['phases'].get(p, float('nan')):15.3f}" for r in timed.values()))
        print(f"{'whole step':24} " + " ".join(f"{r['step']:15.3f}" for r in timed.values()))
    shares = [r["sgemm"] for r in rows.values() if "sgemm" in r]
    if shares:
        print(f"\nsgemm: {statistics.median(shares):.1f} GF/s a rank as the program measured it")
    elif any(n in LAYOUTS for n in rows):
        print("\nmetrics.h5 has no sgemm_gflops or /timing/step_flops: no share of sgemm's rate")


def main():
    a = parser.parse_args()
    runner.need_program(a.binary)
    runner.need(a.model, "The imported model", "Make it with `catdpo-analysis import`.")
    layouts = a.only or list(LAYOUTS)
    earlier = [json.load(open(path)) for path in a.trl_results or []]
    foreign = [] if earlier else list(FOREIGN)
    if foreign:
        runner.need(
            a.trl_script, "TRL's script", "Name it with --trl-script, or give --trl-results FILE to run without TRL."
        )
        runner.need(
            a.hf, "The Hugging Face directory", "Name it with --hf, or give --trl-results FILE to run without TRL."
        )
        runner.need(a.data, "The data", "Name it with --data, or give --trl-results FILE to run without TRL.")
        if subprocess.run([a.python, "-c", "import torch, trl"], capture_output=True).returncode != 0:
            sys.exit(
                f"{a.python} cannot import torch and trl: name one that can with --python, or give --trl-results FILE "
                "to run without TRL."
            )
    busy = others_at_work()
    if busy > 0.1:
        print(
            f"warning: {100 * busy:.0f} % of the processors were busy before the start; the figures will not be worth "
            "much",
            flush=True,
        )

    runs = {name: [] for name in foreign + layouts}
    batches = earlier[0]["batches"] if earlier else None
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "pairs.h5")
        for repetition in range(max(a.repetitions, a.trl_repetitions if foreign else 0)):
            for name in runs:
                if repetition >= (a.trl_repetitions if name in FOREIGN else a.repetitions):
                    continue
                if name in FOREIGN:
                    runs[name].append(run_trl(a, name, folder))
                    batches = batches or runs[name][0]["batches"]
                else:
                    if not os.path.exists(data):
                        runner.write_pairs_file(data, a.model, runner.batch_pairs(batches[: a.steps]))
                    runs[name].append(run_catdpo(a, name, data, folder))
                print(
                    f"repetition {repetition + 1}: {name:16} {sum(runs[name][-1]['seconds'][1:]):7.2f} s in "
                    f"{a.steps - 1} steps",
                    flush=True,
                )
    tokens = [sum(map(sum, b["attention_mask"])) for b in batches[: a.steps]]
    for name, result in zip(FOREIGN, earlier):
        runs = {name: [trl_result(result, result["peak_GB"] * 1.024)], **runs}
    rows = {name: summary(runs[name], tokens) for name in [*FOREIGN, *layouts] if name in runs}
    print_table(rows)
    if earlier:
        print("TRL's figures are from an earlier run, so the ratios are not side by side")
    for name in (n for n in FOREIGN if n in rows):
        inner = sum(tokens[1:]) / sum(step_medians(runs[name], "inner"))
        print(f"{name} without its optimiser step: {inner:.1f} tokens/s")
    print("losses: " + "; ".join(f"{n} {', '.join(f'{v:.4f}' for v in r['loss'])}" for n, r in rows.items()))
    print(f"processors busy: {100 * busy:.0f} % before, {100 * others_at_work():.0f} % after; {os.cpu_count()} cores")
    if a.json:
        json.dump(dict(rows=rows, tokens=tokens, repetitions=a.repetitions), open(a.json, "w"), indent=1)


if __name__ == "__main__":
    main()

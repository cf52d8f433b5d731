#!/usr/bin/env python3
"""How fast a checkpoint is written, against plain `write` and `fsync` of as many bytes to the same file system, in
turns.

    python bench_checkpoint.py --model model.h5 [--folder DIR]

Trains a few steps on short random pairs with a checkpoint after each; the time is what the program itself measured
(/timing/seconds of phase `checkpoint`, which metrics.h5 keeps for every step), so it holds everything: checksums,
metadata, data, fsync, rename, metrics before it. Needs h5py and numpy.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))
import h5py
import numpy as np

import runner

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="model.h5")
parser.add_argument("--folder", help="where to write; default: the system's folder for temporary files")
parser.add_argument("--binary", default=runner.default_binary())
parser.add_argument("--ranks", type=int, default=2)
parser.add_argument("--repetitions", type=int, default=3)
parser.add_argument(
    "--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to catdpo, e.g. parallel.grid=[2,1]"
)


def checkpoints(a, folder):
    """Seconds of each checkpoint of a short run, its size in bytes, and seconds of training without them."""
    run, data = os.path.join(folder, "run"), os.path.join(folder, "pairs.h5")
    if not os.path.exists(data):
        random = np.random.default_rng(1)
        tokens = lambda count: random.integers(0, 90, count).tolist()
        runner.write_pairs_file(
            data,
            a.model,
            [
                dict(
                    prompt=tokens(8),
                    chosen=tokens(8),
                    rejected=tokens(8),
                    categories=["all"],
                    chosen_safe=1,
                    rejected_safe=0,
                    chosen_better=None,
                    row=i,
                )
                for i in range(4)
            ],
        )
    config = runner.write_config(
        os.path.join(folder, "run.cfg"),
        run=dict(dir=run, progress="off"),
        model=dict(path=os.path.abspath(a.model)),
        data=dict(path=data),
        reference=dict(cache=os.path.join(folder, "reference.h5")),
        batch=dict(pairs=1, sampling="sequential"),
        schedule=dict(steps=4),
        checkpoint=dict(steps=1, keep=1, final=False),
    )
    sets = [x for s in a.set for x in ("--set", s)]
    done = subprocess.run(
        ["mpirun", "-n", str(a.ranks), a.binary, "train", config, "--overwrite", *sets],
        env={**os.environ, **runner.MPI_SETTINGS},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"catdpo ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    with h5py.File(os.path.join(run, "metrics.h5")) as file:
        phase = [name.decode() for name in file["timing/phase"][:]].index("checkpoint")
        seconds = file["timing/seconds"][1:, phase]           # a step's time holds the checkpoint before it
        training = file["timing/step_seconds"][1:].sum() - seconds.sum()
    name, = os.listdir(os.path.join(run, "checkpoints"))
    return seconds.tolist(), os.path.getsize(os.path.join(run, "checkpoints", name)), training


def plain(folder, size):
    """Seconds for the same bytes with write and fsync, by one process."""
    block = np.random.default_rng(1).bytes(1 << 24)
    path = os.path.join(folder, "plain")
    start = time.monotonic()
    with open(path, "wb", buffering=0) as file:
        for at in range(0, size, len(block)):
            file.write(block[: size - at])
        os.fsync(file.fileno())
    seconds = time.monotonic() - start
    os.remove(path)
    return seconds


def main():
    a = parser.parse_args()
    runner.need_program(a.binary)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        for repetition in range(a.repetitions):
            seconds, size, training = checkpoints(a, folder)
            ours += seconds
            for _ in seconds:
                theirs.append(plain(folder, size))
            print(
                f"repetition {repetition + 1}: checkpoints {', '.join(f'{s:.2f}' for s in seconds)} s, plain "
                f"{', '.join(f'{s:.2f}' for s in theirs[-len(seconds) :])} s; {training:.1f} s of training between "
                "them",
                flush=True,
            )
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(
        f"{size / 1e9:.3f} GB: checkpoint {mine:.2f} s ({size / mine / 1e9:.2f} GB/s), write + fsync {other:.2f} s "
        f"({size / other / 1e9:.2f} GB/s): "
        f"{100 * other / mine:.0f} % of its rate"
    )


if __name__ == "__main__":
    main()

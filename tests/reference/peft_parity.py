#!/usr/bin/env python3
"""Adapters against PEFT: the losses of `catdpo train` with LoRA (type = dpo) beside those of TRL's DPOTrainer on a
PeftModel, from the same start and on the same batches; and what `catdpo-analysis export` writes, loaded by PEFT.

    python peft_parity.py --hf SMOLLM2_HF_DIR --model model.h5 --data jbb_pairs.jsonl

PEFT makes the start and saves it; it is imported as lora.adapter, so names, shapes and scale go through both formats.
Both then train in float32 with AdamW (0.9, 0.999, 1e-8), clipping at 1 and a constant learning rate; the reference is
the model with its adapters switched off. Losses must agree within --tolerance. The trained adapter is exported alone
and merged: PeftModel.from_pretrained on the one and from_pretrained on the other must give logits that differ by at
most --logits of the largest one, and log-probs as catdpo has them. Exits with 1 if anything does not hold. Needs torch,
transformers, trl, peft, datasets, accelerate, h5py.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import h5py
import peft
import torch
import trl
from datasets import Dataset

import foreign_model
import runner

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--hf", required=True, help="the model as a Hugging Face directory")
parser.add_argument("--model", required=True, help="the same model as catdpo imported it (model.h5)")
parser.add_argument("--data", required=True, help="JSONL in PKU-SafeRLHF's schema")
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--pairs-per-step", type=int, default=4)
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument("--learning-rate", type=float, default=1e-4)
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--alpha", type=int, default=16)
parser.add_argument("--target-modules", default="all-linear", help="all-linear, or names with commas between")
parser.add_argument("--beta", type=float, default=0.1)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--tolerance", type=float, default=1e-3)
parser.add_argument("--logits", type=float, default=1e-4)
parser.add_argument("--binary", default=runner.default_binary())
parser.add_argument("--ranks", type=int, default=2)
parser.add_argument(
    "--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to catdpo, e.g. parallel.grid=[2,1]"
)


class Recorder(trl.DPOTrainer):
    """DPOTrainer that remembers what it was fed."""

    def training_step(self, model, inputs, *more, **options):
        kept = ("input_ids", "attention_mask", "completion_mask")
        self.__dict__.setdefault("seen", []).append({k: inputs[k].tolist() for k in kept})
        return super().training_step(model, inputs, *more, **options)


def modules(a):
    return a.target_modules if a.target_modules == "all-linear" else a.target_modules.split(",")


def train_with_peft(a, folder):
    """Batches and losses of each step; the start is saved in `folder`/start."""
    rows = foreign_model.one_safe(json.loads(line) for line in open(a.data))[: a.steps * a.pairs_per_step]
    torch.manual_seed(a.seed)
    base, tokenizer = foreign_model.load(a.hf)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=a.rank, lora_alpha=a.alpha, lora_dropout=0.0, target_modules=modules(a)
    )
    model = peft.get_peft_model(base, config)
    model.save_pretrained(os.path.join(folder, "start"))
    settings = trl.DPOConfig(
        output_dir=os.path.join(folder, "trl"),
        max_steps=a.steps,
        per_device_train_batch_size=a.pairs_per_step,
        max_length=a.max_length,
        beta=a.beta,
        learning_rate=a.learning_rate,
        lr_scheduler_type="constant",
        seed=a.seed,
        bf16=False,
        fp16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Recorder(model=model, args=settings, processing_class=tokenizer,
                       train_dataset=Dataset.from_list([foreign_model.conversation(r) for r in rows]))
    trainer.train()
    log = [h for h in trainer.state.log_history if "grad_norm" in h]
    return trainer.seen, [h["loss"] for h in log], [h["grad_norm"] for h in log]


def analysis(*words):
    environment = dict(os.environ, PYTHONPATH=os.path.join(runner.ROOT, "analysis"))
    command = [sys.executable, "-m", "catdpo_analysis", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"catdpo-analysis {' '.join(words)}: {done.stderr}")
    print(done.stdout, end="")


def train_with_catdpo(a, batches, folder):
    """Losses, gradient norms and the final checkpoint."""
    data, run, start = (os.path.join(folder, name) for name in ("pairs.h5", "run", "start.h5"))
    analysis("import", os.path.join(folder, "start"), "--base", a.model, "--out", start)
    with h5py.File(start) as file:
        about = dict(file["adapter"].attrs)
    runner.write_pairs_file(data, a.model, runner.batch_pairs(batches))
    config = runner.write_config(
        os.path.join(folder, "run.cfg"),
        run=dict(dir=run, seed=a.seed),
        model=dict(path=a.model),
        lora=dict(
            rank=int(about["rank"]),
            alpha=float(about["alpha"]),
            target_modules=about["target_modules"].decode(),
            adapter=start,
        ),
        data=dict(path=data),
        objective=dict(type="dpo", beta=a.beta),
        batch=dict(pairs=a.pairs_per_step, sampling="sequential"),
        optimizer=dict(
            learning_rate=a.learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0
        ),
        schedule=dict(type="constant", steps=a.steps, warmup=0.0),
    )
    runner.catdpo(a.binary, a.ranks, ["train", config, *(x for s in a.set for x in ("--set", s))])
    final = os.path.join(run, "checkpoints", "final.h5")
    runner.catdpo(a.binary, a.ranks, ["eval", config, "--model", final, "--split", "train", "--out",
                                      os.path.join(folder, "eval.h5"), *(x for s in a.set for x in ("--set", s))])
    with h5py.File(os.path.join(run, "metrics.h5")) as file:
        return file["train/loss"][:].tolist(), file["train/grad_norm"][:].tolist(), final


def check_export(a, batches, final, folder):
    """Largest difference of logits relative to the largest logit, and of log-probs in nats: the exported adapter in
    PEFT, the merged export in transformers, and catdpo's own evaluation."""
    alone, merged = os.path.join(folder, "alone"), os.path.join(folder, "merged")
    analysis("export", final, "--adapter", "--base-name", a.hf, "--out", alone)
    analysis("export", final, "--out", merged)
    with_peft = peft.PeftModel.from_pretrained(foreign_model.load(a.hf)[0], alone).eval()
    with_weights = foreign_model.load(merged)[0].eval()
    with h5py.File(os.path.join(folder, "eval.h5")) as file:
        logps = file["eval/pairs/logps_chosen"][:]
    apart = largest = nats = 0.0
    with torch.no_grad():
        for i, pair in enumerate(runner.batch_pairs(batches)[:4]):
            prompt, ids = len(pair["prompt"]), torch.tensor([list(pair["prompt"]) + list(pair["chosen"])])
            x, y = with_peft(input_ids=ids).logits[0], with_weights(input_ids=ids).logits[0]
            apart, largest = max(apart, float((x - y).abs().max())), max(largest, float(y.abs().max()))
            chosen = torch.log_softmax(x[:-1].double(), -1).gather(1, ids[0, 1:, None])[prompt - 1 :].sum()
            nats = max(nats, abs(float(chosen) - logps[i]))
    return apart / largest, nats


def main():
    a = parser.parse_args()
    runner.need_program(a.binary)
    runner.need(a.model, "The imported model", "Make it with `catdpo-analysis import`.")
    with tempfile.TemporaryDirectory() as folder:
        batches, their_loss, their_norm = train_with_peft(a, folder)
        loss, norm, final = train_with_catdpo(a, batches, folder)
        apart, nats = check_export(a, batches, final, folder)
    print(f"TRL {trl.__version__}, peft {peft.__version__}, torch {torch.__version__}")
    print(f"{'step':>4} {'loss PEFT':>11} {'catdpo':>11} {'difference':>11} {'norm PEFT':>11} {'catdpo':>11}")
    for i in range(a.steps):
        print(
            f"{i + 1:4d} {their_loss[i]:11.6f} {loss[i]:11.6f} {loss[i] - their_loss[i]:11.2e} {their_norm[i]:11.4f} "
            f"{norm[i]:11.4f}"
        )
    print(f"exported adapter in PEFT against the merged model: logits differ by {apart:.1e} of the largest")
    print(f"log-probs by PEFT against catdpo eval: {nats:.1e} nats")
    held = all(abs(x - y) <= a.tolerance for x, y in zip(loss, their_loss)) and apart <= a.logits and nats <= 0.02
    print(f"{'PASS' if held else 'FAIL'}: tolerance {a.tolerance} of losses, {a.logits} of logits, 0.02 nats")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

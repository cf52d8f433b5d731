#!/usr/bin/env python3
"""The first losses and gradient norms of `catdpo train` (type = dpo) against TRL's DPOTrainer on the same batches.

    python trl_parity.py --hf SMOLLM2_HF_DIR --model model.h5 --data jbb_pairs.jsonl

TRL trains and its batches are kept; catdpo then trains on the same token ids in the same order (batch.sampling =
"sequential") with the same settings: float32, AdamW (0.9, 0.999, 1e-8), clipping at 1, constant learning rate. Losses
must agree within the tolerance, gradient norms within the tolerance relative to TRL's. Exits with 1 if they do not.

transformers gives the embedding row of the padding token no gradient from look-ups; SmolLM2 pads with <|im_end|>, which
stands in every prompt. TRL's gradient norm is therefore off by up to 8e-4 here; --all-rows lifts that, and the norms
then agree to 1e-4. Needs torch, transformers, trl, datasets, accelerate, h5py.
"""
import argparse
import json
import os
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import h5py
import torch
import trl
from datasets import Dataset

import foreign_model
import runner

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--hf", required=True, help="the model as a Hugging Face directory")
parser.add_argument("--model", required=True, help="the same model as catdpo imported it (model.h5)")
parser.add_argument("--data", required=True, help="JSONL in PKU-SafeRLHF's schema")
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--pairs-per-step", type=int, default=4)
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument("--learning-rate", type=float, default=1e-6)
parser.add_argument("--beta", type=float, default=0.1)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--tolerance", type=float, default=1e-3)
parser.add_argument("--binary", default=runner.default_binary())
parser.add_argument("--ranks", type=int, default=2)
parser.add_argument(
    "--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to catdpo, e.g. parallel.grid=[2,1]"
)
parser.add_argument("--all-rows", action="store_true", help="let TRL train the padding token's embedding too")
parser.add_argument(
    "--keep", metavar="FILE", help="keep TRL's batches and log here (JSON), and read them from it if it is there"
)


class Recorder(trl.DPOTrainer):
    """DPOTrainer that remembers what it was fed."""

    def training_step(self, model, inputs, *more, **options):
        kept = ("input_ids", "attention_mask", "completion_mask")
        self.__dict__.setdefault("seen", []).append({k: inputs[k].tolist() for k in kept})
        return super().training_step(model, inputs, *more, **options)


def train_with_trl(a, folder):
    """Batches, losses and gradient norms of each step."""
    rows = foreign_model.one_safe(json.loads(line) for line in open(a.data))[: a.steps * a.pairs_per_step]
    model, tokenizer = foreign_model.load(a.hf)
    if a.all_rows:
        model.get_input_embeddings().padding_idx = None
    settings = trl.DPOConfig(
        output_dir=folder,
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
    return dict(batches=trainer.seen, loss=[h["loss"] for h in log], grad_norm=[h["grad_norm"] for h in log],
                versions=f"TRL {trl.__version__}, torch {torch.__version__}")


def train_with_catdpo(a, batches, folder):
    data, run = os.path.join(folder, "pairs.h5"), os.path.join(folder, "run")
    runner.write_pairs_file(data, a.model, runner.batch_pairs(batches))
    config = runner.write_config(
        os.path.join(folder, "run.cfg"),
        run=dict(dir=run, seed=a.seed),
        model=dict(path=a.model),
        data=dict(path=data),
        objective=dict(type="dpo", beta=a.beta),
        batch=dict(pairs=a.pairs_per_step, sampling="sequential"),
        optimizer=dict(
            learning_rate=a.learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0
        ),
        schedule=dict(type="constant", steps=a.steps, warmup=0.0),
        checkpoint=dict(final=False),
    )
    runner.catdpo(a.binary, a.ranks, ["train", config, *(x for s in a.set for x in ("--set", s))])
    with h5py.File(os.path.join(run, "metrics.h5")) as file:
        return file["train/loss"][:].tolist(), file["train/grad_norm"][:].tolist()


def main():
    a = parser.parse_args()
    runner.need_program(a.binary)
    runner.need(a.model, "The imported model", "Make it with `catdpo-analysis import`.")
    with tempfile.TemporaryDirectory() as folder:
        if a.keep and os.path.exists(a.keep):
            theirs = json.load(open(a.keep))
        else:
            theirs = train_with_trl(a, folder)
            if a.keep:
                json.dump(theirs, open(a.keep, "w"))
        loss, norm = train_with_catdpo(a, theirs["batches"], folder)

    print(theirs.get("versions", ""))
    print(
        f"{'step':>4} {'loss TRL':>11} {'catdpo':>11} {'difference':>11} {'norm TRL':>11} {'catdpo':>11} "
        f"{'relative':>10}"
    )
    held = len(loss) == len(theirs["loss"]) == a.steps
    for i in range(min(len(loss), len(theirs["loss"]))):
        apart, ratio = loss[i] - theirs["loss"][i], norm[i] / theirs["grad_norm"][i] - 1
        held = held and abs(apart) <= a.tolerance and abs(ratio) <= a.tolerance
        print(
            f"{i + 1:4d} {theirs['loss'][i]:11.6f} {loss[i]:11.6f} {apart:11.2e} {theirs['grad_norm'][i]:11.4f} "
            f"{norm[i]:11.4f} {ratio:10.2e}"
        )
    print(f"{'PASS' if held else 'FAIL'}: tolerance {a.tolerance}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

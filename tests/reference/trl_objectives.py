#!/usr/bin/env python3
"""Every loss that TRL has too: TRL's value and gradient for a batch of real pairs against one step of `catdpo train`.

    python trl_objectives.py --hf SMOLLM2_HF_DIR --data jbb_pairs.jsonl [--header ../unit/trl_values.h]

The reference is the model, the policy the same with every weight off by a random 1 %. TRL's models compute in float64
(it makes float32 of their log-probs), catdpo as always in float32, both on the same token ids. The loss, the norm of
the gradient and the gradient of every tensor must agree within 1e-4, relative to TRL's; catdpo's gradient is AdamW's
first moment after a step without clipping. Exits with 1 if they do not.

dpo, hinge, ipo, robust: TRL's DPOTrainer. kto: its KTOTrainer, which mismatches completions within a batch; the rows
are laid out so that it finds the ones that catdpo has. simpo: the loss of its CPOTrainer on mean log-probs; cdpo: the
same on log-ratios, for its DPOTrainer has no label smoothing. orpo: the loss of its ORPOTrainer, and the likelihood
of the completion alone, where TRL's counts the prompt too.

transformers gives the padding token's embedding no gradient from look-ups, and SmolLM2 pads with a token that stands
in every prompt: that is lifted here. Needs torch, transformers, trl, datasets, accelerate, h5py and the project's
Python package. --header only writes the table that tests/unit/test_objective_trl.c reads.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import foreign_model
import h5py
import numpy as np
import runner
import torch
import transformers
import trl
from datasets import Dataset
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

NOISE, SEED, BETA1 = 0.01, 7, 0.9
TOLERANCE = 1e-4
DPO, CPO, ORPO, KTO = "DPO", "CPO", "ORPO", "KTO"
# objective -> (TRL's trainer, catdpo's settings, TRL's where they differ)
CASES = {
    "dpo": (DPO, {"beta": 0.1}, {"loss_type": ["sigmoid"]}),
    "hinge": (DPO, {"beta": 0.02}, {"loss_type": ["hinge"]}),  # some pairs on either side of the kink
    "ipo": (DPO, {"beta": 0.1, "length_average": True}, {"loss_type": ["ipo"]}),
    "robust": (DPO, {"beta": 0.2, "label_smoothing": 0.15}, {"loss_type": ["robust"]}),
    "cdpo": (CPO, {"beta": 0.1, "label_smoothing": 0.15}, {"loss_type": "sigmoid"}),
    "simpo": (CPO, {"beta": 2.0, "simpo_gamma": 0.5}, {"loss_type": "simpo"}),
    "orpo": (ORPO, {"beta": 0.1}, {}),
    "kto": (KTO, {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.3}, {"loss_type": "kto"}),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hf", required=True, help="the model as a Hugging Face directory")
    parser.add_argument("--data", required=True, help="JSONL in PKU-SafeRLHF's schema")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--longest", type=int, default=300, help="characters of a response at most")
    parser.add_argument("--binary", default=runner.default_binary())
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES), metavar="OBJECTIVE")
    parser.add_argument("--header", metavar="FILE", help="write TRL's numbers as a C table, and end")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to catdpo")
    return parser.parse_args()


def choose_rows(a):
    """Pairs of short responses, each with a prompt of its own."""
    chosen, prompts = [], set()
    for row in foreign_model.one_safe(map(json.loads, open(a.data))):
        lengths = [len(row[f"response_{i}"]) for i in (0, 1)]
        if min(lengths) >= 40 and max(lengths) <= a.longest and row["prompt"] not in prompts:
            prompts.add(row["prompt"])
            chosen.append(foreign_model.conversation(row))
    return chosen[: a.pairs]


def models_of(a):
    """(reference, policy) in float64 with weights that float32 holds, and the tokenizer."""
    (reference, tokenizer), (policy, _) = foreign_model.load(a.hf), foreign_model.load(a.hf)
    torch.manual_seed(SEED)
    with torch.no_grad():
        for weights in policy.parameters():
            weights.mul_(1 + NOISE * torch.randn_like(weights))
    for model in (reference, policy):
        model.get_input_embeddings().padding_idx = None
    return reference.double().eval(), policy.double(), tokenizer


def imported(folder, name, model, tokenizer):
    """The model as catdpo reads it."""
    where, path = os.path.join(folder, name), os.path.join(folder, f"{name}.h5")
    model.float().save_pretrained(where)
    model.double()
    tokenizer.save_pretrained(where)
    program = os.path.join(runner.ROOT, ".venv", "bin", "catdpo-analysis")
    command = [program if os.path.exists(program) else "catdpo-analysis", "import", where, "--out", path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return path


# ---- TRL ------------------------------------------------------------------------------------------------------------


def trainer_of(kind, config, rows, models, folder, **settings):
    """One of TRL's trainers over rows that make a single batch."""
    reference, policy, tokenizer = models
    more = {"ref_model": reference} if kind in (trl.DPOTrainer, trl.KTOTrainer) else {}
    return kind(
        model=policy,
        args=config(
            output_dir=folder,
            per_device_train_batch_size=len(rows),
            max_length=1024,
            bf16=False,
            fp16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to=[],
            disable_tqdm=True,
            **settings,
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        **more,
    )


@contextlib.contextmanager
def log_probs_of(model, through):
    """The log-probs that the model's passes return, with their gradients, which do not go on into the weights unless
    `through`."""
    kept, forward = [], model.forward

    def tapped(*inputs, **options):
        with torch.set_grad_enabled(torch.is_grad_enabled() and through):
            outputs = forward(*inputs, **options)
        if not through:
            outputs.log_probs.requires_grad_()
        elif outputs.log_probs.requires_grad:
            outputs.log_probs.retain_grad()
        kept.append(outputs.log_probs)
        return outputs

    model.forward = tapped
    yield kept
    model.forward = forward


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def sequence_gradient(gradient, mask):
    """d loss / d logp of each sequence: that of its first completion token, for a sum gives all the same."""
    gradient = gradient[:, -mask.shape[1] :]
    return gradient[torch.arange(len(mask)), mask.int().argmax(dim=1)].tolist()


def value_of(loss, model, gradient):
    """What is kept of a loss whose backward pass has run."""
    found = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"loss": loss.item(), "tensors": found, "gradient": gradient, "kl": 0.0}


def with_trainer(trainer, batch, models, through):
    """(value, log-probs of policy and reference [sequences, tokens]) by the trainer's own compute_loss."""
    policy = models[1]
    mask = batch["completion_mask"][:, 1:]
    policy.zero_grad()
    with log_probs_of(trainer.model, through) as ours, log_probs_of(trainer.ref_model, False) as frozen:
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
    main = next(kept for kept in ours if kept.grad is not None)
    return value_of(loss, policy, sequence_gradient(main.grad, mask)), (main.detach(), frozen[0].detach())


def with_function(loss_of, shared, models, through):
    """Value of a loss that is a function of the sequences' log-probs, TRL's batch going through the model."""
    policy, batch = models[1], shared["batch"]
    leaf = shared["logps"].clone().requires_grad_(True)
    loss = loss_of(leaf)
    loss.backward()
    if not through:
        return value_of(loss, policy, leaf.grad.tolist())
    logits = policy(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    picked = torch.log_softmax(logits, -1).gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    loss = loss_of((picked * batch["completion_mask"][:, 1:]).sum(1))
    loss.backward()
    return value_of(loss, policy, leaf.grad.tolist())


def kto_value(rows, models, folder, settings, through):
    """TRL rotates completions by one within a batch: rows from the last pair to the first give each prompt the
    completion of the pair behind it."""
    examples = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
        for row in reversed(rows)
    ]
    settings["train_sampling_strategy"] = "sequential"
    trainer = trainer_of(trl.KTOTrainer, trl.KTOConfig, examples, models, folder, **settings)
    value, _ = with_trainer(trainer, first_batch(trainer), models, through)
    gradient, count = value["gradient"], len(rows)
    value["gradient"] = gradient[:count][::-1] + gradient[count:][::-1]
    value["kl"] = next(log["kl"][-1] for log in trainer._metrics.values() if log["kl"])
    return value


def dpo_value(rows, models, folder, settings, through, shared):
    trainer = trainer_of(trl.DPOTrainer, trl.DPOConfig, rows, models, folder, **settings)
    batch = shared.get("batch") or first_batch(trainer)
    value, kept = with_trainer(trainer, batch, models, through)
    mask = batch["completion_mask"][:, 1:]
    logps, reference = ((each[:, -mask.shape[1] :] * mask).sum(1) for each in kept)
    shared |= {"batch": batch, "logps": logps, "reference": reference, "tokens": mask.sum(1)}
    return value


def trl_value(name, rows, models, folder, through, shared):
    """TRL's value of an objective. `shared` gets the batch and its log-probs from the first of DPO's."""
    kind, ours, theirs = CASES[name]
    settings = {key: value for key, value in ours.items() if key != "length_average"} | theirs
    if kind == DPO:
        return dpo_value(rows, models, folder, settings, through, shared)
    if kind == KTO:
        return kto_value(rows, models, folder, settings, through)
    if kind == CPO:
        trainer = trainer_of(CPOTrainer, CPOConfig, rows, models, folder, cpo_alpha=0.0, **settings)
        divisor, frozen = (shared["tokens"], 0) if name == "simpo" else (1, shared["reference"])
        loss_of = lambda logps: trainer.cpo_loss(*((logps - frozen) / divisor).chunk(2))[0].mean()
    else:
        trainer = trainer_of(ORPOTrainer, ORPOConfig, rows, models, folder, **settings)

        def loss_of(logps):
            chosen, rejected = (logps / shared["tokens"]).chunk(2)
            return -(chosen + trainer.odds_ratio_loss(chosen, rejected)[0]).mean()

    return with_function(loss_of, shared, models, through)


# ---- catdpo ---------------------------------------------------------------------------------------------------------


def one_step(a, name, paths, pairs, folder):
    """(loss, {tensor: gradient}, kl) of the first step."""
    run = os.path.join(folder, f"run-{name}")
    config = runner.write_config(
        os.path.join(folder, f"{name}.cfg"),
        run=dict(dir=run),
        model=dict(path=paths["policy"]),
        data=dict(path=pairs),
        reference=dict(**({} if name in ("simpo", "orpo") else dict(model=paths["reference"]))),
        objective=dict(type=name, **CASES[name][1]),
        batch=dict(pairs=a.pairs, sampling="sequential"),
        optimizer=dict(max_grad_norm=0.0, beta1=BETA1),
        schedule=dict(type="constant", steps=1, warmup=0.0),
    )
    runner.catdpo(a.binary, a.ranks, ["train", config, *(x for s in a.set for x in ("--set", s))])
    with h5py.File(os.path.join(run, "metrics.h5")) as file:
        loss, kl = file["train/loss"][0], file["train/kl"][0]
    gradients, final = {}, os.path.join(run, "checkpoints", "final.h5")

    def take(path, item):
        if isinstance(item, h5py.Dataset):
            name = ("" if path.startswith("lm_head") else "model.") + path.replace("/", ".")
            gradients[name] = item[...] / (1 - BETA1)

    with h5py.File(final) as file:
        file["optimizer/m"].visititems(take)
    os.remove(final)
    return loss, gradients, kl


def compare(name, value, ours):
    """Whether catdpo's step agrees with TRL's value; prints a line."""
    loss, gradients, kl = ours
    norm = lambda tensors: float(np.sqrt(sum((t.astype("f8") ** 2).sum() for t in tensors)))
    theirs = {path: value["tensors"][path] for path in gradients}
    assert len(theirs) == len(value["tensors"]), sorted(set(value["tensors"]) - set(gradients))
    size = norm(theirs.values())
    apart = abs(loss / value["loss"] - 1)
    norms = abs(norm(gradients.values()) / size - 1)
    whole = norm([gradients[path] - t for path, t in theirs.items()]) / size
    worst, path = max((norm([gradients[path] - t]) / norm([t]), path) for path, t in theirs.items())
    note = f"; baseline {value['kl']:.5f}, {kl:.5f}" if value["kl"] else ""
    print(
        f"{name:>7} {value['loss']:12.7f} {loss:12.7f} {apart:9.1e} {size:11.5f} {norms:9.1e} {whole:9.1e} "
        f"{worst:9.1e}  {path}{note}",
        flush=True,
    )
    return max(apart, norms, whole, worst) <= TOLERANCE


def write_header(path, values, shared):
    count = len(shared["tokens"]) // 2

    def sides(numbers, form=".17g"):
        return ", ".join(f"{{ {x:{form}}, {y:{form}} }}" for x, y in zip(numbers[:count], numbers[count:]))

    with open(path, "w") as out:
        out.write(
            f"/* Made by tests/reference/trl_objectives.py with TRL {trl.__version__}, transformers "
            f"{transformers.__version__} and torch {torch.__version__}:\n * losses of real pairs under SmolLM2 and "
            "their gradients with respect to the sequences' log-probs. */\n"
            f"#ifndef TRL_VALUES_H\n#define TRL_VALUES_H\n\n#include \"catdpo/objective/objective.h\"\n\n"
            f"enum {{ TRL_PAIRS = {count} }};\n"
            f"static const double trl_logps[TRL_PAIRS][2] = {{ {sides(shared['logps'].tolist())} }};\n"
            f"static const double trl_reference[TRL_PAIRS][2] = {{ {sides(shared['reference'].tolist())} }};\n"
            f"static const int trl_tokens[TRL_PAIRS][2] = {{ {sides(shared['tokens'].tolist(), 'd')} }};\n"
            "static const struct TrlValue {\n    const char *name;\n    ObjectiveSettings settings;\n"
            "    double baseline, loss, gradient[TRL_PAIRS][2];\n} trl_values[] = {\n"
        )
        for name, value in values.items():
            fields = ", ".join(f".{key} = {str(number).lower()}" for key, number in CASES[name][1].items())
            out.write(
                f'    {{ "{name}", {{ {fields} }}, {value["kl"]:.17g}, {value["loss"]:.17g}, '
                f"{{ {sides(value['gradient'])} }} }},\n"
            )
        out.write("};\n\n#endif\n")
    subprocess.run(["clang-format", "-i", path], check=True)


def main():
    a = arguments()
    transformers.utils.logging.disable_progress_bar()
    runner.need_program(a.binary)
    rows = choose_rows(a)
    a.pairs = len(rows)
    models, shared = models_of(a), {}
    with tempfile.TemporaryDirectory() as folder:
        if a.header:
            values = {name: trl_value(name, rows, models, folder, False, shared) for name in CASES}
            write_header(a.header, values, shared)
            return 0
        pairs, held = os.path.join(folder, "pairs.h5"), []
        paths = {
            name: imported(folder, name, model, models[2]) for name, model in zip(("reference", "policy"), models)
        }
        print(f"TRL {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
        print("relative differences of the loss, of the gradient's norm, of the gradient, and of the gradient of that")
        print("tensor which is furthest off")
        titles = ("loss, TRL", "catdpo", "loss", "norm, TRL", "norm", "all", "one")
        print("        {:>12} {:>12} {:>9} {:>11} {:>9} {:>9} {:>9}".format(*titles))
        for name in CASES:
            if name not in a.only and name != "dpo":  # which has the batch
                continue
            value = trl_value(name, rows, models, folder, True, shared)
            if not os.path.exists(pairs):
                columns = ("input_ids", "attention_mask", "completion_mask")
                batch = {key: shared["batch"][key].tolist() for key in columns}
                runner.write_pairs_file(pairs, paths["policy"], runner.batch_pairs([batch]))
                print(f"{a.pairs} pairs, {int(shared['tokens'].sum())} completion tokens")
            held.append(compare(name, value, one_step(a, name, paths, pairs, folder)))
    print(f"{'PASS' if all(held) else 'FAIL'}: within {TOLERANCE}")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())

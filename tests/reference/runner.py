"""Run `catdpo` under MPI from the reference and bench scripts, and turn another trainer's batches into a pairs file."""
import hashlib
import json
import os
import shutil
import subprocess
import sys

import h5py

import catdpo_h5 as ch

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MPI_SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_btl_base_warn_component_unused": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
}


def default_binary():
    return os.environ.get("CATDPO_BINARY") or os.path.join(ROOT, "build", "catdpo")


def need(path, what, remedy):
    """The path if it is there; otherwise the script ends with one line."""
    if not path or not os.path.exists(path):
        sys.exit(f"{what} is missing{': ' + path if path else ''}. {remedy}")
    return path


def need_program(binary):
    need(binary, "The program", "Build it (meson setup build && ninja -C build), or name it with --binary.")
    if not shutil.which("mpirun"):
        sys.exit("mpirun is missing. Install Open MPI or load the site's MPI module.")


def catdpo(binary, ranks, arguments, wrapper=()):
    """Run catdpo on `ranks` ranks; its output is shown only if it fails, which ends the script."""
    command = ["mpirun", "-n", str(ranks), *wrapper, binary, *arguments]
    done = subprocess.run(
        command, env={**os.environ, **MPI_SETTINGS}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def write_config(path, **groups):
    """A libconfig file from keyword arguments: run=dict(dir="x"), batch=dict(pairs=4), ..."""
    def text(value):
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, float):
            return repr(value) if "e" in repr(value) or "." in repr(value) else f"{value:.1f}"
        return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)

    with open(path, "w") as out:
        for group, settings in groups.items():
            out.write(f"{group}: {{\n" + "".join(f"    {k} = {text(v)};\n" for k, v in settings.items()) + "};\n")
    return path


def batch_pairs(batches):
    """The pairs of batches in TRL's layout (chosen rows, then rejected rows, padded on the right), in order."""
    pairs = []
    for batch in batches:
        rows = [
            [t for t, kept in zip(tokens, mask) if kept]
            for tokens, mask in zip(batch["input_ids"], batch["attention_mask"])
        ]
        prompts = [
            sum(mask) - sum(completion) for mask, completion in zip(batch["attention_mask"], batch["completion_mask"])
        ]
        half = len(rows) // 2
        for i in range(half):
            prompt = prompts[i]
            if prompts[half + i] != prompt or rows[i][:prompt] != rows[half + i][:prompt]:
                sys.exit(f"Pair {i} of a batch has two different prompts: these batches are not TRL's DPO layout.")
            pairs.append(
                dict(
                    prompt=rows[i][:prompt],
                    chosen=rows[i][prompt:],
                    rejected=rows[half + i][prompt:],
                    categories=["all"],
                    chosen_safe=1,
                    rejected_safe=0,
                    chosen_better=None,
                    row=len(pairs),
                )
            )
    return pairs


def model_info(model_path):
    with h5py.File(model_path) as file:
        text = lambda v: v.decode() if isinstance(v, bytes) else str(v)
        return text(file["model"].attrs["tokenizer_digest"]), int(file["model"].attrs["vocab_size"])


def write_pairs_file(path, model_path, pairs, heldout=(), categories=("all",), harm=(1,)):
    """A complete pairs file for the model, from token ids."""
    tokenizer_digest, vocab_size = model_info(model_path)
    digest = hashlib.sha256(json.dumps([pairs, list(heldout)]).encode()).hexdigest()
    largest = max(t for p in (*pairs, *heldout) for part in ("prompt", "chosen", "rejected") for t in p[part])
    if largest >= vocab_size:
        sys.exit(f"Token {largest} does not fit the vocabulary of {model_path} ({vocab_size}): other tokenizer?")
    with h5py.File(path, "w") as file:
        ch.pairs_attributes(
            file,
            data_digest=digest,
            tokenizer_digest=tokenizer_digest,
            template_digest=hashlib.sha256(b"").hexdigest(),
            vocab_size=vocab_size,
            settings=dict(made_by=os.path.basename(sys.argv[0])),
            inputs=[],
        )
        ch.write_categories(ch.create_group(file, "categories"), list(categories), harm)
        ch.write_pairs(ch.create_group(file, "train"), list(pairs), list(categories))
        ch.write_pairs(ch.create_group(file, "heldout"), list(heldout), list(categories))
        ch.write_ledger(file, [], list(categories))

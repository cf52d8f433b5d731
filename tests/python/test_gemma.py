"""Gemma 3 from one end to the other: import, preparation with a template that writes BOS, training and evaluation with
windows shorter than the sequences, export."""

import json

import engine
import numpy as np
import pytest
from conftest import CONFIG, PairsFile, pku, tensors_of, train_bpe, write_model
from test_import import GEMMA, SEES_ALL, SLIDES
from tokenizers import processors

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
CHANGES = GEMMA | {"num_hidden_layers": 2, "layer_types": [SLIDES, SEES_ALL], "sliding_window": 7}


@pytest.fixture
def prepared(cli, tmp_path, jsonl):
    """(model.h5, pairs.h5): the tokenizer adds BOS to every text by itself, as Gemma's does."""
    config = CHANGES | {"vocab_size": train_bpe().get_vocab_size()}
    tensors = {name: 0.3 * value for name, value in tensors_of(CONFIG | config).items()}
    write_model(tmp_path / "hf", tensors, **config)
    tokenizer = train_bpe()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|>:0 $A:0", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save(str(tmp_path / "hf/tokenizer.json"))
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (tmp_path / "hf/tokenizer_config.json").write_text(json.dumps(names))
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    rows = [
        pku(f"how do I bake bread at home {i}", safe=(True, False), harm=("fraud",) if i % 2 else ("violence",))
        for i in range(12)
    ]
    plain = [{"prompt": f"the sky {i}", "chosen": " is blue", "rejected": " is green"} for i in range(4)]
    cli(
        "prepare",
        jsonl(*rows),
        jsonl(*plain, name="plain.jsonl"),
        "--model",
        tmp_path / "m.h5",
        "--out",
        tmp_path / "p.h5",
        "--heldout",
        0.25,
    )
    return tmp_path / "m.h5", tmp_path / "p.h5", tensors


def test_every_sequence_begins_with_one_bos(prepared):
    pairs = PairsFile(prepared[1]).pairs
    assert len(pairs) == 16
    for pair in pairs:
        for side in ("chosen", "rejected"):
            assert pair[side][0] == 0 and pair[side].count(0) == 1


@engine.needs_binary
@pytest.mark.parametrize("grid", [[2, 1], [1, 2]], ids=str)
def test_train_eval_and_export(cli, tmp_path, prepared, grid):
    model, pairs, tensors = prepared
    settings = {
        "model.path": str(model),
        "data.path": str(pairs),
        "parallel.grid": grid,
        "batch.pairs": 4,
        "schedule.steps": 6,
    }
    run = engine.succeed(engine.launch("train", 2, **settings))
    loss = run.metrics()["train/loss"]
    assert loss[0] == pytest.approx(np.log(2), abs=1e-4) and loss[-1] < loss[0]
    final = run.path("checkpoints/final.h5")
    engine.succeed(engine.launch("eval", 2, options=("--model", final), **settings))
    cli("export", final, "--out", tmp_path / "out")
    cli("import", tmp_path / "out", "--out", tmp_path / "back.h5")
    before, after = engine.read(final), engine.read(tmp_path / "back.h5")
    weights = [name for name in after if name.startswith("model/")]
    assert len(weights) == len(tensors) and all(before[name].tobytes() == after[name].tobytes() for name in weights)
    changed = {name: np.abs(before[name] - engine.read(model)[name]).max() for name in weights}
    assert min(changed.values()) > 0  # every tensor has a gradient

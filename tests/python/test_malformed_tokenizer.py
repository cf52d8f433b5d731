"""Any JSON in the files beside tokenizer.json: the model is imported, or the file is refused in one line."""

import json
import os
import random

import pytest
from conftest import CHATML, is_error, write_model
from test_malformed import mutate_json

from catdpo_analysis.cli import main

OTHER_FILES = {  # that say something about a tokenizer as well
    "tokenizer_config.json": {
        "eos_token": {"content": "<|im_end|>", "__type": "AddedToken"},
        "bos_token": "<|im_start|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": True,
        "tokenizer_class": "LlamaTokenizer",
        "additional_special_tokens": ["<|im_start|>"],
        "model_specific_special_tokens": {"turn_token": "<|im_end|>"},
        "chat_template": [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": CHATML}],
    },
    "special_tokens_map.json": {
        "eos_token": {"content": "<|im_end|>"},
        "additional_special_tokens": [{"content": "<|im_end|>"}],
    },
    "added_tokens.json": {"<|im_end|>": 2},
    "generation_config.json": {"eos_token_id": [2, 0], "bos_token_id": 1, "stop_strings": ["<|im_end|>"]},
    "chat_template.json": {"chat_template": CHATML},
}
DECODER = {"added_tokens_decoder": {"2": {"content": "<|im_end|>", "special": True}}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decoder", [{}, DECODER], ids=["special_tokens_map", "added_tokens_decoder"])
def test_mutations(capsys, tmp_path, decoder):
    folder, out, chance = tmp_path / "hf", tmp_path / "m.h5", random.Random(str(decoder))
    write_model(folder, num_hidden_layers=1)
    files = OTHER_FILES | {"tokenizer_config.json": OTHER_FILES["tokenizer_config.json"] | decoder}
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values))
    seen = {0: 0, 2: 0}
    for _ in range(250):
        path = folder / chance.choice(list(files))
        good = path.read_bytes()
        path.write_bytes(mutate_json(chance, good))
        out.unlink(missing_ok=True)
        capsys.readouterr()
        status = main(["import", str(folder), "--out", str(out)])
        error = capsys.readouterr().err
        assert status in (0, 2), (path, path.read_text(), error)
        assert out.exists() == (status == 0) and sorted(os.listdir(tmp_path)) == ["hf"] + ["m.h5"] * out.exists()
        assert not status or is_error(error), error
        seen[status] += 1
        path.write_bytes(good)
    assert min(seen.values()) > 10, seen

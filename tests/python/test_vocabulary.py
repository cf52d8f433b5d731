"""What a program without a tokenizer library needs to write answers: the bytes of each token, equal to the tokenizer's
own decoding, and the tokens that end an answer."""

import json
import os
import random

import h5py
import numpy as np
import pytest
from conftest import CHATML, CONFIG, tensors_of, train_bpe, write_model
from tokenizers import AddedToken, decoders
from tokenizers_of_kinds import entry, files_of, sentencepiece_of

from catdpo_analysis.errors import UserError
from catdpo_analysis.files import h5io
from catdpo_analysis.models.import_tokenizer import ImportedTokenizer
from catdpo_analysis.tokens.vocabulary import Vocabulary, vocabulary_of


def byte_level():
    tokenizer = train_bpe()
    tokenizer.add_tokens([AddedToken("naïve \u4e1c", normalized=False), AddedToken("<think>", normalized=False)])
    return tokenizer


def gemma_like():
    tokenizer = sentencepiece_of(prefix=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


KINDS = {
    "byte-level": byte_level,
    "byte-level in a sequence": lambda: with_decoder(byte_level(), decoders.Sequence([decoders.ByteLevel()])),
    "SentencePiece": sentencepiece_of,
    "SentencePiece without a space before": gemma_like,
}


def with_decoder(tokenizer, decoder):
    tokenizer.decoder = decoder
    return tokenizer


def some_ids(chance, size, bytes_of):
    """Random ids, many of them bytes, so that characters are cut and put together wrongly."""
    length = chance.randrange(0, 14)
    return [chance.choice(bytes_of) if chance.random() < 0.6 else chance.randrange(size) for _ in range(length)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_tokens_give_the_text_that_the_tokenizer_decodes(kind):
    tokenizer, chance = KINDS[kind](), random.Random(kind)
    size = tokenizer.get_vocab_size()
    vocabulary = vocabulary_of(tokenizer, size + 5)
    high = [i for i in range(size) if any(byte > 127 for byte in vocabulary.bytes_of(i))]
    cut = 0
    for _ in range(4000):
        ids = some_ids(chance, size + 5, high)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert vocabulary.text(ids) == text, [tokenizer.id_to_token(i) for i in ids]
        cut += "\ufffd" in text
    assert cut > 1000  # much of it was no whole UTF-8
    assert all(vocabulary.bytes_of(i) == b"" for i in range(size, size + 5))  # rows of the embedding without a token


def test_a_decoder_that_the_format_cannot_express_is_named():
    tokenizer = train_bpe()
    for decoder in (None, decoders.WordPiece(), decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])):
        tokenizer.decoder = decoder
        with pytest.raises(UserError, match="neither that of byte-level BPE"):
            vocabulary_of(tokenizer, 500)


def test_model_h5_holds_bytes_and_stop_tokens_and_an_export_only_files(cli, tmp_path):
    write_model(tmp_path / "hf")
    printed = cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5").out
    assert "stop tokens    <|im_end|> (2): tokenizer and chat template" in printed
    tokenizer = train_bpe()
    with h5py.File(tmp_path / "m.h5") as file:
        group, rows = file["tokenizer"], CONFIG["vocab_size"]
        assert [group[name].dtype for name in ("bytes", "offsets", "special", "byte_fallback", "stop_tokens")] == [
            np.dtype(kind) for kind in ("u1", "<i8", "u1", "u1", "<i8")
        ]
        assert group["stop_tokens"][...].tolist() == [2] and group["special"][:4].tolist() == [1, 1, 1, 0]
        assert all("description" in group[name].attrs for name in ("bytes", "offsets", "special"))
        stored = Vocabulary(*(group[name][...] for name in ("bytes", "offsets", "special", "byte_fallback")), strip=0)
        assert group["strip"][...].tolist() == [0] and len(stored.offsets) == rows + 1
        ids = tokenizer.encode("a polite refusal, 12 steps: naïve 東京").ids
        assert stored.text([1, *ids, 2]) == "a polite refusal, 12 steps: naïve 東京"
    cli("export", tmp_path / "m.h5", "--out", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


# ---- stop tokens -----------------------------------------------------------------------------------------------------

END_OF_TURN = CHATML.replace("<|im_end|>", "<|endoftext|>")  # another token than eos


def imported(config=None, model=None, rows=410, **more):
    files = files_of(None, {"eos_token": "<|im_end|>", "chat_template": CHATML} | (config or {}), **more)
    return ImportedTokenizer(files, model or {}, rows, "here")


@pytest.mark.parametrize(
    "config, model, generation, wanted",
    [
        ({}, {}, {}, {2: ["tokenizer", "chat template"]}),
        ({"chat_template": None}, {}, {}, {2: ["tokenizer"]}),
        ({}, {}, {"eos_token_id": [0, 2]}, {0: ["generation_config.json"]}),
        ({}, {}, {"stop_strings": ["<|endoftext|>", "User:"]}, {0: ["stop_strings"]}),
        ({}, {"eos_token_id": 5}, {"eos_token_id": 2}, {5: ["config.json"]}),
        ({"chat_template": END_OF_TURN}, {}, {}, {0: ["chat template"], 2: ["tokenizer"]}),
        (
            {"eos_token": None},
            {"eos_token_id": [3, 4]},
            {},
            {2: ["chat template"], 3: ["config.json"], 4: ["config.json"]},
        ),
    ],
    ids=str,
)
def test_all_tokens_that_end_an_answer_are_kept_with_their_places(config, model, generation, wanted):
    found = imported(config, model, generation_config=generation).stop
    assert wanted.items() <= found.items()
    assert set(found) == set(wanted) | ({2} if config.get("eos_token", "<|im_end|>") else set())


def test_places_that_disagree_about_the_end_are_named():
    notes = imported({}, {"eos_token_id": 0}, generation_config={"eos_token_id": 0}).notes
    assert [note for note in notes if "eos_token_id in generation_config.json <|endoftext|> (0)" in note]
    assert [note for note in notes if "eos_token_id in config.json <|endoftext|> (0)" in note]
    assert imported({}, {"eos_token_id": [0, 2]}).notes == []
    assert "eos_token_id in config.json: 410 is no row" in imported({}, {"eos_token_id": [2, 410]}).notes[0]
    notes = imported({}, generation_config={"stop_strings": ["<|endoftext|>", "User:"]}).notes
    assert notes == ["generation_config.json: 1 of stop_strings not used, no single tokens: 'User:'"]
    for value in ("2", True, [None]):
        with pytest.raises(UserError, match="is no token id"):
            imported({}, {"eos_token_id": value})


# ---- the check at import ---------------------------------------------------------------------------------------------


def test_a_named_token_beyond_the_embedding_is_refused(cli, tmp_path):
    size = train_bpe().get_vocab_size()
    write_model(tmp_path / "hf", tensors_of(CONFIG | {"vocab_size": size}), vocab_size=size)
    path = tmp_path / "hf/tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps(config | {"eos_token": "<|eot|>", "added_tokens_decoder": {str(size): entry("<|eot|>")}})
    )
    error = cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5", status=2).err
    assert f"token ids up to {size} (<|eot|>), but the model's embedding has {size} rows" in error


def test_a_tokenizer_that_loses_part_of_a_text_is_refused():
    from tokenizers import normalizers

    tokenizer = train_bpe()
    tokenizer.normalizer = normalizers.Replace(" ", "")
    with pytest.raises(UserError, match="does not give a text back"):
        ImportedTokenizer(files_of(tokenizer), {}, 410, "here")


def test_a_template_of_another_model_is_named():
    notes = imported({"chat_template": CHATML.replace("im_start", "begin")}).notes
    assert any("<|begin|>" in note and "no token of its own in this tokenizer" in note for note in notes)
    notes = imported({"chat_template": "{{ raise_exception('no') }}"}).notes
    assert any("refuses this conversation" in note for note in notes)
    assert any("prepare will need --chat-template" in note for note in imported({"chat_template": "{% if"}).notes)


def test_a_model_file_without_them_still_loads(cli, jsonl, tmp_path):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "a") as file:
        for name in ("bytes", "offsets", "special", "byte_fallback", "strip", "stop_tokens"):
            del file["tokenizer"][name]
    rows = jsonl({"prompt": "a", "chosen": "b", "rejected": "c"})
    cli("prepare", rows, "--model", tmp_path / "m.h5", "--out", tmp_path / "p.h5", "--heldout", "0")
    with h5io.open_as(str(tmp_path / "p.h5"), "catdpo-pairs") as file:
        assert file["templates/chat_template.jinja"][...].tobytes() == CHATML.encode()
    cli("export", tmp_path / "m.h5", "--out", tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").exists()


def test_a_model_imported_from_tokenizer_json_alone_has_to_be_imported_again(cli, jsonl, tmp_path):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "a") as file:
        config = json.loads(file["tokenizer/tokenizer_config.json"][...].tobytes()) | {"eos_token": "<|eot|>"}
        del file["tokenizer/tokenizer_config.json"]
        file["tokenizer/tokenizer_config.json"] = np.frombuffer(json.dumps(config).encode(), "u1")
    rows = jsonl({"prompt": "a", "chosen": "b", "rejected": "c"})
    error = cli("prepare", rows, "--model", tmp_path / "m.h5", "--out", tmp_path / "p.h5", status=2).err
    assert "import the model again" in error and "<|eot|>" in error

"""The check at the end of prepare: whatever went wrong before, no file is written whose tokens do not say the text."""

import json

import pytest
from conftest import CHATML, CONFIG, pku, tensors_of, train_bpe, trl, write_model, write_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers

from catdpo_analysis.errors import UserError
from catdpo_analysis.tokens.chat import ChatTokenizer
from catdpo_analysis.prepare.formats import Pair
from catdpo_analysis.tokens.selfcheck import Probe

ROW = Pair(prompt="", chosen="", rejected="", chat=False, categories=["x"], rule="category")


def look(tokenizer, text, rows=None, ids=None):
    probe = Probe(tokenizer, rows or tokenizer.vocab_size, lambda row: "pairs.jsonl:1")
    probe.see(ROW, text, tokenizer.encode([text], special_tokens=False)[0] if ids is None else ids)
    return probe.settle()


def made(tmp_path, tokenizer=None, **config):
    write_tokenizer(tmp_path, tokenizer)
    names = {"eos_token": "<|im_end|>", "chat_template": CHATML} | config
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    return tmp_path


class Splits(ChatTokenizer):
    """A tokenizer in which a special token falls into pieces, as a faulty one would; whatever is done about it when
    it is loaded."""

    def encode(self, texts, special_tokens):
        return super().encode([text.replace("<|im_end|>", "<| im_end|>") for text in texts], special_tokens)


def test_a_named_token_must_be_one_token(tmp_path):
    tokenizer = Splits.from_folder(made(tmp_path))
    with pytest.raises(UserError, match=r"<\|im_end\|>, which .*not that token.*pairs.jsonl:1"):
        look(tokenizer, "yes<|im_end|>")
    assert look(tokenizer, "< |") == []  # one that does not occur does not matter


def test_a_named_token_must_be_met_as_often_as_it_occurs(tmp_path):
    tokenizer = ChatTokenizer.from_folder(made(tmp_path))
    ids = tokenizer.encode(["yes<|im_end|>"], special_tokens=False)[0]
    with pytest.raises(UserError, match="not that token"):
        look(tokenizer, "yes<|im_end|>", ids=ids[:-1])


def test_ids_must_lie_below_the_embeddings_rows(tmp_path):
    tokenizer = ChatTokenizer.from_folder(made(tmp_path))
    with pytest.raises(UserError, match="the embedding has 2 rows"):
        look(tokenizer, "yes<|im_end|>", rows=2)
    with pytest.raises(UserError, match="token id 3[0-9]+, but the embedding has 300 rows"):
        look(tokenizer, "the green", rows=300)


def test_a_text_must_be_what_its_tokens_say(tmp_path):
    tokenizer = ChatTokenizer.from_folder(made(tmp_path))
    ids = tokenizer.encode(["the sky is blue"], special_tokens=False)[0]
    with pytest.raises(UserError, match="is not what its tokens say: .*blue.* became"):
        look(tokenizer, "the sky is blue", ids=ids[:-2] + ids[-1:])
    assert look(tokenizer, "the sky is blue", ids=[0, *ids]) == []  # what the tokenizer puts before it


@pytest.mark.parametrize("name", ["metaspace", "lower case", "strip"])
def test_what_a_tokenizer_rightly_changes_is_no_fault(tmp_path, name):
    if name == "metaspace":
        tokenizer = Tokenizer.from_str(train_bpe(pre_tokenizers.Metaspace()).to_str())
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.add_special_tokens([AddedToken("<unk>", special=True)])
    else:
        tokenizer = train_bpe()
        tokenizer.normalizer = normalizers.Lowercase() if name == "lower case" else normalizers.NFKC()
    tokenizer = ChatTokenizer.from_folder(made(tmp_path, tokenizer))
    assert look(tokenizer, "the sky is blue<|im_end|>" if name == "metaspace" else "The  sky \ufb01ts<|im_end|>") == []


def test_marks_of_the_template_in_pieces_are_noted(prepare, jsonl, tmp_path):
    (tmp_path / "t.jinja").write_text(CHATML.replace("<|im_start|>", "<|turn|>"))
    printed = prepare(jsonl(pku("a")), options=["--chat-template", tmp_path / "t.jinja"]).printed
    assert "note: the template's <|turn|> is no token of its own in this tokenizer, but" in printed
    assert "no token of its own" not in prepare(jsonl(pku("a"))).printed


def test_unknown_tokens_are_counted(tmp_path):
    from tokenizers import models

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "sky": 2, "<|im_end|>": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    loaded = ChatTokenizer.from_folder(made(tmp_path, tokenizer, unk_token="<unk>"))
    (note,) = look(loaded, "the blue sky<|im_end|>")
    assert note.startswith("1 of 4 tokens are <unk>")


def test_prepare_refuses_what_the_check_finds(cli, jsonl, tmp_path, monkeypatch):
    monkeypatch.setattr("catdpo_analysis.prepare.prepare.ChatTokenizer", Splits)
    options = ["--tokenizer", made(tmp_path / "tok"), "--out", tmp_path / "p.h5", "--heldout", "0"]
    for row in (trl("a"), pku("a")):
        assert "not that token" in cli("prepare", jsonl(row), *options, status=2).err
        assert not list(tmp_path.glob("p.h5*"))


def test_sequences_longer_than_the_models_positions_are_named(cli, jsonl, tmp_path):
    write_model(tmp_path / "hf", tensors_of(CONFIG), max_position_embeddings=24)
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    for rows, said in ((pku("a"), trl("green " * 30)), True), ((trl("a"),), False):
        out = cli(
            "prepare", jsonl(*rows), "--model", tmp_path / "m.h5", "--out", tmp_path / "p.h5", "--heldout", "0"
        ).out
        assert ("sequences are longer than the model's 24 positions" in out) is said

"""What goes through the chat template, and what is doubtful about the result: said for each file and kind, never
silent. Where TRL does the doubtful thing, so does prepare."""

import json

import pytest
from conftest import CHATML, PairsFile, pku, train_bpe, trl, write_tokenizer
from tokenizers import Tokenizer, processors

USER = {"role": "user", "content": "Is it hot?"}
YES, NO = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
TALK = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
PLAIN = "as plain text; the model has a chat template, which they do not use (--chat always)"
HH = {name: f"\n\nHuman: Is it hot?\n\nAssistant: {text}" for name, text in (("chosen", "Yes."), ("rejected", "No."))}


@pytest.fixture
def text_of(tokenizer_dir):
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


def chatml(*messages):
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def test_each_file_says_whether_the_template_was_used(prepare, jsonl):
    printed = prepare(jsonl(trl("a"), trl("b")), jsonl(pku("c"), trl("d"), name="mixed.jsonl")).printed
    assert f"pairs.jsonl: 2 rows {PLAIN}\n" in printed
    assert "mixed.jsonl: 1 row through the chat template\n" in printed and f"mixed.jsonl: 1 row {PLAIN}\n" in printed
    assert "do not use" not in prepare(jsonl(pku("c"))).printed


def test_without_a_template_plain_text_is_nothing_to_remark(cli, jsonl, tmp_path):
    write_tokenizer(tmp_path / "tok")
    (tmp_path / "tok/tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    rows = jsonl(trl("a"), {"question": "b", "chosen": "c", "rejected": "d", "system": "e"})
    out = cli("prepare", rows, "--tokenizer", tmp_path / "tok", "--out", tmp_path / "p.h5", "--heldout", "0").out
    assert "pairs.jsonl: 2 rows as plain text\n" in out
    assert PairsFile(tmp_path / "p.h5").pairs[1]["prompt_text"] == "e\n\nb"


def test_always_puts_texts_through_the_template_as_turns(prepare, jsonl, text_of):
    rows = jsonl(trl("Is it hot? ", " Yes.", " No."), HH, HH | {"prompt": HH["chosen"].removesuffix(" Yes.")}, pku("a"))
    file = prepare(rows, options=["--chat", "always", "--keep-duplicates"])
    assert [text_of(pair["chosen"]) for pair in file.pairs[:3]] == [chatml(USER, YES)] * 3
    assert file.pairs[0]["prompt_length"] == file.pairs[1]["prompt_length"] and "plain text" not in file.printed


def test_always_takes_no_text_that_is_rendered_already_and_needs_a_prompt(prepare, jsonl):
    rendered = trl("<|im_start|>user\nIs it hot?<|im_end|>\n<|im_start|>assistant\n", "Yes.", "No.")
    assert "holds the special token" in prepare(jsonl(rendered), options=["--chat", "always"], status=2).err
    assert prepare(jsonl(rendered)).pairs
    shared = {"chosen": "It is hot.", "rejected": "It is cold."}
    assert "no transcript" in prepare(jsonl(shared), options=["--chat", "always"], status=2).err


def test_never_keeps_everything_plain(prepare, jsonl, text_of):
    (pair,) = prepare(jsonl(pku("Is it hot?", responses=(" No.", " Yes."))), options=["--chat", "never"]).pairs
    assert text_of(pair["chosen"]) == "Is it hot? No.<|im_end|>"
    assert "only the chat template can write" in prepare(jsonl(TALK), options=["--chat", "never"], status=2).err


def test_the_template_is_kept_with_the_pairs(cli, jsonl, tmp_path, tokenizer_dir):
    import h5py

    (tmp_path / "t.jinja").write_text("<" + CHATML, encoding="utf-8")
    for options, text in ((), CHATML), (["--chat-template", tmp_path / "t.jinja"], "<" + CHATML):
        out = tmp_path / "p.h5"
        cli("prepare", jsonl(TALK), "--tokenizer", tokenizer_dir, "--out", out, "--heldout", "0", *options)
        with h5py.File(out) as file:
            assert {name: item[...].tobytes().decode() for name, item in file["templates"].items()} == {
                "chat_template.jinja": text
            }


def test_reasoning_reaches_templates_under_both_names(tokenizer_dir):
    from catdpo_analysis.tokens.chat import ChatTokenizer

    tokenizer = ChatTokenizer.from_folder(
        tokenizer_dir, "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}{% endfor %}"
    )
    for name in ("reasoning_content", "thinking", "reasoning"):
        assert tokenizer.render([{"role": "assistant", "content": "x", name: "hm"}]) == "hm|hm"


# --- why the prompt's end is not in prompt + completion -------------------------------------------

R1 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
THOUGHT = {"role": "assistant", "content": "<think>\nTea is hot.\n</think>Yes."}
CAUSES = {
    "merge": (trl("the gr", "een", "ass"), CHATML, "end of the prompt merges with the completion", "tokens merge"),
    "turn": (
        TALK | {"chosen": [USER, YES], "rejected": [{**USER, "content": "Is it cold?"}, NO]},
        CHATML,
        "completion begins with a turn that is not the assistant's",
        "another turn than the assistant's.",
    ),
    "reasoning": (
        TALK | {"chosen": [THOUGHT]},
        R1,
        "reasoning of the answer left out by the chat template",
        "'<think>\\n'",
    ),
    "template": (
        TALK,
        R1,
        "end of the prompt written differently by the chat template when an answer follows",
        "'<think>\\n'",
    ),
}


@pytest.mark.parametrize("row, template, reason, quoted", CAUSES.values(), ids=CAUSES)
def test_each_cause_has_its_own_reason_and_quotes_what_is_left_out(
    prepare, jsonl, tmp_path, row, template, reason, quoted
):
    (tmp_path / "t.jinja").write_text(template)
    file = prepare(jsonl(row), options=["--chat-template", tmp_path / "t.jinja"])
    assert file.reason_of(0) == [reason] and file.ledger[0]["tokens_after"] == file.pairs[0]["prompt_length"]
    assert "1 row: the tokenized prompt is not a prefix of the tokenized prompt+completion" in file.printed
    assert quoted in file.printed


def test_reasoning_that_is_left_out_is_quoted_also_where_the_prompt_is_whole(prepare, jsonl, tmp_path):
    (tmp_path / "t.jinja").write_text(R1.replace("<think>\n{% endif", "{% endif"))
    rows = jsonl(TALK | {"chosen": [THOUGHT]}, TALK | {"chosen": [YES | {"reasoning_content": "Tea is hot."}]})
    file = prepare(rows, options=["--chat-template", tmp_path / "t.jinja", "--keep-duplicates"])
    assert file.reasons == ["reasoning of the answer left out by the chat template"]
    assert (
        "2 rows with an answer whose reasoning the chat template leaves out" in file.printed
        and "'Tea is hot.'" in file.printed
    )
    assert "not a prefix" not in file.printed
    assert "leaves out" not in prepare(jsonl(TALK | {"chosen": [THOUGHT]})).printed


def test_an_end_token_of_the_tokenizers_own_behind_the_prompt_is_no_merge(cli, jsonl, tmp_path):
    tokenizer = train_bpe()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <|im_end|>", special_tokens=[("<|im_end|>", 2)])
    write_tokenizer(tmp_path / "tok", tokenizer)
    rows = jsonl(trl("the sky", " is blue", " is green"))
    out = cli("prepare", rows, "--tokenizer", tmp_path / "tok", "--out", tmp_path / "p.h5", "--heldout", "0").out
    file = PairsFile(tmp_path / "p.h5")
    assert file.ledger == [] and file.pairs[0]["chosen"][-2:] == [2, 2]
    assert "note: 1 row with <|im_end|> at the end of an answer, behind which another follows, as in TRL" in out


# --- doubtful, as TRL does it ---------------------------------------------------------------------


def test_an_end_token_twice_is_noted(prepare, jsonl):
    said = TALK | {"chosen": [{"role": "assistant", "content": "Yes.<|im_end|>\n"}]}
    for row in (trl("a", " b<|im_end|>\n", " c"), said):
        assert "1 row with <|im_end|> at the end of an answer" in prepare(jsonl(row)).printed
    assert "at the end of an answer" not in prepare(jsonl(trl("a", " b<|im_end|>", " c"), TALK)).printed


def test_a_start_token_twice_is_noted(cli, jsonl, tmp_path):
    tokenizer = train_bpe()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    write_tokenizer(tmp_path / "tok", tokenizer)
    for prompt, twice in (("<|im_start|>the sky", True), ("the sky", False)):
        out = cli(
            "prepare", jsonl(trl(prompt)), "--tokenizer", tmp_path / "tok", "--out", tmp_path / "p.h5", "--heldout", "0"
        ).out
        assert (
            "1 row with <|im_start|> at the start of the text, before which the tokenizer adds another" in out
        ) is twice
    assert "at the start of the text" not in out and json.loads((tmp_path / "tok/tokenizer_config.json").read_text())


def test_the_start_of_an_answer_at_the_prompts_end_is_noted(prepare, jsonl, text_of):
    start = {"role": "assistant", "content": "Well,"}
    file = prepare(jsonl(TALK | {"prompt": [USER, start]}, TALK))
    assert text_of(file.pairs[0]["chosen"]) == chatml(USER, start, YES)
    assert "note: 1 row with a prompt that ends with the start of an answer: as in TRL" in file.printed

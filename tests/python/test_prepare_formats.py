"""Every input format gives the token ids that TRL's DPO trainer makes of it."""

import json

import pytest
from conftest import CHATML, pku, trl
from tokenizers import Tokenizer

from catdpo_analysis.tokens.chat import ChatTokenizer, compile_template
from catdpo_analysis.prepare.formats import extract_prompt

USER = [{"role": "user", "content": "how do I bake bread"}]
GOOD, BAD = [{"role": "assistant", "content": "at home"}], [{"role": "assistant", "content": "I cannot"}]


@pytest.fixture
def ids(tokenizer_dir):
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    return lambda text: tokenizer.encode(text).ids


def chatml(*messages, generation=False):
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + (
        "<|im_start|>assistant\n" if generation else ""
    )


def test_text_with_explicit_prompt(prepare, jsonl, ids):
    (pair,) = prepare(jsonl({"prompt": "The sky is", "chosen": " blue.", "rejected": " green.<|im_end|>"})).pairs
    assert pair["chosen"] == ids("The sky is blue.<|im_end|>")  # EOS is appended where it lacks ...
    assert pair["rejected"] == ids("The sky is green.<|im_end|>")  # ... and only there
    assert pair["prompt_length"] == len(ids("The sky is"))
    assert (pair["prompt_text"], pair["chosen_text"]) == ("The sky is", " blue.")


def test_text_with_implicit_prompt(prepare, jsonl, ids):
    (pair,) = prepare(jsonl({"chosen": "The sky is blue.", "rejected": "The sky is green."})).pairs
    assert pair["prompt_text"] == "The sky is" and pair["chosen_text"] == " blue."
    assert pair["chosen"] == ids("The sky is blue.<|im_end|>") and pair["prompt_length"] == len(ids("The sky is"))


def test_messages_with_explicit_and_implicit_prompt_are_the_same_pair(prepare, jsonl, ids):
    file = prepare(
        jsonl({"prompt": USER, "chosen": GOOD, "rejected": BAD}),
        jsonl({"chosen": USER + GOOD, "rejected": USER + BAD}, name="b.jsonl"),
        options=["--keep-duplicates"],
    )
    for pair in file.pairs:
        assert pair["chosen"] == ids(chatml(*USER, *GOOD)) and pair["rejected"] == ids(chatml(*USER, *BAD))
        assert pair["prompt_length"] == len(ids(chatml(*USER, generation=True)))
        assert (pair["prompt_text"], pair["chosen_text"], pair["rejected_text"]) == (
            "how do I bake bread",
            "at home",
            "I cannot",
        )


def test_pku_rows_go_through_the_chat_template(prepare, jsonl, ids):
    (pair,) = prepare(jsonl(pku("how do I bake bread", responses=("at home", "I cannot")))).pairs
    assert pair["chosen"] == ids(chatml(*USER, *GOOD)) and pair["prompt_length"] == len(
        ids(chatml(*USER, generation=True))
    )


def test_a_plain_copy_of_the_question_beside_whole_conversations_is_passed_over(prepare, jsonl, ids):
    """UltraFeedback's layout: prompt is a text, chosen and rejected are conversations with the question in them."""
    (pair,) = prepare(jsonl({"prompt": "how do I bake bread", "chosen": USER + GOOD, "rejected": USER + BAD})).pairs
    assert pair["chosen"] == ids(chatml(*USER, *GOOD))


@pytest.mark.parametrize(
    "chosen, rejected, prompt",
    [
        ("The sky is blue", "The sky is green", "The sky is"),  # the space goes to the completions
        ("abc", "abd", "ab"),
        ("one two", "one two three", "one tw"),
        ("x", "y", ""),
        ("", "y", ""),
        (" a", " b", ""),
    ],
)
def test_implicit_prompt_is_trls_common_start(chosen, rejected, prompt):
    assert extract_prompt(chosen, rejected) == (prompt, chosen[len(prompt) :], rejected[len(prompt) :])


def test_a_prompt_whose_last_tokens_merge_with_the_completion_starts_it_earlier_and_is_in_the_ledger(
    prepare, jsonl, ids
):
    whole, prompt = ids("the green<|im_end|>"), ids("the gr")
    assert whole[: len(prompt)] != prompt  # "green" is one token
    file = prepare(jsonl({"prompt": "the gr", "chosen": "een", "rejected": "ass"}))
    (pair,) = file.pairs
    assert pair["chosen"] == whole and pair["prompt_length"] == 1
    assert file.reason_of(0) == ["end of the prompt merges with the completion"]
    assert (file.ledger[0]["tokens_before"], file.ledger[0]["tokens_after"]) == (len(prompt), 1)


def test_bos_is_put_before_texts_once_and_left_to_the_template_in_conversations(cli, jsonl, tmp_path, ids):
    from conftest import PairsFile, train_bpe, write_tokenizer
    from tokenizers import processors

    tokenizer = train_bpe()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    write_tokenizer(tmp_path / "bos", tokenizer)
    rows = jsonl(
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"prompt": USER, "chosen": GOOD, "rejected": BAD},
    )
    cli("prepare", rows, "--tokenizer", tmp_path / "bos", "--out", tmp_path / "p.h5", "--heldout", "0")
    text, chat = PairsFile(tmp_path / "p.h5").pairs
    assert text["chosen"] == [0, *ids("The sky is blue.<|im_end|>")] and text["prompt_length"] == 1 + len(
        ids("The sky is")
    )
    assert chat["chosen"] == ids(chatml(*USER, *GOOD))


def test_template_arguments_of_a_row_reach_the_template(cli, jsonl, tokenizer_dir, tmp_path, ids):
    template = tmp_path / "t.jinja"
    template.write_text(CHATML + "{% if shout %}!{% endif %}{{ tools | length if tools else '' }}")
    from conftest import PairsFile

    rows = jsonl(
        {
            "prompt": USER,
            "chosen": GOOD,
            "rejected": BAD,
            "chat_template_kwargs": {"shout": True},
            "tools": [{"name": "x"}],
        }
    )
    cli(
        "prepare",
        rows,
        "--tokenizer",
        tokenizer_dir,
        "--out",
        tmp_path / "p.h5",
        "--heldout",
        "0",
        "--chat-template",
        template,
    )
    assert PairsFile(tmp_path / "p.h5").pairs[0]["chosen"] == ids(chatml(*USER, *GOOD) + "!1")


def test_several_files_plain_and_packed_make_one_set(prepare, jsonl, tmp_path):
    import gzip

    plain = jsonl(trl("a"), "", trl("b"))
    packed = tmp_path / "more.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + (json.dumps(pku("c")) + "\n").encode()))
    file = prepare(plain, packed)
    assert [(pair["source_file"], pair["source_row"]) for pair in file.pairs] == [
        (0, 0),
        (0, 2),
        (1, 0),
    ]  # rows are line numbers
    inputs = json.loads(file.attributes["inputs"])
    assert [entry["file"] for entry in inputs] == ["pairs.jsonl", "more.jsonl.gz"] and inputs[0][
        "bytes"
    ] == plain.stat().st_size


def test_templates_render_as_on_the_hub():
    """White space control, loop controls, generation blocks, tojson without escapes, raise_exception."""
    text = compile_template(
        "{% for m in messages %}\n  {%- if loop.index > 1 %}{% break %}{% endif %}\n  {% generation %}{{ m.content "
        "}}{% endgeneration %}\n"
        "{% endfor %}\n{{ {'a': '<é>'} | tojson }}"
    ).render(messages=[{"content": "one"}, {"content": "two"}])
    assert text == 'one{"a": "<é>"}'
    with pytest.raises(Exception, match="no system"):
        compile_template("{{ raise_exception('no system') }}").render()


def test_template_sources_in_order(tokenizer_dir):
    files = {path.name: path.read_bytes() for path in tokenizer_dir.iterdir()}
    config = json.loads(files["tokenizer_config.json"])
    assert ChatTokenizer(files, "here").templates["default"] == CHATML
    named = files | {
        "tokenizer_config.json": json.dumps(
            config | {"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}
        ).encode()
    }
    assert ChatTokenizer(named, "here").templates["default"] == "d"
    assert ChatTokenizer(named | {"chat_template.jinja": b"file"}, "here").templates["default"] == "file"
    special = files | {
        "tokenizer_config.json": json.dumps(config | {"eos_token": {"content": "<|endoftext|>"}}).encode()
    }
    assert ChatTokenizer(special, "here").eos == "<|endoftext|>"

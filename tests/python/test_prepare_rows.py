"""Rows that say a thing in an unusual place or twice: the prompt repeated in the answers, tools and tool calls, names
that are no harm, the same pair again. What is done is counted; what contradicts itself is named."""

import json

import pytest
from conftest import CHATML, PairsFile, pku, trl, write_tokenizer

USER, OTHER = {"role": "user", "content": "Name a fruit."}, {"role": "user", "content": "Name a stone."}
SYSTEM = {"role": "system", "content": "Be brief."}
PEAR, PLUM = {"role": "assistant", "content": "A pear."}, {"role": "assistant", "content": "A plum."}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"a": "int"}}}]
WITH_TOOLS = (
    "{% if tools %}TOOLS:{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def talk(prompt=(USER,), chosen=(PEAR,), rejected=(PLUM,), **more):
    return {"prompt": [*prompt], "chosen": [*chosen], "rejected": [*rejected]} | more


@pytest.fixture
def with_templates(cli, jsonl, tmp_path):
    """prepare with a tokenizer that has these chat templates: a text, or name -> text."""

    def run(templates, *rows, options=(), status=0):
        write_tokenizer(tmp_path / "tok")
        if isinstance(templates, dict):
            templates = [{"name": name, "template": text} for name, text in templates.items()]
        config = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "chat_template": templates}
        (tmp_path / "tok/tokenizer_config.json").write_text(json.dumps(config))
        out = tmp_path / "p.h5"
        result = cli(
            "prepare",
            jsonl(*rows),
            "--tokenizer",
            tmp_path / "tok",
            "--out",
            out,
            "--heldout",
            "0",
            *options,
            status=status,
        )
        if status:
            return result
        file = PairsFile(out)
        file.printed = result.out
        return file

    return run


@pytest.fixture
def text_of(tokenizer_dir):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


# --- the prompt repeated --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, prompt, chosen",
    [
        (talk(chosen=[USER, PEAR], rejected=[USER, PLUM]), "Name a fruit.", "A pear."),
        (
            talk([USER], [SYSTEM, USER, PEAR], [SYSTEM, USER, PLUM]),
            "system: Be brief.\n\nuser: Name a fruit.",
            "A pear.",
        ),
        (
            talk([USER], [OTHER, PLUM, USER, PEAR], [OTHER, PLUM, USER, PLUM]),
            "user: Name a stone.\n\nassistant: A plum.\n\nuser: Name a fruit.",
            "A pear.",
        ),
        (trl("Name a fruit:", "Name a fruit: A pear.", "Name a fruit: A plum."), "Name a fruit:", " A pear."),
        (trl("Name a fruit:\n", "Name a fruit: A pear.", "Name a fruit: A plum."), "Name a fruit:", " A pear."),
        (
            trl(
                "Name a fruit.",
                "\n\nHuman: Name a fruit.\n\nAssistant: yes",
                "\n\nHuman: Name a fruit.\n\nAssistant: no",
            ),
            "\n\nHuman: Name a fruit.\n\nAssistant:",
            " yes",
        ),
        (
            pku("Name a fruit.", responses=("Name a fruit. A pear.", "Name a fruit. A plum.")),
            "Name a fruit.",
            " A pear.",
        ),
    ],
    ids=["messages", "system", "turns", "text", "white space", "transcript", "pku"],
)
def test_a_prompt_that_both_answers_repeat_is_taken_off_and_counted(prepare, jsonl, row, prompt, chosen):
    file = prepare(jsonl(row, talk([OTHER])))
    pair = file.pairs[0]
    assert (pair["prompt_text"], pair["chosen_text"]) == (prompt, chosen)
    assert "note: 1 row with the prompt repeated" in file.printed and "pairs.jsonl:1" in file.printed


@pytest.mark.parametrize(
    "row",
    [
        trl("A", "Apples are red", "Apples are blue"),  # the start of a word is no repetition
        trl("Name a fruit:", "Name a fruit: A pear.", "No."),
        trl("Name a fruit.", "You say: Name a fruit. A pear.", "You say: Name a fruit. A plum."),
        talk([USER], [OTHER, PEAR], [OTHER, PLUM]),
    ],
    ids=["word", "one answer", "quoted", "another question"],
)
def test_what_only_looks_like_a_repetition_stays(prepare, jsonl, row):
    file = prepare(jsonl(row))
    assert "repeated" not in file.printed
    if isinstance(row["prompt"], str):
        assert file.pairs[0]["chosen_text"] == row["chosen"]


# --- tools ----------------------------------------------------------------------------------------


def test_tools_choose_the_template_as_transformers_does(with_templates, text_of):
    templates = {"default": CHATML, "tool_use": WITH_TOOLS}
    file = with_templates(templates, talk(tools=TOOLS), talk(), options=["--keep-duplicates"])
    with_tools, plain = (text_of(pair["chosen"]) for pair in file.pairs)
    assert with_tools.startswith("TOOLS:[{") and plain.startswith("<|im_start|>user")
    only = with_templates({"tool_use": WITH_TOOLS, "rag": CHATML}, talk(tools=TOOLS))
    assert text_of(only.pairs[0]["chosen"]).startswith("TOOLS:")
    assert "tool_use" in with_templates({"tool_use": WITH_TOOLS}, talk(), status=2).err


def test_tools_as_json_text_are_the_same_tools(with_templates):
    rows = [talk(tools=tools) for tools in (TOOLS, json.dumps(TOOLS))]
    file = with_templates(WITH_TOOLS, *rows, options=["--keep-duplicates"])
    assert file.pairs[0]["chosen"] == file.pairs[1]["chosen"]
    (pair,) = with_templates(WITH_TOOLS, talk(tools="")).pairs
    assert pair["prompt_length"] < file.pairs[0]["prompt_length"]


@pytest.mark.parametrize("tools", ["[{", "{}", '["add"]', 5, ["add"], {"name": "add"}], ids=str)
def test_tools_that_are_none_are_refused_by_name(prepare, jsonl, tools):
    error = prepare(jsonl(talk(tools=tools)), status=2).err
    assert "pairs.jsonl:1: tools " in error and "chat_template_kwargs" not in error


def test_tools_that_the_template_does_not_write_are_counted(with_templates):
    assert "note: 1 row with tools, of which" in with_templates(CHATML, talk(tools=TOOLS), talk([OTHER])).printed
    assert "with tools" not in with_templates(WITH_TOOLS, talk(tools=TOOLS)).printed
    printed = with_templates(WITH_TOOLS, trl("a", tools=TOOLS)).printed
    assert "tools (1 row): not used: plain texts meet no template" in printed


def test_a_tool_call_is_no_empty_answer_where_the_template_writes_it(with_templates, text_of):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    (pair,) = with_templates(WITH_TOOLS, talk(chosen=[call], tools=TOOLS)).pairs
    assert '"arguments": {"a": 1}' in text_of(pair["chosen"])
    quiet = CHATML.replace("m['content']", "m.content or ''")  # writes no calls
    assert "empty completion (1)" in with_templates(quiet, talk(chosen=[call], tools=TOOLS), status=2).err
    dropped = CHATML.replace("m['content']", "m.content.split('</think>')[-1]")
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>"}
    assert with_templates(dropped, talk(chosen=[thought]), talk([OTHER])).reason_of(0)[0] == "empty completion"


@pytest.mark.parametrize(
    "name", ["add_generation_prompt", "messages", "conversation", "chat_template", "tokenize", "continue_final_message"]
)
def test_template_arguments_that_are_not_the_rows_to_set_are_refused(prepare, jsonl, name):
    error = prepare(jsonl(talk(), talk([OTHER], chat_template_kwargs={name: False})), status=2).err
    assert f"pairs.jsonl:2: chat_template_kwargs has {name}" in error


def test_tools_in_two_places_must_agree(prepare, jsonl):
    assert "differ" in prepare(jsonl(talk(tools=TOOLS, chat_template_kwargs={"tools": []})), status=2).err
    assert prepare(jsonl(talk(tools=TOOLS, chat_template_kwargs={"tools": TOOLS})))


# --- names that are no harm -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["benign", "safe", "Safe ", "HARMLESS", "non-harmful", "not harmful", "no harm"])
def test_a_category_that_says_safe_gives_no_margin(prepare, jsonl, name):
    file = prepare(jsonl(trl("a", category=name), trl("b", category="fraud")))
    pair = file.pairs[0]
    assert (pair["categories"], pair["chosen_safe"], pair["rejected_safe"]) == (["benign"], 1, 1)
    assert dict(zip(file.categories, file.harm)) == {"fraud": 1, "benign": 0}
    assert "note: 1 row with a category that names no harm" in file.printed


@pytest.mark.parametrize("name", ["none", "None", "N/A", "null", "n.a.", "-", "uncategorised"])
def test_a_category_that_says_nothing_is_none(prepare, jsonl, name):
    file = prepare(jsonl(trl("a", category=name), trl("b", category="fraud")))
    pair = file.pairs[0]
    assert (pair["categories"], pair["chosen_safe"], pair["rejected_safe"]) == (["uncategorised"], 255, 255)
    assert file.harm == [1, 0]


def test_no_safe_name_is_the_category_of_an_unsafe_answer(prepare, jsonl):
    rows = jsonl(
        trl("a", category="safe", is_chosen_safe=True, is_rejected_safe=False),
        trl("b", category=["benign", "fraud"]),
        pku("c", harm=("safe",)),
        pku("d", harm=("none",), category="benign"),
        trl("e", category="fine"),
    )
    file = prepare(rows, options=["--benign-name", "fine"])
    assert [pair["categories"] for pair in file.pairs] == [
        ["uncategorised"], ["fraud"], ["uncategorised"], ["uncategorised"], ["fine"],
    ]  # fmt: skip
    assert dict(zip(file.categories, file.harm)) == {"fraud": 1, "uncategorised": 1, "fine": 0}
    (pair,) = prepare(jsonl(trl("a", category="safe")), options=["--assume-unsafe-rejected"]).pairs
    assert pair["rejected_safe"] == 1


def test_what_was_assumed_of_a_category_is_said(prepare, jsonl):
    file = prepare(
        jsonl(*[trl(f"q {i}", category="cooking") for i in range(3)], trl("x", category="y", is_rejected_safe=False))
    )
    assert "note: 3 rows with a category and no safety flags: the rejected answer was assumed unsafe" in file.printed
    assert "assumed" in json.loads(file.attributes["transform_counts"]).popitem()[0] or "assumed" in file.printed
    assert "assumed unsafe" not in prepare(jsonl(pku("a"), trl("b", category="x", is_rejected_safe=False))).printed


def test_data_without_a_margin_is_said_to_have_none(prepare, jsonl):
    assert "note: no pair has a margin" in prepare(jsonl(trl("a", harm_category="fraud"))).printed
    assert "no pair has a margin" not in prepare(jsonl(pku("a"))).printed


# --- the same pair again --------------------------------------------------------------------------


def test_a_pair_with_several_labels_has_them_all(prepare, jsonl):
    rows = [trl("a", category="privacy"), trl("a", category="property"), trl("a", category="privacy"), trl("a")]
    file = prepare(jsonl(*rows))
    (pair,) = file.pairs
    assert pair["categories"] == ["privacy", "property"] and file.harm == [1, 1]
    assert [file.reason_of(row) for row in (1, 2, 3)] == [
        ["duplicate, whose category the first one took over"], ["duplicate"], ["duplicate"],
    ]  # fmt: skip
    (pair,) = prepare(jsonl(trl("a"), trl("a", category="privacy"))).pairs
    assert (pair["categories"], pair["chosen_safe"], pair["rejected_safe"]) == (["privacy"], 1, 0)
    assert len(prepare(jsonl(*rows), options=["--keep-duplicates"]).pairs) == 4


def test_what_was_said_comes_before_what_was_assumed(prepare, jsonl):
    said = trl("a", category="x", is_chosen_safe=True, is_rejected_safe=True)
    for rows in ([said, trl("a", category="y")], [trl("a", category="y"), said]):
        (pair,) = prepare(jsonl(*rows)).pairs
        assert (sorted(pair["categories"]), pair["chosen_safe"], pair["rejected_safe"]) == (["x", "y"], 1, 1)


def test_contradicting_flags_are_named_with_both_places(prepare, jsonl):
    first = trl("a", category="x", is_chosen_safe=True, is_rejected_safe=False)
    file = prepare(jsonl(first, trl("b"), first | {"is_rejected_safe": True}))
    assert file.reason_of(2) == ["duplicate with other safety flags"] and file.pairs[0]["rejected_safe"] == 0
    assert "note: 1 row with other safety flags than an earlier row with the same answers" in file.printed
    assert "pairs.jsonl:3 against " in file.printed and "pairs.jsonl:1" in file.printed
    turned = first | {"chosen": first["rejected"], "rejected": first["chosen"]}  # each answer is safe, and unsafe
    file = prepare(jsonl(first, turned))
    assert len(file.pairs) == 2 and "pairs.jsonl:2 against " in file.printed


def test_rows_that_differ_in_tools_or_template_arguments_are_two_pairs(with_templates):
    rows = [talk(tools=[{"name": name}]) for name in "ab"] + [talk(chat_template_kwargs={"x": x}) for x in (1, 2, 2)]
    file = with_templates(WITH_TOOLS, *rows)
    assert [pair["source_row"] for pair in file.pairs] == [0, 1, 2, 3] and file.reason_of(4) == ["duplicate"]


# --- categories -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, alike",
    [
        (["Weapons", "weapons", "fraud"], ['"Weapons" (1), "weapons" (1)']),
        (["cyber crime", "Cybercrime", "cyber-crime"], ['"Cybercrime" (1), "cyber crime" (1), "cyber-crime" (1)']),
        (["caf\u00e9", "cafe\u0301"], ['"cafe\u0301" (1), "caf\u00e9" (1)']),
        (["harassment", "harrassment"], ['"harassment" (1), "harrassment" (1)']),
        (["organised", "organized"], ['"organised" (1), "organized" (1)']),
        (["hate", "fate", "privacy", "property", "S10 weapons", "S11 weapons", "violence"], []),
    ],
    ids=lambda value: str(value)[:20],
)
def test_categories_that_look_alike_are_named(prepare, jsonl, names, alike):
    file = prepare(jsonl(*[trl(f"q {i}", category=name) for i, name in enumerate(names)]))
    assert file.printed.count("look alike") == bool(alike) and len(file.categories) == len(names)
    for listed in alike:
        assert listed in file.printed


def test_more_categories_than_the_trainer_takes_are_refused(prepare, jsonl):
    rows = jsonl(*[trl(f"q {i}", category=f"c {i}") for i in range(1025)])
    assert "1025 categories, more than the 1024 that the trainer takes" in prepare(rows, status=2).err
    rows = jsonl(*[trl(f"q {i}", category=f"c {i}") for i in range(1024)])
    assert len(prepare(rows).categories) == 1024

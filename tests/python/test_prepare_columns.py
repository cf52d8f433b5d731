"""columns.md and the program agree: every column is read, refused or passed over as the page says, and what is not on
it is named and never lost behind a guess."""

import os
import re

import pytest
from conftest import HERE, pku, trl

from catdpo_analysis.prepare import columns

WITH_TEXT = {columns.TRL: trl("the sky"), columns.PKU: pku("the sky"), columns.PROMPTS: {"prompt": "the sky"}}
TALK = {  # the same as messages, of which tools and template arguments are
    columns.TRL: trl(
        [{"role": "user", "content": "the sky"}],
        [{"role": "assistant", "content": "blue"}],
        [{"role": "assistant", "content": "green"}],
    ),
    columns.PKU: pku("the sky"),
    columns.PROMPTS: {"prompt": [{"role": "user", "content": "the sky"}]},
}
VALUES = {  # something that each column can hold
    "messages": [{"role": "user", "content": "grass"}],
    "conversations": [{"from": "human", "value": "grass"}],
    "tools": [{"name": "add"}],
    "chat_template_kwargs": {"loud": True},
    "is_prompt_safe": True,
    "is_chosen_safe": True,
    "is_rejected_safe": False,
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_harm_category": {"noise": True},
    "response_1_harm_category": {"noise": True},
    "better_response_id": 1,
    "safer_response_id": 1,
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{{ tools or '' }}{{ '!' if loud else '' }}"
)


def page():
    """(kind of row, column, what) of each line."""
    with open(os.path.join(HERE, "columns.md"), encoding="utf-8") as file:
        lines = re.findall(r"^\| ([^|]+) \| `(\w+)` \| (\w+) \|", file.read(), re.M)
    kinds = list(columns.READ)
    return [(kind, column, what) for kinds_, column, what in lines for kind in (kinds if kinds_ == "all" else [kinds_])]


def test_the_page_has_every_column_of_the_program():
    for kind, names in columns.READ.items():
        assert sorted(names) == sorted(column for k, column, what in page() if k == kind and what == "read"), kind
    for what, table in (("ignored", columns.IGNORED), ("refused", columns.REFUSED)):
        assert sorted({column for _, column, w in page() if w == what}) == sorted(table)


@pytest.fixture
def make(cli, jsonl, tokenizer_dir, tmp_path):
    """What prepare makes of one row: (all that is in the file, what was printed)."""

    def run(row, *options):
        import h5py

        (tmp_path / "t.jinja").write_text(TEMPLATE)
        out = tmp_path / "p.h5"
        options = ["--tokenizer", tokenizer_dir, "--heldout", "0", "--chat-template", tmp_path / "t.jinja", *options]
        printed = cli("prepare", jsonl(row), "--out", out, *options).out
        found = {}
        with h5py.File(out) as file:
            file.visititems(
                lambda name, item: found.update({name: item[...].tolist()} if hasattr(item, "dtype") else {})
            )
        return found, printed

    return run


TAG = "</think>"
SEGMENTED = {
    columns.TRL: trl("the sky", f"is up{TAG}blue", f"is down{TAG}green"),
    columns.PKU: pku("the sky", responses=(f"is up{TAG}blue", f"is down{TAG}green")),
}


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def scored(kind, column):
    """Rows that differ in a column with scores, which both sides must have, or in the weights of these."""
    sides = [name for name in columns.READ[kind] if name.endswith("_scores") and "_segment_" not in name]
    both = WITH_TEXT[kind] | dict(zip(sides, ({"kind": 1.0, "true": 0.5}, {"kind": 0.25, "true": 0.75})))
    return both, both | {column: {"kind": 0.125, "true": 0.875}}


def options_for(column):
    if column.endswith("_segment_scores"):
        return ["--segment-tag", TAG]
    if column.endswith("_scores") or column == "score_weights":
        return ["--scores", "kind,true", "--score-weights-in-prompt"]
    return []


def rows_for(kind, column):
    """(row without the column, row with it)."""
    if "_segment_" not in column and (column.endswith("_scores") or column == "score_weights"):
        return scored(kind, column)
    if column.endswith("_segment_scores"):  # scores of one side alone decide nothing
        names = [name for name in columns.READ[kind] if name.endswith("_segment_scores")]  # of the better side first
        both = SEGMENTED[kind] | dict(zip(names, ([0.0, 0.1], [1.0, 0.2])))
        return without(both, column), both
    row = (TALK if column in ("tools", "chat_template_kwargs", "messages", "conversations") else WITH_TEXT)[kind]
    if column in ("prompt", *columns.PROMPT_NAMES):
        base = without(row, "prompt")
        if column == "input":
            return base | {"instruction": "the sky"}, base | {"instruction": "the sky", "input": "grass"}
        return base | {"question": "the sky"}, base | {column: VALUES.get(column, "grass")}
    if column in ("chosen_response", "rejected_response"):
        name = column.removesuffix("_response")
        return row, without(row, name) | {column: " is red"}
    if column.startswith("response_") and column.endswith("_category"):
        row = row | {
            "is_response_0_safe": column.startswith("response_1"),
            "is_response_1_safe": column.startswith("response_0"),
        }
        row = row | {"response_0_harm_category": {}, "response_1_harm_category": {}}
    if column in ("better_response_id", "safer_response_id"):
        row = row | {"is_response_1_safe": True, "better_response_id": None, "safer_response_id": 0}
    if column in ("category", "prompt_category") and kind == columns.PKU:
        row = row | {"response_0_harm_category": {}, "response_1_harm_category": {}}
    if column in ("is_chosen_safe", "is_rejected_safe"):
        row = row | {"category": "noise", "is_chosen_safe": column == "is_rejected_safe", "is_rejected_safe": True}
    if column == "is_response_0_safe":
        row = row | {"is_response_1_safe": True}
    return row, row | {column: VALUES.get(column, "grass")}


@pytest.mark.parametrize("kind, column", [(kind, column) for kind, column, what in page() if what == "read"], ids=str)
def test_a_column_that_is_read_decides_something(make, kind, column):
    before, after = rows_for(kind, column)
    assert before != after
    options = options_for(column)
    (was, _), (found, printed) = make(before, *options), make(after, *options)
    assert was != found and "Columns that are not used" not in printed


@pytest.mark.parametrize("kind", columns.READ)
def test_columns_that_are_ignored_change_nothing_and_are_named(make, kind):
    row = WITH_TEXT[kind]
    (was, quiet), (found, printed) = make(row), make(row | dict.fromkeys(columns.IGNORED, "some text"))
    assert was == found and "Columns that are not used" not in quiet
    for column, why in columns.IGNORED.items():
        assert f"  {column} (1 row): {why}\n" in printed


def test_a_column_that_is_refused_is_named(prepare, jsonl):
    for i, column in enumerate(columns.REFUSED):
        row = list(WITH_TEXT.values())[i % 3]
        error = prepare(jsonl(row | {column: ["cat.png"]}), status=2).err
        assert f"pairs.jsonl:1: the column {column} " in error
    assert prepare(jsonl(trl("a") | dict.fromkeys(columns.REFUSED)))  # columns that Arrow filled in


def test_an_unknown_column_is_named_once_with_its_count_and_the_nearest_known_name(prepare, jsonl):
    rows = [trl(f"p {i}", harm_category="fraud", colour="red", is_chosen_saef=True) for i in range(3)]
    printed = prepare(jsonl(*rows, trl("q", harm_category=None, colour=""))).printed
    assert "harm_category (3 rows): not known; did you mean category? (--column category=harm_category)" in printed
    assert "is_chosen_saef (3 rows): not known; did you mean is_chosen_safe?" in printed
    assert "colour (3 rows): not known\n" in printed and printed.count("colour") == 1


def test_a_column_gets_its_meaning_by_name(prepare, jsonl):
    rows = jsonl(*[{"ask": f"q {i}", "chosen": " yes", "rejected": " no", "harm_type": "fraud"} for i in range(2)])
    file = prepare(rows, options=["--column", "prompt=ask", "--column", "category=harm_type"])
    assert [pair["prompt_text"] for pair in file.pairs] == ["q 0", "q 1"] and file.categories == ["fraud"]
    assert "not used" not in file.printed
    assert "KNOWN one of" in prepare(rows, options=["--column", "promt=ask"], status=2).err
    both = jsonl(trl("a", harm_type="x", category="y"), name="both.jsonl")
    assert "has category as well" in prepare(both, options=["--column", "category=harm_type"], status=2).err


ANSWERS = {"chosen": "It is green.", "rejected": "It is blue."}


def test_no_prompt_is_guessed_beside_a_column_with_text(prepare, jsonl):
    """The answers share "It is": the question must not be lost behind it."""
    error = prepare(jsonl(ANSWERS | {"riddle": "What is grass?"}), status=2).err
    assert "pairs.jsonl:1: no column prompt, and riddle holds text" in error and "--column prompt=riddle" in error
    assert prepare(jsonl(ANSWERS | {"goal": "What is grass?"}), status=2).err.count("--column prompt=goal") == 1
    (pair,) = prepare(jsonl(ANSWERS | {"riddle": "x"}), options=["--ignore-columns", "riddle"]).pairs
    assert pair["prompt_text"] == "It is"
    for more in ({"source": "a b c", "id": "7"}, {"count": 3, "empty": ""}, {"category": "fraud"}):
        assert prepare(jsonl(ANSWERS | more)).pairs[0]["prompt_text"] == "It is"
    talk = {name: [{"role": "assistant", "content": text}] for name, text in ANSWERS.items()}
    assert "riddle holds text" in prepare(jsonl(talk | {"riddle": "What is grass?"}), status=2).err


def test_rows_without_answers_are_prompts_only_if_nothing_else_holds_text(prepare, jsonl):
    error = prepare(jsonl({"prompt": "a", "choosen": "b", "rejectd": "c"}), status=2).err
    assert "choosen" in error and "--column chosen=choosen rejected=rejectd" in error
    assert "--column chosen=choosen" in prepare(jsonl({"question": "a", "choosen": "b", "rejected": "c"}), status=2).err


@pytest.mark.parametrize(
    "row, prompt",
    [
        ({"question": "Name it."}, "Name it."),
        ({"instruction": "Name it.", "input": ""}, "Name it."),
        ({"instruction": "Name it.", "input": "grass"}, "Name it.\ngrass"),
        ({"query": "Name it.", "prompt": None}, "Name it."),
        ({"input": "Name it."}, "Name it."),
        ({"prompt": "Name it.", "question": "Name it."}, "Name it."),
        ({"system": "Be brief.", "question": "Name it."}, "system: Be brief.\n\nuser: Name it."),
        ({"system_prompt": "Be brief.", "prompt": "Name it."}, "system: Be brief.\n\nuser: Name it."),
    ],
    ids=str,
)
def test_well_known_names_of_the_prompt(prepare, jsonl, row, prompt):
    (pair,) = prepare(jsonl(ANSWERS | row)).pairs
    assert (pair["prompt_text"], pair["chosen_text"], pair["rejected_text"]) == (prompt, *ANSWERS.values())


def test_messages_get_the_system_message_and_the_question_too(prepare, jsonl):
    talk = {name: [{"role": "assistant", "content": text}] for name, text in ANSWERS.items()}
    user, system = {"role": "user", "content": "Name it."}, {"role": "system", "content": "Be brief."}
    shown = "system: Be brief.\n\nuser: Name it."
    for row in (
        {"prompt": [user], "system": "Be brief."},
        {"prompt": [system, user], "system": "Be brief."},
        {"question": "Name it.", "system": "Be brief."},
        {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Name it."}]},
    ):
        file = prepare(jsonl(talk | row))
        assert file.pairs[0]["prompt_text"] == shown, row
    whole = {name: [user, *side] for name, side in talk.items()}
    assert prepare(jsonl(whole | {"system": "Be brief."})).pairs[0]["prompt_text"] == shown
    sharegpt = {"chosen": {"from": "gpt", "value": "It is green."}, "rejected": {"from": "gpt", "value": "It is blue."}}
    assert prepare(jsonl(sharegpt | {"question": "Name it."})).pairs[0]["chosen_text"] == "It is green."


def test_two_columns_that_say_other_things_are_refused(prepare, jsonl):
    user = [{"role": "user", "content": "Name it."}]
    talk = {name: [{"role": "assistant", "content": text}] for name, text in ANSWERS.items()}
    for row, named in (
        (ANSWERS | {"prompt": "a", "question": "b"}, "--ignore-columns question"),
        (trl("a", chosen_response="other"), "--ignore-columns chosen_response"),
        (talk | {"prompt": [{"role": "system", "content": "x"}, *user], "system": "y"}, "system message differ"),
        ({name: user + side for name, side in talk.items()} | {"prompt": "Another."}, "--ignore-columns prompt"),
    ):
        error = prepare(jsonl(row), status=2).err
        assert named in error and "pairs.jsonl:1: " in error
    printed = prepare(jsonl(trl("a", input="more"))).printed
    assert "input (1 row): not used beside prompt" in printed

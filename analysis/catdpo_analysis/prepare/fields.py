"""The cells of a row: texts, flags, category names, template arguments. `place` is file:line for messages."""

import json

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.prepare import turns
from catdpo_analysis.prepare.categories import check_category, without_safe
from catdpo_analysis.prepare.columns import AUTHORS, is_blank

AUTHOR_BYTES = 255  # longest name of who wrote a response, in UTF-8

# What transformers' apply_chat_template takes itself; the rest reaches the template
RESERVED = frozenset(
    "conversation messages chat_template add_generation_prompt continue_final_message tokenize sanitize_control_tokens "
    "padding truncation max_length return_tensors return_dict return_assistant_tokens_mask tokenizer_kwargs "
    "processor_kwargs".split()
)


def one_of(row, names, place):
    """(name, value) of the one column among `names` that holds something, (None, None) if none does. Two that say
    something else are refused."""
    found = [(name, row[name]) for name in names if not is_blank(row.get(name))]
    for name, value in found[1:]:
        if value != found[0][1]:
            raise UserError(
                f"{place}: {found[0][0]} and {name} both hold something, and not the same; say which one to use: "
                f"--ignore-columns {name}"
            )
    return found[0] if found else (None, None)


def text_in(row, name, place):
    value = row.get(name)
    if not isinstance(value, str):
        what = "is missing" if name not in row else f"must be a text, not {shorten(repr(value))}"
        raise UserError(f"{place}: {name} {what}")
    return turns.checked(value, name, place)


def flag(row, name, place, default=None):
    """A boolean field as 0 or 1; 0 and 1 are taken as such."""
    value = row.get(name, default)
    if value is None or not isinstance(value, (bool, int)) or int(value) not in (0, 1):
        what = "is missing" if name not in row else f"must be true or false, not {shorten(repr(value))}"
        raise UserError(f"{place}: {name} {what}")
    return int(value)


def flag_or(row, name, place, default):
    return default if row.get(name) is None else flag(row, name, place)


def response_id(row, name, place):
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or value not in (0, 1):
        raise UserError(f"{place}: {name} must be 0, 1 or null, not {shorten(repr(value))}")
    return int(value)


def names_of(value, name, place):
    """Category names from a name, a list of names, or an object of name to boolean."""
    if value is None:
        return []
    if isinstance(value, str):
        value = [value]
    elif isinstance(value, dict):
        value = {key: on for key, on in value.items() if on is not None}  # Arrow's filling
        wrong = [key for key, on in value.items() if not isinstance(on, bool) and on not in (0, 1)]
        if wrong:
            raise UserError(
                f"{place}: {name} must map category names to true or false; {shorten(wrong[0])} is "
                f"{shorten(repr(value[wrong[0]]))}"
            )
        value = [key for key, on in value.items() if on]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise UserError(
            f"{place}: {name} must be a category name, a list of names or an object of name to true or false"
        )
    names = list(dict.fromkeys(turns.checked(entry.strip(), name, place) for entry in value if entry.strip()))
    for entry in names:
        check_category(entry, f"{place}: {name}")
    return names


def column_categories(row, place, options, facts):
    """What the row says besides the responses: (names of harms, rule, what it says otherwise) from prompt_category,
    then category."""
    said, found = None, []
    for column in ("prompt_category", "category"):
        harms, says = without_safe(names_of(row.get(column), column, place), options.benign)
        if says:
            facts.append(("safe name", ", ".join(names_of(row.get(column), column, place))))
            said = said or says
        if harms:
            found.append((harms, column))
    if len(found) == 2 and set(found[0][0]) != set(found[1][0]):
        facts.append(("two categories", ""))
    return (*found[0], said) if found else ([], None, said)


def author_of(row, response, place):
    """Who wrote a response: the name in the first of its columns that holds one, "" where nobody says."""
    for column in AUTHORS[response]:
        value = row.get(column)
        if is_blank(value):
            continue
        if not isinstance(value, str):
            raise UserError(f"{place}: {column} must be the name of who wrote it, not {shorten(repr(value))}")
        name = turns.checked(value.strip(), column, place)
        if len(name.encode("utf-8")) > AUTHOR_BYTES or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
            raise UserError(f"{place}: {column} must be who wrote the response, a line of at most {AUTHOR_BYTES} bytes")
        return name
    return ""


def template_arguments(row, place):
    """TRL's optional columns that go to the chat template: tools (also as JSON text) and chat_template_kwargs."""
    extra, tools = row.get("chat_template_kwargs"), row.get("tools")
    if not isinstance(extra, (dict, type(None))):
        raise UserError(f"{place}: chat_template_kwargs must be an object, not {shorten(repr(extra))}")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: tools is a text, but no JSON: {shorten(error, 100)}") from None
    elif isinstance(tools, str):
        tools = None
    if not isinstance(tools, (list, type(None))) or not all(isinstance(tool, dict) for tool in tools or ()):
        raise UserError(f"{place}: tools must be a list of objects, or that as JSON text, not {shorten(repr(tools))}")
    extra = dict(extra or {})
    for name in sorted(RESERVED.intersection(extra)):
        raise UserError(f"{place}: chat_template_kwargs has {name}, which is not the row's to set; take it out")
    if tools is not None:
        if extra.get("tools", tools) != tools:
            raise UserError(f"{place}: tools and chat_template_kwargs.tools differ; keep one of them")
        extra["tools"] = tools
    return extra

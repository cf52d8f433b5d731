"""A row of preference data as a Pair: PKU-SafeRLHF's schema and TRL's four preference formats, with SafeDPO's
transformation.

SafeDPO, with helpfulness naming the preferred response: preferred safe and other unsafe: keep; preferred unsafe and
other safe: swap; both safe: keep; both unsafe: drop.
"""

import dataclasses

from catdpo_analysis.errors import UserError, shorten

UNKNOWN = 255
NAME_BYTES = 63  # longest category name that the trainer takes, in UTF-8
RULES = (
    "unsafe response",
    "prompt_category",
    "category",
    "benign",
    "uncategorised",
)  # where a pair's categories come from
BENIGN, UNCATEGORISED = "benign", "uncategorised"


@dataclasses.dataclass
class Options:
    transform: str = "safedpo"
    benign: str = BENIGN
    safe_pairs_by_prompt: bool = False
    assume_unsafe_rejected: bool = False


@dataclasses.dataclass
class Pair:
    """prompt, chosen, rejected are texts, or lists of messages where `chat` is true."""

    prompt: object
    chosen: object
    rejected: object
    chat: bool
    categories: list
    rule: str
    chosen_safe: int = UNKNOWN
    rejected_safe: int = UNKNOWN
    chosen_better: int = -1
    swapped: bool = False
    extra: dict = dataclasses.field(default_factory=dict)  # tools and template arguments
    file: int = 0
    row: int = 0
    key: bytes = b""  # equal for equal prompts (split.prompt_key)

    @property
    def margin_applies(self):
        return self.chosen_safe == 1 and self.rejected_safe == 0


@dataclasses.dataclass
class Dropped:
    """A row that gives no pair, and why."""

    reason: str
    categories: list


def read_pair(row, place, options):
    """A Pair or Dropped. `place` is file:line for messages."""
    if "response_0" in row or "response_1" in row:
        return _from_pku(row, place, options)
    if "chosen" in row and "rejected" in row:
        return _from_trl(row, place, options)
    if "completion" in row or "label" in row:
        raise UserError(f"{place}: an unpaired row (completion, label); preference pairs need chosen and rejected")
    raise UserError(
        f"{place}: neither TRL's preference format (chosen, rejected) nor PKU-SafeRLHF's (response_0, response_1); "
        f"the row has {shorten(', '.join(sorted(row)) or 'no fields')}"
    )


def extract_prompt(chosen, rejected):
    """TRL's rule for an implicit prompt: the longest common start, in characters or messages; a space before the
    split goes to the completions. Returns (prompt, chosen, rejected)."""
    at = 0
    for at in range(min(len(chosen), len(rejected))):
        if chosen[at] != rejected[at]:
            if at > 0 and chosen[at - 1] == " ":
                at -= 1
            break
    return chosen[:at], chosen[at:], rejected[at:]


# --- fields ---------------------------------------------------------------------------------------


def _text(row, name, place):
    value = row.get(name)
    if not isinstance(value, str):
        what = "is missing" if name not in row else f"must be a text, not {shorten(repr(value))}"
        raise UserError(f"{place}: {name} {what}")
    return _checked(value, name, place)


def _checked(value, name, place):
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: {name} has half of a surrogate pair (\\ud800 to \\udfff), which is no text; mend or remove the "
            "line"
        ) from None
    return value


def _flag(row, name, place, default=None):
    """A boolean field as 0 or 1; 0 and 1 are taken as such."""
    value = row.get(name, default)
    if value is None or not isinstance(value, (bool, int)) or int(value) not in (0, 1):
        what = "is missing" if name not in row else f"must be true or false, not {shorten(repr(value))}"
        raise UserError(f"{place}: {name} {what}")
    return int(value)


def _response_id(row, name, place):
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or value not in (0, 1):
        raise UserError(f"{place}: {name} must be 0, 1 or null, not {shorten(repr(value))}")
    return int(value)


def _names(value, name, place):
    """Category names from a name, a list of names, or an object of name to boolean."""
    if value is None:
        return []
    if isinstance(value, str):
        value = [value]
    elif isinstance(value, dict):
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
    names = list(dict.fromkeys(_checked(entry.strip(), name, place) for entry in value if entry.strip()))
    for entry in names:
        check_category(entry, f"{place}: {name}")
    return names


def check_category(name, place):
    """The trainer's rule for a category's name: one line of at most 63 bytes."""
    if len(name.encode("utf-8")) > NAME_BYTES or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise UserError(
            f"{place}: {shorten(repr(name), 90)} is no category name; it must be one line of at most {NAME_BYTES} bytes"
        )


def _column_categories(row, place):
    """What the row says besides the responses: (names, rule) from prompt_category, then category; ([], None) if
    neither says anything."""
    for column in ("prompt_category", "category"):
        names = _names(row.get(column), column, place)
        if names:
            return names, column
    return [], None


# --- PKU-SafeRLHF ---------------------------------------------------------------------------------


def _from_pku(row, place, options):
    prompt = _text(row, "prompt", place)
    responses = [_text(row, f"response_{i}", place) for i in (0, 1)]
    safe = [_flag(row, f"is_response_{i}_safe", place) for i in (0, 1)]
    harm = [_names(row.get(f"response_{i}_harm_category"), f"response_{i}_harm_category", place) for i in (0, 1)]
    better, safer = (_response_id(row, name, place) for name in ("better_response_id", "safer_response_id"))

    unsafe_names = list(dict.fromkeys(name for i in (0, 1) if not safe[i] for name in harm[i]))
    categories, rule = unsafe_names, "unsafe response"
    if not categories:
        categories, rule = _column_categories(row, place)
        if safe == [1, 1] and not (options.safe_pairs_by_prompt and categories):
            categories, rule = [options.benign], "benign"
        elif not categories:
            categories, rule = [UNCATEGORISED], "uncategorised"

    if options.transform == "safedpo":
        if safe == [0, 0]:
            return Dropped("both responses unsafe", categories)
        chosen = (better if better is not None else safer) if safe == [1, 1] else safe.index(1)
    else:
        chosen = better if better is not None else safer
    if chosen is None:
        return Dropped("no preference (better_response_id and safer_response_id are null)", categories)
    answers = [[{"role": "assistant", "content": text}] for text in responses]
    return Pair(
        prompt=[{"role": "user", "content": prompt}],
        chosen=answers[chosen],
        rejected=answers[1 - chosen],
        chat=True,
        categories=categories,
        rule=rule,
        chosen_safe=safe[chosen],
        rejected_safe=safe[1 - chosen],
        chosen_better=-1 if better is None else int(better == chosen),
        swapped=better is not None and better != chosen,
    )


# --- TRL ------------------------------------------------------------------------------------------


def _is_chat(value):
    return (
        isinstance(value, list) and bool(value) and all(isinstance(entry, dict) and "role" in entry for entry in value)
    )


def _check_side(value, name, place):
    """A text, or a list of messages with string role and content. Returns whether it is a list of messages."""
    if isinstance(value, str):
        _checked(value, name, place)
        return False
    if isinstance(value, list) and not value:
        return True
    if not _is_chat(value):
        raise UserError(
            f"{place}: {name} must be a text or a list of messages with role and content, not {shorten(repr(value))}"
        )
    for message in value:
        if not isinstance(message["role"], str) or not isinstance(message.get("content"), (str, type(None))):
            raise UserError(
                f"{place}: in {name}, role and content of a message must be texts (images and content parts are not "
                "supported)"
            )
        _checked(message.get("content") or "", name, place)
    return True


def _from_trl(row, place, options):
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    chat = _check_side(chosen, "chosen", place)
    if _check_side(rejected, "rejected", place) != chat:
        raise UserError(f"{place}: chosen and rejected must both be texts or both be lists of messages")
    if prompt is not None and _check_side(prompt, "prompt", place) != chat:
        if not chat:
            raise UserError(f"{place}: prompt is a list of messages, but chosen and rejected are texts")
        prompt = None  # a plain copy of the question beside whole conversations, as in UltraFeedback
    if prompt is None:
        prompt, chosen, rejected = extract_prompt(chosen, rejected)

    categories, rule = _column_categories(row, place)
    assumed = (1, 0) if categories or options.assume_unsafe_rejected else (UNKNOWN, UNKNOWN)
    flags = [
        _flag(row, name, place) if row.get(name) is not None else default
        for name, default in zip(("is_chosen_safe", "is_rejected_safe"), assumed)
    ]
    if not categories:
        categories, rule = ([options.benign], "benign") if flags == [1, 1] else ([UNCATEGORISED], "uncategorised")
    pair = Pair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        chat=chat,
        categories=categories,
        rule=rule,
        chosen_safe=flags[0],
        rejected_safe=flags[1],
        extra=_template_arguments(row, place),
    )
    if options.transform == "safedpo" and flags == [0, 0]:
        return Dropped("both responses unsafe", categories)
    if options.transform == "safedpo" and flags == [0, 1]:
        pair = dataclasses.replace(pair, chosen=rejected, rejected=chosen, chosen_safe=1, rejected_safe=0, swapped=True)
    return pair


def _template_arguments(row, place):
    """TRL's optional columns that go to the chat template."""
    extra = row.get("chat_template_kwargs") or {}
    tools = row.get("tools")
    if not isinstance(extra, dict) or not isinstance(tools, (list, type(None))):
        raise UserError(f"{place}: chat_template_kwargs must be an object and tools a list")
    return dict(extra, tools=tools) if tools else dict(extra)

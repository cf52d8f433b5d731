"""Texts and messages: what a prompt and its two completions are, whatever the row looks like.

A side is a text or a list of messages, each a dictionary with a role and a content.
"""

import re

from catdpo_analysis.errors import UserError, shorten

FROM = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "function_call": "assistant"}
TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ ]?")  # HH-RLHF's transcripts
# What may stand before a question that a transcript repeats
MARKUP = re.compile(
    r"\s*(?:\[INST\]|#{1,3} ?\w+:?|(?:human|user|question|q|instruction)\s*:|(?:<\|?[\w ]+\|?>\s*)+(?:user\s*)?)\s*\Z",
    re.IGNORECASE,
)


def checked(value, name, place):
    """A text, or the error that it cannot be one."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: {name} has half of a surrogate pair (\\ud800 to \\udfff), which is no text; mend or remove the "
            "line"
        ) from None
    return value


def read_side(value, name, place):
    """A side as it is used: a text; or a list of messages, also of ShareGPT's from and value, also a lone one."""
    if isinstance(value, str):
        return checked(value, name, place)
    messages = [value] if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(entry, dict) for entry in messages):
        raise _no_side(value, name, place)
    return [_read_message(entry, value, name, place) for entry in messages]


def _read_message(message, value, name, place):
    if "role" not in message and "from" in message:
        rest = {key: entry for key, entry in message.items() if key not in ("from", "value")}
        role = message["from"]
        message = {
            "role": FROM.get(role, role) if isinstance(role, str) else role,
            "content": message.get("value"),
        } | rest
    if "role" not in message:
        raise _no_side(value, name, place)
    if not isinstance(message["role"], str) or not isinstance(message.get("content"), (str, type(None))):
        raise UserError(
            f"{place}: in {name}, role and content of a message must be texts (images and content parts are not "
            "supported)"
        )
    checked(message.get("content") or "", name, place)
    return message


def _no_side(value, name, place):
    return UserError(
        f"{place}: {name} must be a text or a list of messages with role and content, not {shorten(repr(value))}"
    )


def is_chat(side):
    return not isinstance(side, str)


def text_of(side):
    """A side for reading and for keys: a text as it is, a lone message its content, several with their roles."""
    if isinstance(side, str):
        return side
    if len(side) == 1:
        return side[0].get("content") or ""
    return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in side)


def shown(side):
    """The same as files keep it: HDF5's strings end at NUL."""
    return text_of(side).replace("\0", "\u2400")


def as_turns(text, role):
    """A text as messages: the turns of a transcript, or one turn of `role`. White space around a turn is markup of the
    text and not of the message."""
    starts = list(TURN.finditer(text))
    if not starts or text[: starts[0].start()].strip():
        return [{"role": role, "content": text.strip()}]
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return [
        {"role": FROM.get(start[1].lower(), start[1].lower()), "content": text[start.end() : end].strip()}
        for start, end in zip(starts, ends)
    ]


def is_transcript(text):
    return len(TURN.findall(text)) > 1


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


def _plain(text):
    return " ".join((text or "").split())


def _same_message(a, b):
    return a.get("role") == b.get("role") and _plain(a.get("content")) == _plain(b.get("content"))


def without_repeat(prompt, chosen, rejected):
    """Takes a prompt off that both completions repeat: (prompt, chosen, rejected), or None if they do not.

    Messages: the completions are whole conversations whose common start holds the prompt's messages; what stands
    before them (a system message, earlier turns) becomes part of the prompt. Texts: both begin with the prompt, up to
    white space around it and to the end of a word; or both are transcripts in which it stands behind a mark.
    """
    if is_chat(prompt):
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        for at in range(shared - len(prompt) + 1):
            if prompt and all(map(_same_message, prompt, chosen[at : at + len(prompt)])):
                end = at + len(prompt)
                return chosen[:end], chosen[end:], rejected[end:]
        return None
    words = prompt.strip()
    if not words:
        return None
    for text in (chosen, rejected):
        found = re.match(rf"\s*{re.escape(words)}(?!\w)" if words[-1].isalnum() else rf"\s*{re.escape(words)}", text)
        if not found:
            break
    else:
        if chosen.startswith(prompt) and rejected.startswith(prompt):
            return prompt, chosen[len(prompt) :], rejected[len(prompt) :]
        end = chosen.index(words) + len(words)
        if chosen[:end] == rejected[:end]:
            return chosen[:end], chosen[end:], rejected[end:]
        return prompt, chosen[end:], rejected[rejected.index(words) + len(words) :]
    shared = extract_prompt(chosen, rejected)
    at = shared[0].find(words)
    return shared if at > 0 and MARKUP.match(shared[0][:at]) else None


def holds_prompt(prompt, chosen, rejected):
    """Whether both whole conversations have a turn of the user that says what the text `prompt` says."""
    return all(
        any(entry["role"] == "user" and _plain(entry.get("content")) == _plain(prompt) for entry in side)
        for side in (chosen, rejected)
    )

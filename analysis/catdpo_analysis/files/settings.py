"""The settings of a run, from the text that the trainer writes: libconfig's format, read into plain values."""

import re

TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | //[^\n]* | /\*.*?\*/ |
    (?P<text> "(?:[^"\\]|\\.)*" ) | (?P<name> [A-Za-z*][-\w*]* ) | (?P<number> [-+]?\.?[0-9][-+.\w]* ) |
    (?P<sign> [:=;,{}\[\]()] )""",
    re.VERBOSE | re.DOTALL,
)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}


def parse_settings(text):
    """{"group.key": value} of a config; a text that is cut short gives what stands before the cut."""
    tokens = [(match.lastgroup, match.group()) for match in TOKEN.finditer(text) if match.lastgroup]
    settings, groups, at = {}, [], 0
    while at < len(tokens):
        kind, word = tokens[at]
        if word == "}":
            del groups[-1:]
        if kind != "name" or at + 2 >= len(tokens) or tokens[at + 1][1] not in (":", "="):
            at += 1
        elif tokens[at + 2][1] == "{":
            groups.append(word)
            at += 3
        else:
            value, at = _value(tokens, at + 2)
            settings[".".join([*groups, word])] = value
    return settings


def _value(tokens, at):
    """(value, index behind it) of the value that begins at tokens[at]."""
    kind, word = tokens[at]
    if word in ("[", "("):
        items, at = [], at + 1
        while at < len(tokens) and tokens[at][1] not in ("]", ")"):
            if tokens[at][1] == ",":
                at += 1
            else:
                item, at = _value(tokens, at)
                items.append(item)
        return items, at + 1
    if kind == "text":  # neighbours are one text
        parts = []
        while at < len(tokens) and tokens[at][0] == "text":
            parts.append(re.sub(r"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), tokens[at][1][1:-1]))
            at += 1
        return "".join(parts), at
    return _scalar(word), at + 1


def _scalar(word):
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    digits = word.rstrip("L")
    for convert in (int, lambda text: int(text, 0), float):
        try:
            return convert(digits)
        except ValueError:
            pass
    return word


def setting_text(value):
    """A value as short text for a table."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ",".join(setting_text(item) for item in value) + "]"
    return "-" if value is None else str(value)

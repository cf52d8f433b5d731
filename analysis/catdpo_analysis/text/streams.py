"""Terminals that do not have every character."""

import os
import sys

SIMPLE = str.maketrans({"→": "->", "–": "-", "±": "+-", "…": "...", "×": "x", "β": "beta", "Δ": "margin", "≤": "<="})


def asks_for_utf8(environment=None):
    """Whether the user's locale is UTF-8. Python runs in UTF-8 under the locale C too, and then sets LC_CTYPE itself:
    what was asked for is taken from the rest of the environment."""
    environment = os.environ if environment is None else environment
    locale = environment.get("LC_ALL") or environment.get("LC_CTYPE") or environment.get("LANG") or ""
    if not environment.get("LC_ALL") and locale in ("C.UTF-8", "C.utf8", "UTF-8"):
        locale = environment.get("LANG") or ""
    return "utf-8" in locale.lower() or "utf8" in locale.lower()


def make_safe(*streams):
    """No character of a name stops the program: a terminal whose locale is not UTF-8, and any stream of another
    encoding, get a question mark for what they cannot show; files and pipes keep UTF-8 as it is."""
    for stream in streams or (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):
            continue
        if "utf" not in (stream.encoding or "").lower():
            stream.reconfigure(errors="replace")
        elif stream.isatty() and not asks_for_utf8():
            stream.reconfigure(encoding="ascii", errors="replace")
        else:
            stream.reconfigure(errors="backslashreplace")  # names that are no UTF-8


def encodable(text, encoding=None):
    """The text, or in an encoding that lacks some of its characters what comes nearest."""
    encoding = encoding or sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return text.translate(SIMPLE).encode(encoding, "replace").decode(encoding)


def say(text=""):
    """print, on any terminal."""
    print(encodable(text))

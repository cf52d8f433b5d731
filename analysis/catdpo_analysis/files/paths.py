"""Names of files as people write them."""

import os
import re

from catdpo_analysis.errors import UserError

VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\}|)", re.ASCII)


def expand(text):
    """What a shell makes of a path, for --out=~/x and what stands in quotes: ~ and ~user at the beginning, $NAME and
    ${NAME} anywhere; $$ is a $. A file of the very name goes before."""
    if os.path.lexists(text) or not (text.startswith("~") or "$" in text):
        return text
    home, rest = "", text
    if text.startswith("~"):
        start, slash, end = text.partition("/")
        home, rest = os.path.expanduser(start), slash + end
        if home.startswith("~"):
            raise UserError(f"there is no user {start[1:]!r} for {text!r}; for a file of this name write './{text}'")

    def value(found):
        if found.group() == "$$":
            return "$"
        name = found[1] or found[2]
        if not name or name[0].isdigit():
            raise UserError(f"{text!r}: '$' begins no variable like $NAME or ${{NAME}}; for a '$' in a name write '$$'")
        if name not in os.environ:
            raise UserError(f"{text!r}: the environment has no variable {name}; export it, or write '$$' for a '$'")
        return os.environ[name]

    return home + VARIABLE.sub(value, rest)


def names_of(paths):
    """Short names that differ: the ends of the paths."""
    parts = [os.path.abspath(path).split(os.sep) for path in paths]
    depth = 1
    while depth < max(map(len, parts)) and len({tuple(part[-depth:]) for part in parts}) < len(parts):
        depth += 1
    return [os.sep.join(part[-depth:]) for part in parts]

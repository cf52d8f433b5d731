"""JSON objects from files, with one message for whatever is wrong with them."""

import json

from catdpo_analysis.errors import UserError, shorten


def unique(where, kind=UserError):
    """For json.loads' object_pairs_hook: an object in which a key is there twice with different values is refused, of
    which Python would take the last one without a word."""

    def made(pairs):
        found = dict(pairs)
        for key, value in pairs if len(found) < len(pairs) else ():
            if found[key] != value:
                raise kind(f"{where}: {shorten(json.dumps(key))} is there twice, with different values")
        return found

    return made


def parse_json(data, where):
    """An object from bytes or a text."""
    try:
        value = json.loads(data, object_pairs_hook=unique(where))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON: {shorten(error, 160)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} holds no JSON object")
    return value


def read_json(path):
    """An object from a file."""
    try:
        with open(path, "rb") as file:
            return parse_json(file.read(), path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None

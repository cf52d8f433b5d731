"""JSON objects from files, with one message for whatever is wrong with them."""

import json

from catdpo_analysis.errors import UserError, shorten


def parse_json(data, where):
    """An object from bytes or a text. A key that is there twice with different values is refused: Python would take the
    last one without a word."""

    def unique(pairs):
        found = {}
        for key, value in pairs:
            if key in found and found[key] != value:
                raise UserError(f"{where}: {shorten(json.dumps(key))} is there twice, with different values")
            found[key] = value
        return found

    try:
        value = json.loads(data, object_pairs_hook=unique)
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

"""Reading of a Hugging Face config.json: values checked, defaults as transformers has them, refusals by name."""

import json

from catdpo_analysis.errors import UserError, shorten

LARGEST = 1 << 30  # of any size or count; the trainer reads no larger one


def shown(value):
    """A value of a config for a message."""
    return shorten(json.dumps(value))


def is_number(value, least, most):
    """A number within these bounds; neither NaN nor true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


class Config:
    """A config.json (dict). `path` is named in messages; `defaults`: what transformers takes for keys that are not
    there."""

    def __init__(self, values, path, defaults, supported):
        self.values, self.path, self.defaults, self.supported = values, path, defaults, supported

    def get(self, key, default=None):
        return self.values.get(key, self.defaults.get(key, default))

    def refuse(self, what, remedy=None):
        raise UserError(f"{self.path}: {what} is not supported; {remedy or self.supported}")

    def number(self, key, kind, default=None, least=1):
        """A count (kind = int) or number; null is as good as absent."""
        value = self.values.get(key)
        value = self.defaults.get(key, default) if value is None else value
        if value is None:
            raise UserError(f"{self.path}: {key} is missing")
        if not is_number(value, least, LARGEST) or (kind is int and value != int(value)):
            what = "count" if kind is int else "number"
            raise UserError(f"{self.path}: {key} = {shown(value)} is not a valid {what}")
        return kind(value)

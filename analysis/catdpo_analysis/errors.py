"""Faults that the user can mend. The command prints such an error as one line, where it stands for several each of
them on a line below, and ends with status 2."""


class UserError(Exception):
    """Its text says what is wrong, where, and what to do about it. `several`: the errors that it sums up."""

    def __init__(self, message, several=()):
        super().__init__(message)
        self.several = several


class RowError(UserError):
    """Of one row of the data: the others may be good."""


def one_line(error, length=1200):
    """An error's text as one line of printable characters, whatever names and values of files are in it."""
    return shorten("".join(c if c.isprintable() or c.isspace() else "?" for c in str(error)), length)


def shorten(value, length=60):
    """A value for a message: its JSON-like text on one line, cut to `length` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= length else text[: length - 3] + "..."

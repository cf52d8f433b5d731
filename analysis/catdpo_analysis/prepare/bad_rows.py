"""Rows that cannot be used: the first of them are reported together, or they are left out and counted."""

from catdpo_analysis.errors import UserError, one_line
from catdpo_analysis.prepare.formats import Dropped

MOST = 20  # errors that are shown
REASON = "bad row (--skip-bad)"


class BadRows:
    def __init__(self, skip, ledger):
        self.skip, self.ledger, self.errors, self.count = skip, ledger, [], 0

    def add(self, error, file, row, categories=()):
        """Takes a bad row; raises all of them once there are enough to show, unless they are to be left out."""
        self.count += 1
        if len(self.errors) < MOST:
            self.errors.append(error)
        if self.skip:
            self.ledger.add(Dropped(reason=REASON, categories=list(categories), file=file, row=row), REASON)
        elif self.count == MOST:
            self.settle()

    def settle(self):
        """Raises what was found unless it is to be left out."""
        if not self.errors or self.skip:
            return
        if len(self.errors) == 1:
            raise self.errors[0]
        more = " or more" if self.count == MOST else ""
        raise UserError(
            f"{self.count}{more} rows cannot be used: mend them, or leave them out with --skip-bad", self.errors
        )

    def lines(self):
        """For the terminal, of rows that were left out."""
        if not self.skip or not self.errors:
            return []
        rest = self.count - len(self.errors)
        return [*(one_line(error, 300) for error in self.errors), *([f"... and {rest} more"] if rest else [])]

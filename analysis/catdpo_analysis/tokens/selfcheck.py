"""What must hold of the tokens that are written, whatever went wrong before: looked at while texts are encoded, and
settled before the file is written."""

import re
import unicodedata

from catdpo_analysis.errors import UserError, shorten

SAMPLES = 32  # texts that are decoded again, of each kind
MARKER = re.compile(r"<\|[^|<>\s]{1,40}\|>")  # how most templates write the start and end of a turn


class Probe:
    def __init__(self, tokenizer, rows, place_of):
        """`rows`: of the embedding."""
        self.tokenizer, self.rows, self.place_of = tokenizer, rows, place_of
        self.named = {}  # text of a special token -> (row, text, ids) where it occurs
        self.samples = {True: [], False: []}
        self.largest, self.unknown, self.seen = -1, 0, 0
        self.tokens = {token: None for token in tokenizer.named.values() if tokenizer.id_of(token) is not None}
        self.tokens |= dict.fromkeys(MARKER.findall("".join(tokenizer.templates.values())))

    def see(self, row, text, ids):
        """A text as the model sees it, and its token ids."""
        for token in self.tokens:
            if token not in self.named and token in text:
                self.named[token] = (row, text, ids)
        if len(self.samples[row.chat]) < SAMPLES:
            self.samples[row.chat].append((row, text, ids))
        if ids:
            self.largest = max(self.largest, max(ids))
        self.unknown += self._count_unknown(text, ids)
        self.seen += len(ids)

    def _count_unknown(self, text, ids):
        """Tokens for what the tokenizer does not know. Its unk_token may also stand for the end or be in the text."""
        number, token = self.tokenizer.unknown_id, self.tokenizer.named.get("unk_token")
        if number is None or number in (self.tokenizer.bos_id, self.tokenizer.eos_id):
            return 0
        return max(0, ids.count(number) - text.count(token))

    def settle(self):
        """Raises UserError if a text is not what its tokens say. Returns notes for the terminal."""
        notes = [note for token in self.named if (note := self._check_token(token))]
        if self.largest >= self.rows:
            raise UserError(
                f"{self.tokenizer.where}: a text has the token id {self.largest}, but the embedding has {self.rows} "
                "rows"
            )
        for row, text, ids in self.samples[True] + self.samples[False]:
            self._check_text(row, text, ids)
        if self.unknown:
            notes.append(
                f"{self.unknown} of {self.seen} tokens are {self.tokenizer.named.get('unk_token')}: the tokenizer does "
                "not know what stands there"
            )
        return notes

    def _check_token(self, token):
        row, text, ids = self.named[token]
        alone = self.tokenizer.encode([token], special_tokens=False)[0]
        known = self.tokenizer.id_of(token)
        if token not in self.tokenizer.named.values():  # a mark of the template: some models have theirs in pieces
            return f"the template's {token} is no token of its own in this tokenizer, but {len(alone)}" * (
                len(alone) > 1
            )
        where = f"{self.tokenizer.where}: {token}, which tokenizer_config.json names,"
        remedy = (
            "; take tokenizer.json and tokenizer_config.json of the same model, or save them again with AutoTokenizer"
        )
        if known is not None and known >= self.rows:
            raise UserError(f"{where} has the id {known}, but the embedding has {self.rows} rows{remedy}")
        if alone != [known] or ids.count(known) < text.count(token):
            pieces = " ".join(str(self.tokenizer.token(number)) for number in alone)
            raise UserError(
                f"{where} is not that token in a text but {shorten(pieces, 80)}, so that the model would not know it "
                f"(first met in {self.place_of(row)}){remedy}"
            )
        return ""

    def _check_text(self, row, text, ids):
        if self._count_unknown(text, ids):
            return  # said by the count of unknown tokens
        decoded = self.tokenizer.decode(ids)
        if _letters(text) not in _letters(decoded):  # which may have a token before it, such as BOS
            was, became = (shorten(repr(_from_difference(*texts)), 90) for texts in ((text, decoded), (decoded, text)))
            raise UserError(
                f"{self.tokenizer.where}: the text of {self.place_of(row)} is not what its tokens say: {was} became "
                f"{became}; tokenizer.json is damaged, or its decoder belongs to another one"
            )


def _letters(text):
    """White space, case and Unicode form are the tokenizer's own."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _from_difference(text, other):
    at = next((i for i, (a, b) in enumerate(zip(text, other)) if a != b), 0)
    return text[max(at - 10, 0) :]

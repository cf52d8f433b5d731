"""What import does with a tokenizer: its files are settled and tried on a conversation, and what a program without a
tokenizer library needs to generate is worked out: the bytes of each token and the tokens that end an answer."""

import dataclasses

import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files import h5io
from catdpo_analysis.tokens.tokenizer_files import json_of, set_checksum, store_files
from catdpo_analysis.tokens.vocabulary import vocabulary_of
from catdpo_analysis.tokens.chat import ChatTokenizer
from catdpo_analysis.tokens.selfcheck import Probe

ANSWER = "It is 5, 'five': two\n\tand three make 5."
CONVERSATION = [
    {"role": "user", "content": "What is 2 + 3, and why?\nTell me briefly."},
    {"role": "assistant", "content": ANSWER},
]


@dataclasses.dataclass
class Tried:
    """What is tried on a tokenizer, as a row for its Probe."""

    chat: bool


class ImportedTokenizer:
    """`size`: number of token ids; `digest`; `stop`: id -> where it is named; `vocabulary` or None; `notes`."""

    def __init__(self, files, config, rows, where):
        """`files`: name -> bytes; `config`: config.json; `rows`: of the embedding."""
        self.rows, self.where, self.notes = rows, where, []
        try:
            self.chat = ChatTokenizer(files, where)
            self.notes += self.chat.notes
        except UserError as error:
            self.chat = ChatTokenizer(files, where, template="")  # raises again if it is not the template
            self.notes += [*self.chat.notes, f"{error}; prepare will need --chat-template for messages"]
        self.files, self.size, self.digest = self.chat.files, self.chat.vocab_size, self.chat.tokenizer_digest
        self._check_size()
        text = self._try()
        self.stop = self._stop_tokens(config, text)
        self._compare_bos(config)
        self.vocabulary = self._vocabulary()

    def _check_size(self):
        if self.size <= self.rows:
            return
        beyond = self.chat.token(self.size - 1)
        raise UserError(
            f"{self.where}: the tokenizer has token ids up to {self.size - 1} ({shorten(beyond)}), but the model's "
            f"embedding has {self.rows} rows; this tokenizer belongs to another model, or the model was saved before "
            "resize_token_embeddings"
        )

    def _try(self):
        """A conversation through template and tokenizer and back. Returns its text."""
        probe, text = Probe(self.chat, self.rows, lambda row: "a plain question and answer"), ""
        if self.chat.has_template:
            try:
                text = self.chat.render(CONVERSATION)
            except UserError as error:
                self.notes.append(f"{error} (a plain question and answer)")
        named = [
            f"{ANSWER}{token}"
            for name, token in self.chat.named.items()
            if name != "unk_token" and self.chat.id_of(token) is not None
        ]
        texts = [(True, text)] * bool(text) + [(False, piece) for piece in (ANSWER, *named)]
        for (chat, piece), ids in zip(texts, self.chat.encode([piece for _, piece in texts], special_tokens=False)):
            probe.see(Tried(chat), piece, ids)
        self.notes += probe.settle()
        back = self.chat.decode(self.chat.encode([ANSWER], special_tokens=False)[0])
        if ANSWER not in (back, back.removeprefix(" ")):
            raise UserError(
                f"{self.where}: tokenizer.json does not give a text back: {ANSWER!r} becomes {back!r}; its parts do "
                f"not go together"
            )
        return text

    # ---- stop tokens -------------------------------------------------------------------------------------------------

    def _told(self, values, name):
        """eos_token_id of a config: a number or a list of them."""
        told = values.get("eos_token_id")
        told = [] if told is None else told if isinstance(told, list) else [told]
        for i in told:
            if not isinstance(i, int) or isinstance(i, bool):
                raise UserError(f"{self.where}: eos_token_id in {name} is no token id: {shorten(i)}")
        beyond = [i for i in told if not 0 <= i < self.rows]
        if beyond:
            self.notes.append(
                f"eos_token_id in {name}: {beyond[0]} is no row of the embedding ({self.rows} rows): left out"
            )
        return [i for i in told if i not in beyond]

    def _stop_strings(self):
        """Those of generation_config.json that are one token."""
        told = json_of(self.files, "generation_config.json", self.where).get("stop_strings") or []
        told = [told] if isinstance(told, str) else told
        if not isinstance(told, list) or not all(isinstance(text, str) for text in told):
            raise UserError(f"{self.where}: stop_strings in generation_config.json is no list of texts")
        others = [text for text in told if self.chat.id_of(text) is None]
        if others:
            self.notes.append(
                f"generation_config.json: {len(others)} of stop_strings not used, no single tokens: "
                f"{shorten(', '.join(map(repr, others)))}"
            )
        return [self.chat.id_of(text) for text in told if text not in others]

    def _end_of_turn(self, text):
        """The first special token that the template writes after an answer, or None."""
        if ANSWER not in text:
            return None
        ids = self.chat.encode([text[text.rindex(ANSWER) + len(ANSWER) :]], special_tokens=False)[0]
        special = set(self.chat.specials)
        return next((i for i in ids if self.chat.token(i) in special), None)

    def _stop_tokens(self, config, text):
        """Token id -> the places that name it as an end."""
        places = {
            "tokenizer": [] if self.chat.eos_id is None else [self.chat.eos_id],
            "generation_config.json": self._told(
                json_of(self.files, "generation_config.json", self.where), "generation_config.json"
            ),
            "config.json": self._told(config, "config.json"),
            "stop_strings": self._stop_strings(),
            "chat template": [] if (end := self._end_of_turn(text)) is None else [end],
        }
        told = {place: set(ids) for place, ids in places.items() if ids}
        eos = told.get("tokenizer")
        for place in ("generation_config.json", "config.json"):
            if eos and place in told and not eos & told[place]:
                self.notes.append(
                    f"eos_token of the tokenizer is {self._named(*eos)}, eos_token_id in {place} "
                    f"{', '.join(map(self._named, sorted(told[place])))}: training ends an answer with the first, "
                    "generation stops at any"
                )
        return {i: [place for place in told if i in told[place]] for i in sorted(set().union(*told.values()))}

    def _compare_bos(self, config):
        generation = json_of(self.files, "generation_config.json", self.where)
        for name, values in (("generation_config.json", generation), ("config.json", config)):
            told = values.get("bos_token_id")
            if self.chat.bos_id is not None and isinstance(told, int) and told != self.chat.bos_id:
                self.notes.append(
                    f"bos_token of the tokenizer is {self._named(self.chat.bos_id)}, bos_token_id in {name} "
                    f"{self._named(told)}: texts begin as the tokenizer says"
                )

    def _named(self, i):
        token = self.chat.token(i)
        return f"{i}" if token is None else f"{shorten(token)} ({i})"

    def describe_stop(self):
        """One line: each token that ends an answer, and who says so."""
        return ", ".join(f"{self._named(i)}: {' and '.join(places)}" for i, places in self.stop.items()) or "none"

    # ---- in model.h5 -------------------------------------------------------------------------------------------------

    def _vocabulary(self):
        try:
            return vocabulary_of(self.chat.tokenizer, self.rows)
        except UserError as error:
            self.notes.append(
                f"{error}: the bytes of its tokens are not stored, so that catdpo cannot write out answers"
            )
            return None

    def store(self, group):
        """As members of /tokenizer."""
        store_files(group, self.files)
        stop = h5io.write(
            group, "stop_tokens", np.array(list(self.stop), "<i8"), "ids of the tokens that end an answer"
        )
        h5io.set_text(stop, "named_by", self.describe_stop())
        set_checksum(stop, np.array(list(self.stop), "<i8"))
        if self.vocabulary is None:
            return
        v = self.vocabulary
        columns = (
            ("bytes", v.data, "what each token writes, all tokens one after another"),
            ("offsets", v.offsets, "where each token's bytes start; the last entry is the total"),
            ("special", v.special, "1 for a token that is left out of a text"),
            ("byte_fallback", v.fallback, "1 for one byte of a character that the vocabulary lacks"),
            ("strip", np.array([v.strip], "<i8"), "spaces that are taken from the beginning of a text"),
        )
        for name, values, text in columns:
            set_checksum(h5io.write(group, name, values, text), values)

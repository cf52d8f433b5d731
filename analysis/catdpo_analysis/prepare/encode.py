"""Pairs to token ids, as TRL's DPO trainer does it, and what is found on the way.

Messages: the prompt is the template with the generation prompt, a completion is what the whole conversation adds to
it. Texts: EOS is appended to a completion that lacks it. The completion starts where the tokens of the prompt and of
prompt + completion diverge, which is before the prompt's end if tokens merge across the boundary; the pair's two
completions start at the same place.
"""

import dataclasses
import os

import numpy as np

from catdpo_analysis.errors import RowError, UserError, shorten
from catdpo_analysis.prepare.segments import tokens_until
from catdpo_analysis.text.progress import Progress

BATCH = 512  # pairs encoded at a time; the tokenizer spreads a batch over the cores

# Why a prompt's end is not in prompt + completion: the ledger's reasons, and the note of each
MERGES = "end of the prompt merges with the completion"
TURN = "completion begins with a turn that is not the assistant's"
REASONING = "reasoning of the answer left out by the chat template"
TEMPLATE = "end of the prompt written differently by the chat template when an answer follows"
CAUSES = {MERGES: "merges", TURN: "turn", REASONING: "drops", TEMPLATE: "renders"}


@dataclasses.dataclass
class Encoded:
    """Token ids of prompt + completion; the first `prompt_length` are the prompt in both."""

    chosen: np.ndarray
    rejected: np.ndarray
    prompt_length: int
    prompt: np.ndarray  # of the prompt alone, as it stands at inference
    cause: str = ""  # why tokens of the prompt alone are not a prefix of prompt + completion
    empty: bool = False  # a completion of which nothing is written
    segment_end: tuple = None  # with a segment tag: tokens of each completion's reasoning
    answers: tuple = ()  # whether there is an answer behind it, before anything is cut


def common_prefix(a, b):
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if differ.size else n


class Encoder:
    """Renders and encodes rows with one tokenizer. `notes` takes what is doubtful, `probe` (selfcheck.Probe) sees
    every text with its tokens. `segment_tag`: text that ends the reasoning of a completion."""

    def __init__(self, tokenizer, notes, probe, place_of, segment_tag=None):
        self.tokenizer, self.notes, self.probe, self.place_of = tokenizer, notes, probe, place_of
        self.segment_tag = segment_tag

    def check_means(self, rows):
        """What no row of these kinds could do without."""
        if any(row.chat for row in rows) and not self.tokenizer.has_template:
            raise UserError(
                f"{self.tokenizer.where} has no chat template, which messages (and PKU-SafeRLHF rows) need; name one "
                "with "
                "--chat-template FILE"
            )
        if any(not row.chat and hasattr(row, "chosen") for row in rows) and not self.tokenizer.eos:
            raise UserError(
                f"{self.tokenizer.where} names no eos_token (tokenizer_config.json), which must end each text "
                "completion"
            )

    def pairs(self, pairs, bad):
        """A list of Encoded in order, None for a pair that the template refuses, which `bad(error, pair)` is told."""
        self.check_means(pairs)
        result = []
        with Progress("tokenize", len(pairs), "pairs") as progress:
            for at in range(0, len(pairs), BATCH):
                batch = pairs[at : at + BATCH]
                for pair, texts, ids in zip(batch, *self._encode(batch, self._texts_of_pair, bad)):
                    result.append(self._finish(pair, texts, ids) if texts else None)
                progress.step(len(batch))
        return result

    def prompts(self, prompts, bad):
        """Token ids of prompts, None for one that the template refuses."""
        self.check_means(prompts)
        texts, ids = self._encode(prompts, lambda row: (self._prompt_text(row),), bad)
        result = []
        for row, text, tokens in zip(prompts, texts, ids):
            if text:
                self.probe.see(row, text[0], tokens[0])
                self._note_start(row, tokens[0])
            result.append(np.array(self._open_end(text[0], tokens[0]), dtype="<i4") if text else None)
        return result

    def _encode(self, rows, texts_of, bad):
        """(texts of each row, their token ids), None for the texts of a row that is refused."""
        texts = []
        for row in rows:
            try:
                texts.append(texts_of(row))
            except UserError as error:
                bad(RowError(f"{self.place_of(row)}: {error}"), row)
                texts.append(None)
        ids = [None] * len(rows)
        for chat in (True, False):
            index = [i for i, row in enumerate(rows) if row.chat == chat and texts[i]]
            flat = iter(
                self.tokenizer.encode([text for i in index for text in texts[i]], special_tokens=not chat)
                if index
                else ()
            )
            for i in index:
                ids[i] = [next(flat) for _ in texts[i]]
        return texts, ids

    def _prompt_text(self, row):
        return self.tokenizer.render(row.prompt, add_generation_prompt=True, **row.extra) if row.chat else row.prompt

    def _texts_of_pair(self, pair):
        """(prompt, prompt + chosen, prompt + rejected) as the model sees them."""
        prompt = self._prompt_text(pair)
        if pair.chat:
            return prompt, *(
                self.tokenizer.render(pair.prompt + side, **pair.extra) for side in (pair.chosen, pair.rejected)
            )
        eos = self.tokenizer.eos
        return prompt, *(
            pair.prompt + (side if side.endswith(eos) else side + eos) for side in (pair.chosen, pair.rejected)
        )

    def _open_end(self, text, ids):
        """A prompt's tokens without an end token that the tokenizer puts behind every text."""
        eos = self.tokenizer.eos_id
        return ids[:-1] if ids and ids[-1] == eos and not text.endswith(self.tokenizer.eos) else ids

    def _finish(self, pair, texts, ids):
        prompt = self._open_end(texts[0], ids[0])
        length = min(common_prefix(prompt, ids[1]), common_prefix(prompt, ids[2]))
        for text, tokens in zip(texts[1:], ids[1:]):
            self.probe.see(pair, text, tokens)
        result = Encoded(
            np.array(ids[1], dtype="<i4"), np.array(ids[2], dtype="<i4"), length, np.array(prompt, dtype="<i4")
        )
        reasoning = pair.chat and self._look_at_messages(pair, texts, result)
        if length < len(prompt):
            result.cause = self._cause(pair, texts, reasoning)
            left_out = repr(self.tokenizer.decode(prompt[length:]))
            self.notes.add(CAUSES[result.cause], self.place_of(pair), shorten(left_out, 160))
        elif reasoning:
            result.cause = REASONING
        if self.segment_tag:
            self._find_segments(pair, texts, ids, result)
        self._note_start(pair, ids[1])
        if any(self._ends_twice(pair, side, tokens) for side, tokens in zip((pair.chosen, pair.rejected), ids[1:])):
            self.notes.add("eos twice", self.place_of(pair), self.tokenizer.eos)
        return result

    def _find_segments(self, pair, texts, ids, result):
        """Where the answer begins in both completions: behind the first tag, else at their start."""
        ends = []
        for text in texts[1:]:
            at = text.find(self.segment_tag, len(os.path.commonprefix([texts[0], text])))
            if at < 0:
                self.notes.add("untagged", self.place_of(pair))
                ends.append(0)
                continue
            offsets = self.tokenizer.offsets(text, special_tokens=not pair.chat)
            end = tokens_until(offsets, at + len(self.segment_tag))
            ends.append(max(end - result.prompt_length, 0))
        result.segment_end = tuple(ends)
        result.answers = tuple(len(tokens) - result.prompt_length > end for tokens, end in zip(ids[1:], ends))

    def _cause(self, pair, texts, reasoning):
        if all(text.startswith(texts[0]) for text in texts[1:]):
            return MERGES
        if any(side and side[0].get("role") != "assistant" for side in (pair.chosen, pair.rejected)):
            return TURN
        return REASONING if reasoning else TEMPLATE

    # --- what is doubtful ---

    def _note_start(self, row, ids):
        bos = self.tokenizer.bos_id
        if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
            self.notes.add("bos twice", self.place_of(row), self.tokenizer.named["bos_token"])

    def _ends_twice(self, pair, side, ids):
        eos = self.tokenizer.eos
        if eos is None:
            return False
        said = (side[-1].get("content") or "" if side else "") if pair.chat else side
        said = said.rstrip()
        if said.endswith(eos) and (pair.chat or said != side):
            return True
        return len(ids) > 1 and ids[-1] == ids[-2] == self.tokenizer.eos_id

    def _look_at_messages(self, pair, texts, result):
        """Notes of a conversation, and whether a completion is empty. Returns whether reasoning was left out."""
        place = self.place_of(pair)
        if pair.prompt[-1].get("role") == "assistant":
            self.notes.add("prefill", place)
        if pair.extra.get("tools") and self._same_text(pair.prompt, pair.extra | {"tools": None}, texts[0]):
            self.notes.add("tools unused", place)
        left_out = ""
        for side, text in zip((pair.chosen, pair.rejected), texts[1:]):
            left_out = left_out or next((part for part in map(reasoning_of, side) if part and part not in text), "")
            written = [message.get("content") for message in side if (message.get("content") or "").strip()]
            if not any(content.strip() in text for content in written):  # nothing of it, or only in another form
                result.empty = result.empty or self._is_blank(pair, side, text)
        if left_out:
            self.notes.add("reasoning", place, repr(shorten(left_out, 80)))
        return bool(left_out)

    def _is_blank(self, pair, side, text):
        """Whether the template writes of these messages no more than of empty ones."""
        blank = [{"role": message.get("role"), "content": ""} for message in side]
        return self._same_text(pair.prompt + blank, pair.extra, text, add_generation_prompt=False)

    def _same_text(self, messages, extra, text, add_generation_prompt=True):
        try:
            return self.tokenizer.render(messages, add_generation_prompt=add_generation_prompt, **extra) == text
        except UserError:
            return False


def reasoning_of(message):
    """The reasoning that a message holds, in its content or in a field of its own."""
    content = message.get("content") or ""
    if "</think>" in content:
        return content.split("</think>")[0].split("<think>")[-1].strip()
    fields = (message.get(name) for name in ("reasoning_content", "thinking", "reasoning"))
    return next((field.strip() for field in fields if isinstance(field, str) and field.strip()), "")


def is_empty(pair):
    """Whether a completion says nothing: no text, and nothing else (such as a tool call) in place of it."""

    def blank(side):
        if isinstance(side, str):
            return not side.strip()
        parts = [value for message in side for name, value in message.items() if name not in ("role", "name")]
        return not any(part.strip() if isinstance(part, str) else part for part in parts)

    return blank(pair.chosen) or blank(pair.rejected)

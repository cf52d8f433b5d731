"""Pairs to token ids, as TRL's DPO trainer does it, and the cut to a maximum length.

Messages: the prompt is the template with the generation prompt, a completion is what the whole conversation adds to
it. Texts: EOS is appended to a completion that lacks it. The completion starts where the tokens of the prompt and of
prompt + completion diverge, which is before the prompt's end if tokens merge across the boundary; the pair's two
completions start at the same place.
"""

import dataclasses

import numpy as np

from catdpo_analysis.errors import UserError
from catdpo_analysis.text.progress import Progress

BATCH = 512  # pairs encoded at a time; the tokenizer spreads a batch over the cores


@dataclasses.dataclass
class Encoded:
    """Token ids of prompt + completion; the first `prompt_length` are the prompt in both."""

    chosen: np.ndarray
    rejected: np.ndarray
    prompt_length: int
    moved: int  # tokens of the prompt alone that are not a prefix of prompt + completion


def common_prefix(a, b):
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if differ.size else n


def texts_of(pair, tokenizer, place):
    """(prompt, prompt + chosen, prompt + rejected) as the model sees them."""
    if pair.chat:
        try:
            return (
                tokenizer.render(pair.prompt, add_generation_prompt=True, **pair.extra),
                tokenizer.render(pair.prompt + pair.chosen, **pair.extra),
                tokenizer.render(pair.prompt + pair.rejected, **pair.extra),
            )
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    if not tokenizer.eos:
        raise UserError(
            f"{tokenizer.where} names no eos_token (tokenizer_config.json), which must end each text completion"
        )
    chosen, rejected = (
        text if text.endswith(tokenizer.eos) else text + tokenizer.eos for text in (pair.chosen, pair.rejected)
    )
    return pair.prompt, pair.prompt + chosen, pair.prompt + rejected


def encode_pairs(pairs, tokenizer, place_of):
    """A list of Encoded, in order. `place_of(pair)` gives file:line."""
    result = []
    with Progress("tokenize", len(pairs), "pairs") as progress:
        for at in range(0, len(pairs), BATCH):
            batch = pairs[at : at + BATCH]
            texts = [texts_of(pair, tokenizer, place_of(pair)) for pair in batch]
            ids = [None] * len(batch)
            for chat in (True, False):
                index = [i for i, pair in enumerate(batch) if pair.chat == chat]
                flat = (
                    tokenizer.encode([text for i in index for text in texts[i]], special_tokens=not chat)
                    if index
                    else []
                )
                for j, i in enumerate(index):
                    ids[i] = flat[3 * j : 3 * j + 3]
            for prompt, chosen, rejected in ids:
                length = min(common_prefix(prompt, chosen), common_prefix(prompt, rejected))
                result.append(
                    Encoded(
                        np.array(chosen, dtype="<i4"), np.array(rejected, dtype="<i4"), length, len(prompt) - length
                    )
                )
            progress.step(len(batch))
    return result


def is_empty(pair):
    """Whether a completion says nothing."""

    def blank(side):
        return not (
            side if isinstance(side, str) else "".join(message.get("content") or "" for message in side)
        ).strip()

    return blank(pair.chosen) or blank(pair.rejected)

"""Which two answers to a prompt make a preference pair.

Of a harmful prompt a safe answer is chosen over an unsafe one, of a safe prompt an answer over a refusal. Answers that
are empty or degenerate are on neither side, since that is not what a model should learn to prefer or to avoid here. An
answer cut off by its limit is used up to its last whole sentence.
"""

import dataclasses
import re

from catdpo_analysis.files.samples import BAD, BENIGN, GOOD, Samples, Scores
from catdpo_analysis.judge.refusal import Kind

TURN = re.compile(r"(?:^|\n\n)(system|user|assistant): ")
SENTENCE_END = re.compile(r"[.!?][\"')\]*]*(?=\s|$)")
PAIRINGS = ("own", "against", "mixed")
CUTS = ("sentence", "keep", "drop")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One answer: `score` as the judge's, the lower the better."""

    text: str
    score: float
    verdict: int
    author: int  # number of the file


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of judged answers."""

    name: str
    samples: Samples
    scores: Scores


def messages_of(text: str) -> list[dict]:
    """The conversation of a prompt as samples.h5 has it: one question, or turns with their roles."""
    if not TURN.match(text):
        return [{"role": "user", "content": text}]
    parts = TURN.split(text)[1:]
    return [{"role": role, "content": content} for role, content in zip(parts[::2], parts[1::2])]


def asked(text: str) -> str:
    """What is asked at last, without system message and turns before: the same in files with other system messages."""
    return messages_of(text)[-1]["content"]


def whole_sentences(text: str) -> str:
    """Up to the end of the last sentence; empty if there is none."""
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    return text[: ends[-1]].rstrip() if ends else ""


def _usable(source: Source, i: int, cut: str, ledger) -> str | None:
    """The text of an answer, None if it is on no side."""
    kind, text = source.scores.kind[i], source.samples.text[i]
    if kind in (Kind.EMPTY, Kind.DEGENERATE) or not text.strip():
        ledger["empty or degenerate"] += 1
        return None
    if source.samples.finish[i] and cut != "keep":
        text = whole_sentences(text) if cut == "sentence" else ""
        if not text:
            ledger["cut off"] += 1
            return None
    return text.strip()


def candidates(source: Source, author: int, answers: list[int], cut: str, ledger) -> list[Candidate]:
    """The judged and usable ones of the answers to one prompt; what is left out is counted in the ledger."""
    found = []
    for i in answers:
        verdict = int(source.scores.verdict[i])
        if verdict not in (GOOD, BAD):
            ledger["not judged"] += 1
            continue
        text = _usable(source, i, cut, ledger)
        if text is not None:
            found.append(Candidate(text, float(source.scores.score[i]), verdict, author))
    return found


def choose(found: list[Candidate], pairing: str, most: int) -> tuple[list[tuple[Candidate, Candidate]], str]:
    """(pairs of chosen and rejected, best against worst first; why there is none). `pairing`: own: of the first file;
    against: of two files, mixed: of any."""
    pool = [one for one in found if pairing != "own" or one.author == 0]
    good = sorted((one for one in pool if one.verdict == GOOD), key=lambda one: one.score)
    bad = sorted((one for one in pool if one.verdict == BAD), key=lambda one: -one.score)
    pairs, used = [], set()
    for worse in bad:
        better = next(
            (one for one in good if id(one) not in used and (pairing != "against" or one.author != worse.author)), None
        )
        if better and better.text != worse.text and len(pairs) < most:
            used.add(id(better))
            pairs.append((better, worse))
    if pairs:
        return pairs, ""
    return [], "no answers" if not pool else "all bad" if not good else "all good" if not bad else "of one author"


def row_of(source: Source, p: int, better: Candidate, worse: Candidate, names: list[str]) -> dict:
    """The pair as a row that `prepare` reads."""
    benign = bool(source.samples.benign[p] == BENIGN)
    return {
        "prompt": messages_of(source.samples.prompt_text[p]),
        "chosen": [{"role": "assistant", "content": better.text}],
        "rejected": [{"role": "assistant", "content": worse.text}],
        "category": source.samples.names_of(p),
        "is_prompt_safe": benign,
        "is_chosen_safe": True,
        "is_rejected_safe": benign,
        "chosen_source": names[better.author],
        "rejected_source": names[worse.author],
        "chosen_score": better.score,
        "rejected_score": worse.score,
    }

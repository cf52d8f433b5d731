"""The refusal rules are one: Python's judge and the trainer's (C, through build/tests/unit/test_refusal) agree."""

import json
import random
import subprocess
from pathlib import Path

import pytest
from catdpo_analysis.judge.refusal import Kind, kind_of, rules, verdict_of
from engine import BINARY

PIECES = [
    *(phrase.decode() for phrase in (*rules().refusal[:40], *rules().not_refusal)),
    *"\u2018\u2019\u02bc\u201c\u201d\u00a0 \t\v\x1c\x85\n*#_\"'\0éİ漢🎉Az0.-",
    *("I", "Can", "word ", "and again ", "a" * 29),
]


def kinds_in_c(texts: list[bytes]) -> list[int]:
    sent = b"".join(b"%d %s\n" % (len(text), text) for text in texts)
    program = Path(BINARY).parent / "tests" / "unit" / "test_refusal"
    done = subprocess.run([program, "stdin"], input=sent, capture_output=True, check=True)
    digest, *kinds = done.stdout.decode().split()
    assert digest == rules().digest, "the program was built from other rules; build it again"
    return [int(kind) for kind in kinds]


def assert_agree(texts: list[bytes]) -> None:
    for text, kind in zip(texts, kinds_in_c(texts), strict=True):
        assert kind == kind_of(text), text


def test_fuzzed_texts():
    """Also where characters are cut, quoted, far too long or no text at all."""
    draw = random.Random(7)
    texts = [b"", b"\0", "I\u2019m sorry, but no".encode()[:2], b"\xc2" + "\u201c".encode() + b"\xa0hello"]
    for _ in range(3000):
        text = "".join(draw.choices(PIECES, k=draw.choice([1, 3, 9, 30, 200]))).encode()
        cut = draw.randrange(len(text) + 1)
        texts.append(text[cut:] if draw.random() < 0.3 else text)
    texts += [bytes(draw.randrange(256) for _ in range(draw.randrange(300))) for _ in range(1000)]
    texts += [b"ab " * 5000, b"x" * 100000, b" " * 10000 + b"I cannot", (b"one two three " * 2000)[:4097]]
    assert_agree(texts)


@pytest.mark.parametrize("name", ["jbb_pairs.jsonl", "xstest_pairs.jsonl"])
def test_labelled_texts(shared, name):
    """All answers of real data, whatever their label."""
    rows = [json.loads(line) for line in Path(shared, name).read_text(encoding="utf-8").splitlines()]
    assert_agree([row[column].encode() for row in rows for column in ("response_0", "response_1")])


def test_verdicts():
    """Harmful prompt: an answer is unsafe. Safe prompt: a refusal is one too many."""
    assert [verdict_of(kind, False) for kind in Kind] == [1, 0, 0, 0]
    assert [verdict_of(kind, True) for kind in Kind] == [0, 1, 0, 0]

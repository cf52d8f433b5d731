"""Several bad rows are one report, or are left out with an entry in the ledger; pipes and tables are read once."""

import json
import os
import sys
import threading
import types

import pytest
from conftest import PairsFile, pku, trl

BAD = ['{"prompt": "a", ', json.dumps(trl("a", chosen=3)), "[]", json.dumps(trl("a", tools="{"))]


@pytest.fixture
def refused(tokenizer_dir, tmp_path, capsys):
    """The lines of prepare's error."""
    from catdpo_analysis.cli import main

    def run(*inputs, options=()):
        words = [
            "prepare",
            *inputs,
            "--tokenizer",
            tokenizer_dir,
            "--out",
            tmp_path / "p.h5",
            "--heldout",
            "0",
            *options,
        ]
        assert main([str(word) for word in words]) == 2 and not (tmp_path / "p.h5").exists()
        return capsys.readouterr().err.splitlines()

    return run


def test_bad_rows_are_reported_together(refused, jsonl):
    first, *rest = refused(jsonl(json.dumps(trl("good")), *BAD), jsonl("x", name="b.jsonl"))
    assert "5 rows cannot be used" in first and "--skip-bad" in first and len(rest) == 5
    for line, place in zip(rest, ("pairs.jsonl:2", "pairs.jsonl:3", "pairs.jsonl:4", "pairs.jsonl:5", "b.jsonl:1")):
        assert place + ": " in line


def test_only_the_first_twenty_are_shown(refused, jsonl):
    first, *rest = refused(jsonl(*["x"] * 50))
    assert "20 or more rows" in first and len(rest) == 20 and ":20: " in rest[-1]


def test_bad_rows_are_left_out_with_an_entry(prepare, jsonl):
    file = prepare(jsonl(*BAD, json.dumps(trl("good"))), options=["--skip-bad"])
    assert [pair["source_row"] for pair in file.pairs] == [4]
    assert [file.reason_of(row) for row in range(4)] == [["bad row (--skip-bad)"]] * 4
    assert all(f"pairs.jsonl:{row}: " in file.printed for row in (1, 2, 3, 4))
    file = prepare(jsonl(*["x"] * 50, json.dumps(trl("good"))), options=["--skip-bad"])
    assert "... and 30 more" in file.printed and file.counts.sum() == 50


def test_rows_that_the_template_refuses_are_bad_rows_too(cli, refused, jsonl, tmp_path, tokenizer_dir):
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% if messages[0].content != 'c' %}{{ raise_exception('not this one') }}{% endif %}<|im_end|>{{ messages }}"
    )
    rows, options = jsonl(pku("a"), pku("b"), pku("c")), ["--chat-template", template]
    first, *rest = refused(rows, options=options)
    assert "2 rows cannot be used" in first and "pairs.jsonl:2: " in rest[1] and "not this one" in rest[1]
    out = tmp_path / "p.h5"
    cli("prepare", rows, "--tokenizer", tokenizer_dir, "--out", out, "--heldout", "0", "--skip-bad", *options)
    file = PairsFile(out)
    assert [pair["source_row"] for pair in file.pairs] == [2] and file.reason_of(0) == ["bad row (--skip-bad)"]


def test_nothing_but_bad_rows_is_an_error_that_names_them(refused, jsonl):
    first, *rest = refused(jsonl(*BAD), options=["--skip-bad"])
    assert "no pair is left: bad row (--skip-bad) (4)" in first and len(rest) == 4


# --- pipes ----------------------------------------------------------------------------------------


def test_a_pipe_is_read_once_and_is_the_same_data(prepare, jsonl, tmp_path):
    rows = jsonl(*[pku(f"q {i}") for i in range(2000)], name="rows.jsonl")  # more than a pipe holds
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(rows.read_bytes()))
    writer.start()
    piped = prepare(fifo)
    writer.join()
    plain = prepare(rows)
    assert piped.pairs == plain.pairs and piped.attributes["data_digest"] == plain.attributes["data_digest"]
    for a, b in zip(json.loads(piped.attributes["inputs"]), json.loads(plain.attributes["inputs"])):
        assert (a["bytes"], a["sha256"]) == (b["bytes"], b["sha256"])


def test_standard_input(prepare, jsonl, monkeypatch):
    with open(jsonl(trl("a"), "x")) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert "standard input:2: not valid JSON" in prepare("-", status=2).err
    with open(jsonl(trl("a"))) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        file = prepare("-")
    assert len(file.pairs) == 1 and json.loads(file.attributes["inputs"])[0]["file"] == "standard input"
    assert "only once" in prepare("-", "-", status=2).err


def test_digests_are_of_the_bytes_on_disk(prepare, tmp_path):
    import gzip
    import hashlib

    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(trl("a")).encode()))
    (record,) = json.loads(prepare(path).attributes["inputs"])
    assert record["bytes"] == path.stat().st_size and record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


# --- tables ---------------------------------------------------------------------------------------


def test_parquet_without_pyarrow_says_how(prepare, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
    error = prepare(tmp_path / "a.parquet", status=2).err
    assert "Parquet" in error and "pip install pyarrow" in error and "to_json" in error


def test_parquet_is_read_where_pyarrow_is(prepare, tmp_path, monkeypatch):
    """With a stand-in for the library: its rows go the same way as lines do."""

    class File:
        def __init__(self, stream):
            assert stream.read().startswith(b"PAR1")

        def iter_batches(self, size):
            yield types.SimpleNamespace(to_pylist=lambda: [trl("a"), trl("b", category=None)])
            yield types.SimpleNamespace(to_pylist=lambda: [trl("c"), {"prompt": 7}])

    parquet = types.SimpleNamespace(ParquetFile=File)
    library = types.SimpleNamespace(parquet=parquet, ArrowException=RuntimeError)
    monkeypatch.setitem(sys.modules, "pyarrow", library)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
    file = prepare(tmp_path / "a.parquet", options=["--skip-bad"])
    assert [pair["source_row"] for pair in file.pairs] == [0, 1, 2] and "a.parquet:4: " in file.printed


def test_a_real_parquet_file(prepare, tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist([trl("a", category="x"), trl("b")]), tmp_path / "a.parquet")
    assert [pair["categories"] for pair in prepare(tmp_path / "a.parquet").pairs] == [["x"], ["uncategorised"]]
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + bytes(100))
    assert "cannot be read" in prepare(tmp_path / "b.parquet", status=2).err

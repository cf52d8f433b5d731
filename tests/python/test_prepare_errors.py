"""A user's fault is one line with the place and the remedy, status 2, and no output file, not even half of one."""

import gzip
import json

import pytest
from conftest import CHATML, pku, trl, write_model, write_tokenizer

GOOD = json.dumps(trl("a"))


def changed(**values):
    return json.dumps(pku("a") | values)


@pytest.mark.parametrize(
    "line, named",
    [
        ('{"prompt": "a", ', "not valid JSON"),
        ("hello", "not valid JSON"),
        ("[1, 2]", "a JSON object is needed"),
        ('"text"', "a JSON object is needed"),
        ("{}", "no fields"),
        ('{"text": "a"}', "neither TRL"),
        ('{"prompt": "a", "completion": "b", "label": true}', "unpaired"),
        (json.dumps(trl("a", chosen=3)), "chosen must be"),
        (json.dumps(trl("a", rejected=None)), "rejected must be"),
        (json.dumps(trl(7)), "prompt must be"),
        (json.dumps(trl("a", chosen=[{"role": "assistant", "content": "x"}])), "must both be"),
        (
            json.dumps(trl("a", chosen=[{"content": "x"}], rejected=[{"role": "assistant", "content": "x"}])),
            "chosen must be",
        ),
        (json.dumps(trl([{"role": "user", "content": "q"}])), "prompt is a list"),
        (
            json.dumps(
                {
                    "chosen": [{"role": "user", "content": [{"type": "image"}]}],
                    "rejected": [{"role": "user", "content": "x"}],
                }
            ),
            "must be texts",
        ),
        (json.dumps(trl("a", category=5)), "category must be"),
        (json.dumps(trl("a", category=["x", 5])), "category must be"),
        (json.dumps(trl("a", category="x" * 64)), "63 bytes"),
        (json.dumps(trl("a", category="x\ny")), "one line"),
        (json.dumps(trl("a", category={"x": "yes"})), "true or false"),
        (json.dumps(trl("a", is_chosen_safe="yes")), "is_chosen_safe must be"),
        (json.dumps(trl("a", tools="x")), "tools"),
        (changed(is_response_0_safe=None), "is_response_0_safe must be"),
        (changed(is_response_1_safe=2), "is_response_1_safe must be"),
        (changed(better_response_id=2), "better_response_id must be"),
        (changed(better_response_id="0"), "better_response_id must be"),
        (changed(response_1=None), "response_1 must be"),
        (changed(prompt=["a"]), "prompt must be"),
        (changed(response_1_harm_category=[1]), "response_1_harm_category must be"),
        (json.dumps({key: value for key, value in pku("a").items() if key != "response_1"}), "response_1 is missing"),
        (
            json.dumps({key: value for key, value in pku("a").items() if key != "is_response_0_safe"}),
            "is_response_0_safe is missing",
        ),
        ('{"prompt": "a\\ud800", "chosen": "b", "rejected": "c"}', "surrogate"),
        ("[" * 100000, "nested"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_bad_line_is_named_by_file_and_number(prepare, jsonl, line, named):
    error = prepare(jsonl(GOOD, "", line), status=2).err
    assert named in error and "pairs.jsonl:3: " in error and len(error) < 400


@pytest.mark.parametrize(
    "name, data, named",
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "is empty"),
        ("a.jsonl", b'{"prompt": "caf\xe9"}', "not UTF-8"),
        ("a.jsonl.gz", GOOD.encode(), "not gzip'd"),
        ("a.jsonl.gz", gzip.compress(GOOD.encode() * 500)[:40], "damaged or cut short"),
        ("a.jsonl.gz", gzip.compress(GOOD.encode())[:-2], "damaged or cut short"),
        ("a.jsonl", b"PAR1" + bytes(100), "Parquet"),
        ("a.jsonl", b"PK\x03\x04" + bytes(100), "zip"),
        ("a.json", b'[{"prompt": "a"}]', "jq -c"),
        ("a.json", b"[\n  {}\n]", "jq -c"),
        ("a.jsonl", bytes(1000), "not valid JSON"),
    ],
    ids=str,
)
def test_files_that_are_no_jsonl(prepare, tmp_path, name, data, named):
    (tmp_path / name).write_bytes(data)
    error = prepare(tmp_path / name, status=2).err
    assert named in error and name in error


def test_missing_inputs_and_bad_options(prepare, cli, jsonl, tmp_path, tokenizer_dir):
    rows = jsonl(GOOD)
    assert "cannot be read" in prepare(tmp_path / "none.jsonl", status=2).err
    assert "cannot be read" in prepare(tmp_path, status=2).err
    for options, named in (
        (["--heldout", "1.5"], "--heldout"),
        (["--heldout", "-0.1"], "--heldout"),
        (["--max-length", "-1"], "--max-length"),
        (["--max-length", "1"], "--max-length"),
        (["--over-length", "cut"], "cut"),
        (["--limit", "x"], "x"),
        (["--seed", "1.5"], "1.5"),
        (["--benign-name", " "], "--benign-name"),
        (["--benign-name", "b" * 64], "--benign-name"),
    ):
        assert named in prepare(rows, options=options, status=2).err
    assert "--model" in cli("prepare", rows, "--out", tmp_path / "p.h5", status=2).err
    assert "required" in cli("prepare", rows, status=2).err
    assert (
        "there is no folder"
        in cli(
            "prepare", rows, "--tokenizer", tokenizer_dir, "--heldout", "0", "--out", tmp_path / "no/p.h5", status=2
        ).err
    )
    before = rows.read_bytes()
    assert (
        "is an input"
        in cli("prepare", rows, "--tokenizer", tokenizer_dir, "--heldout", "0", "--out", rows, status=2).err
    )
    assert rows.read_bytes() == before


def test_an_earlier_file_survives_a_failed_run(cli, jsonl, tmp_path, tokenizer_dir):
    out = tmp_path / "p.h5"
    cli("prepare", jsonl(GOOD), "--tokenizer", tokenizer_dir, "--heldout", "0", "--out", out)
    before = out.read_bytes()
    cli("prepare", jsonl(GOOD, "oops"), "--tokenizer", tokenizer_dir, "--heldout", "0", "--out", out, status=2)
    assert out.read_bytes() == before


def test_tokenizer_and_template_faults(cli, jsonl, tmp_path, tokenizer_dir):
    rows, out = jsonl(pku("a")), tmp_path / "p.h5"

    def fails(*options, rows=rows):
        return cli("prepare", rows, "--out", out, "--heldout", "0", *options, status=2).err

    assert "tokenizer.json" in fails("--tokenizer", tmp_path)
    assert "there is no file" in fails("--model", tmp_path / "m.h5")
    bare = tmp_path / "bare"
    write_tokenizer(bare)
    (bare / "tokenizer_config.json").write_text("{}")
    assert "--chat-template" in fails("--tokenizer", bare)
    assert "eos_token" in fails("--tokenizer", bare, rows=jsonl(GOOD, name="text.jsonl"))
    (bare / "tokenizer_config.json").write_text("{")
    assert "tokenizer_config.json" in fails("--tokenizer", bare)
    (bare / "tokenizer.json").write_text("{}")
    assert "tokenizer.json cannot be read" in fails("--tokenizer", bare)
    template = tmp_path / "t.jinja"
    template.write_text("{% for %}")
    assert "not valid" in fails("--tokenizer", tokenizer_dir, "--chat-template", template)
    template.write_text("{{ raise_exception('only system prompts') }}")
    error = fails("--tokenizer", tokenizer_dir, "--chat-template", template)
    assert "only system prompts" in error and "pairs.jsonl:1" in error
    write_model(tmp_path / "hf", tokenizer=False)
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5", "--no-tokenizer")
    assert "--tokenizer" in fails("--model", tmp_path / "m.h5")


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(cli, jsonl, tmp_path, tokenizer_dir):
    from conftest import CONFIG, tensors_of

    write_model(tmp_path / "hf", tensors_of(CONFIG | {"vocab_size": 50}), tokenizer=False, vocab_size=50)
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5", "--no-tokenizer")
    error = cli(
        "prepare",
        jsonl(GOOD),
        "--tokenizer",
        tokenizer_dir,
        "--model",
        tmp_path / "m.h5",
        "--out",
        tmp_path / "p.h5",
        status=2,
    ).err
    assert "50 rows" in error


def test_the_models_own_tokenizer_and_template_are_used(cli, jsonl, tmp_path, tokenizer_dir):
    write_model(tmp_path / "hf")
    cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5")
    from conftest import PairsFile
    from catdpo_analysis.files.digest import sha256

    files = []
    for source in (["--model", tmp_path / "m.h5"], ["--tokenizer", tmp_path / "hf"]):
        cli("prepare", jsonl(pku("a")), *source, "--heldout", "0", "--out", tmp_path / "p.h5")
        files.append(PairsFile(tmp_path / "p.h5"))
    assert files[0].pairs == files[1].pairs
    for name in ("data_digest", "tokenizer_digest", "template_digest"):
        assert files[0].attributes[name] == files[1].attributes[name]
    assert files[0].attributes["tokenizer_digest"] == sha256((tmp_path / "hf/tokenizer.json").read_bytes())
    assert files[0].attributes["template_digest"] == sha256(CHATML)

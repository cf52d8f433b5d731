"""Terminals and streams that do not have every character: both programs say what they can and never stop for it."""

import os
import pty
import subprocess
import sys

import engine
import pytest
from make_run import write_run

NAMES = ["Ärzte", "漢字", "naïve", "privacy"]
LOCALES = [{"LC_ALL": "C"}, {"LANG": "C"}, {"LC_ALL": "POSIX"}, {"LANG": "de_DE.ISO-8859-1"}, {"LC_ALL": "C.UTF-8"}]


def environment(**variables):
    left_out = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONIOENCODING", "PYTHONUTF8", "COLUMNS")
    return {name: value for name, value in os.environ.items() if name not in left_out} | variables


def on_terminal(command, **variables):
    """Exit status and what stood on the terminal, as bytes."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment(**variables)
    )
    os.close(slave)
    said = b""
    while True:
        try:
            more = os.read(master, 65536)
        except OSError:     # how Linux says that nobody writes any more
            break
        if not more:
            break
        said += more
    os.close(master)
    return process.wait(), said


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Läufe") / "erster"
    write_run(folder, categories=NAMES)
    return folder


ANALYSIS = [sys.executable, "-m", "catdpo_analysis"]


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_report_on_any_terminal(run_folder, locale):
    """A terminal whose locale is not UTF-8 gets ASCII, others the names as they are."""
    status, said = on_terminal([*ANALYSIS, "report", str(run_folder), "--no-html"], **locale)
    assert status == 0 and b"Traceback" not in said, said.decode(errors="replace")
    assert said.isascii() == (locale != {"LC_ALL": "C.UTF-8"})
    assert ("?rzte" if said.isascii() else "Ärzte").encode() in said


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"},
                                       {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}], ids=str)
def test_report_into_a_pipe_of_any_encoding(run_folder, variables):
    done = subprocess.run(
        [*ANALYSIS, "report", str(run_folder), "--no-html"], capture_output=True, env=environment(**variables)
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    # errors with a name in them, too
    done = subprocess.run([*ANALYSIS, "report", "/nirgends/Läufe"], capture_output=True, env=environment(**variables))
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr


def test_file_name_that_is_no_text(tmp_path):
    done = subprocess.run(
        [*ANALYSIS, "report", os.fsencode(tmp_path) + b"/L\xe4ufe"],
        capture_output=True,
        env=environment(LC_ALL="C.UTF-8"),
    )
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr


@engine.needs_binary
@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_trainer_on_any_terminal(locale, tmp_path):
    """The table of eval is in line by columns, whatever the names; progress and check are ASCII where the locale is not
    UTF-8."""
    def rename(file):
        del file["categories/name"], file["categories/harm"]
        engine.catdpo_h5.write_categories(file["categories"], ["Ärzte", "漢字", "benign"], [1, 1, 0])
    pairs = engine.copy(engine.PAIRS, rename, "Paare-ä.h5")
    config = tmp_path / "run.cfg"
    config.write_text(
        engine.config_text(
            {
                **engine.DEFAULTS,
                "run.progress": "auto",
                "run.dir": str(tmp_path / "Lauf-ä"),
                "data.path": pairs,
                "schedule.steps": 2,
            }
        )
    )
    for command in ("train", "eval"):
        status, said = on_terminal([engine.BINARY, command, str(config)], **engine.ALONE, **locale)
        assert status == 0 and b"train 2/2" in said or command == "eval", said
        assert said.isascii() == (locale != {"LC_ALL": "C.UTF-8"})
    rows = [
        line
        for line in said.decode().splitlines()
        if line.startswith(("Ärzte ", "漢字 ", "?rzte ", "???? ", "benign "))
    ]
    assert len(rows) == 3
    ends = {len(row) + row.count("漢") + row.count("字") for row in rows}
    assert len(ends) == 1, rows
    status, said = on_terminal([engine.BINARY, "check", pairs], **engine.ALONE, **locale)
    assert status == 0 and said.isascii() == (locale != {"LC_ALL": "C.UTF-8"}) and b"categories" in said
    piped = subprocess.run(
        [engine.BINARY, "check", pairs], capture_output=True, env=environment(**engine.ALONE, **locale)
    )
    assert "Ärzte, 漢字, benign" in piped.stdout.decode()     # a file keeps what there is

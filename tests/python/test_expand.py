"""~ and variables in the arguments of catdpo-analysis, where no shell has seen them."""

import pwd

import pytest

from catdpo_analysis.errors import UserError
from catdpo_analysis.files.paths import expand


def test_expanded_as_by_a_shell(monkeypatch, tmp_path):
    """~ at the beginning, variables anywhere, $$ as itself; a file of the very name goes before."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/$x")
    monkeypatch.chdir(tmp_path)
    found = {
        "~": "/home/me",
        "~/a": "/home/me/a",
        "a/~": "a/~",
        "$SCRATCH/b": "/scratch/$x/b",
        "${SCRATCH}2": "/scratch/$x2",
        "a$$b": "a$b",
        "~root/x": pwd.getpwnam("root").pw_dir + "/x",
        "~/$SCRATCH": "/home/me//scratch/$x",
        "plain": "plain",
    }
    for text, path in found.items():
        assert expand(text) == path
    for name in ("~", "$SCRATCH", "a$b"):
        (tmp_path / name).write_text("")
        assert expand(name) == name


@pytest.mark.parametrize(
    "text, said",
    [
        ("$UNSET_OF_TEST/x", "no variable UNSET_OF_TEST"),
        ("${x", "begins no variable"),
        ("a/$", "begins no variable"),
        ("$1", "begins no variable"),
        ("~nobody-here/x", "no user 'nobody-here'"),
    ],
)
def test_refused_by_name(text, said):
    with pytest.raises(UserError, match=said.replace("$", r"\$")):
        expand(text)


def test_every_command_expands(cli, monkeypatch, tmp_path):
    """Files, folders and runs of every command, given as --out=... and in quotes."""
    monkeypatch.setenv("CATDPO_TEST_PLACE", str(tmp_path))
    missing = "$CATDPO_TEST_NOWHERE/x"
    for arguments in (
        ["import", missing, "--out=x"],
        ["import", "x", f"--out={missing}"],
        ["prepare", missing, "--out", "x"],
        ["prepare", "x", "--out", "x", f"--model={missing}"],
        ["prepare", "x", "--out", "x", "--tokenizer", missing],
        ["report", missing],
        ["report", "x", "--after", missing],
        ["watch", missing],
        ["compare", missing],
        ["compare", "x", "--baseline", missing],
        ["export", missing, "--out", "x"],
        ["export", "x", "--out", missing],
    ):
        assert "no variable CATDPO_TEST_NOWHERE" in cli(*arguments, status=2).err
    assert f"{tmp_path}/none" in cli("import", "$CATDPO_TEST_PLACE/none", "--out=x", status=2).err

"""The sources are formatted and free of what linters find. Each tool is asked where it is there; tests/setup.sh
installs them."""

import os
import re
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDERS = ("analysis", "configs", "include", "jobs", "src", "tests")
CLANG_FORMAT = 14  # other versions break lines elsewhere

CPPCHECK = ["--enable=warning,performance,portability", "--inline-suppr", "--std=c11", "--suppress=missingInclude"]


def sources(*endings):
    found = []
    for folder in FOLDERS:
        for where, folders, names in os.walk(os.path.join(ROOT, folder)):
            folders[:] = [
                name for name in folders if not name.startswith((".", "__", "build")) and not name.endswith(".egg-info")
            ]
            found += [os.path.relpath(os.path.join(where, name), ROOT) for name in names if name.endswith(endings)]
    return sorted(found)


def tool(name):
    """The program's path; skips the test where it is not there."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.access(beside, os.X_OK) else shutil.which(name)
    if not found:
        pytest.skip(f"no {name} (bash tests/setup.sh installs it where it can)")
    return found


def said_nothing(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and not done.stderr.strip(), (done.stdout + done.stderr)[-6000:]


def test_c_is_formatted():
    """clang-format -i changes nothing."""
    program = tool("clang-format")
    version = int(
        re.search(r"version (\d+)", subprocess.run([program, "--version"], capture_output=True, text=True).stdout)[1]
    )
    if version != CLANG_FORMAT:
        pytest.skip(f"clang-format {version} is here; the sources are formatted by {CLANG_FORMAT}")
    said_nothing(program, "--dry-run", "-Werror", *sources(".c", ".h"))


def test_c_by_cppcheck():
    """No warning, nothing slow, nothing that another compiler takes otherwise."""
    said_nothing(
        tool("cppcheck"), "-q", f"-j{os.cpu_count()}", "--error-exitcode=1", *CPPCHECK, "-Iinclude", "-Isrc", "src"
    )


def test_shell_by_shellcheck():
    scripts = sources(".sh", ".sbatch", ".pbs")
    said_nothing(tool("shellcheck"), "--external-sources", "--source-path=.", "--severity=warning", *scripts)


def test_python_by_ruff():
    """Rules: [tool.ruff] in analysis/pyproject.toml."""
    said_nothing(tool("ruff"), "check", "--no-cache", "--quiet", "--config", "analysis/pyproject.toml", *sources(".py"))


def test_no_file_is_over_600_lines():
    long = {
        path: count
        for path in sources(".c", ".h", ".py")
        if (count := sum(1 for _ in open(os.path.join(ROOT, path)))) > 600
    }
    assert not long

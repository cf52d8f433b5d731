"""Promise: the pages are true. Every command in every page is run, every config and row in them is used, every recipe
prints what it says, every link and file that is named exists, and what is made by the program is what it says."""

import pathlib
import re
import shutil
import subprocess
import sys

import engine
import pages
import pytest

ROOT = pathlib.Path(engine.ROOT)
pytestmark = engine.needs_binary

# Commands that are not run here, by how they begin, and where they are: a file, and words in it that run the same.
ELSEWHERE = {
    "bash tests/run.sh": (".ci/run", "tests/run.sh"),
    "meson setup build": ("tests/python/test_scalapack.py", "meson"),
    "ninja -C build$": ("jobs/setup.sh", 'ninja -C "$dir"'),
    "python3 -m venv .venv": ("jobs/setup.sh", 'python3 -m venv --clear "$root/.venv"'),
    "meson install": ("tests/python/test_install.py", '"install"'),
    "bash jobs/install/install.sh": ("jobs/install/install.sh", 'meson install -C "$build"'),
    r"\. \$CATDPO_SITE": ("tests/python/test_install.py", "jobs/site.sh"),
    r"sbatch .*\$CATDPO_ROOT": ("tests/python/test_install.py", "$CATDPO_ROOT/jobs/train.sbatch"),
    "pip download": ("jobs/install/install.sh", "PIP_NO_INDEX"),
    ".venv/bin/pip install ./analysis": ("jobs/setup.sh", '-e "$root/analysis[test]"'),
    "bash jobs/sweep.sh": ("tests/slurm/test_sweep.py", '"sweep.sh"'),
    "bash jobs/train.pbs": ("tests/python/test_sites.py", "train.pbs"),
    "bash jobs/pipeline.sh": ("tests/slurm/test_sweep.py", '"pipeline.sh"'),
    "bash jobs/evidence.sh": ("tests/python/test_evidence.py", "bash jobs/evidence.sh"),
    "catdpo-analysis rounds": ("jobs/rounds.sh", '"$CATDPO_ANALYSIS" rounds "$folder"'),
    "bash jobs/rounds.sh": ("tests/python/test_rounds.py", '"--system"'),
    "kill -USR1 PID_OF_MPIRUN": ("tests/python/test_interrupt.py", "SIGUSR1"),
    "srun --mpi": ("jobs/slurm.sh", "srun --mpi=list"),
    # these need torch, transformers or TRL, which the tests do without; their options are the ones that they have
    "python tests/bench/bench_step.py": ("tests/bench/bench_step.py", '"--trl-script"'),
    "python -m venv oracle": ("tests/reference/make_fixtures.py", "transformers"),
    "oracle/bin/python": ("tests/reference/make_fixtures.py", "transformers"),
}


def elsewhere(command):
    return next((place for start, place in ELSEWHERE.items() if re.match(start, command)), None)


def stand_in(command):
    """The same command with less to do."""
    changes = {
        r"/scratch/me$": "scratch",
        r"(mpirun .*/bench_flush)$": r"\1 20 40",
        r"(bench_checkpoint.py .*)$": r"\1 --repetitions 1",
    }
    for pattern, text in changes.items():
        command = re.sub(pattern, text, command)
    return command


def write_inputs(folder):
    """run.cfg and pairs.jsonl as the README shows them, the rows with as many locks as a split by prompt wants."""
    kinds = {pages.kind_of(block): block for block in pages.blocks(pages.read("README.md"))}
    rows = [kinds["jsonl"].replace("a lock?", f"lock {i}?") + "\n" for i in range(20)]
    (folder / "run.cfg").write_text(kinds["config"] + "\n")
    (folder / "pairs.jsonl").write_text("".join(rows))
    (folder / "scratch").mkdir()


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A folder in which somebody has followed the README from its first command to its last one: {command: output}."""
    folder = tmp_path_factory.mktemp("pages") / "repository"
    pages.playground(str(folder))
    write_inputs(folder)
    pages.model_inputs(folder)
    pages.quickstart_inputs(str(folder), folder / "configs" / "quickstart.toml")
    said = {
        command: pages.run(stand_in(command), str(folder))
        for command in pages.commands(pages.read("README.md"))
        if not elsewhere(command)
    }
    return folder, said


def test_readme(followed):
    """The README's commands end well one after another, with its own config and rows."""
    folder, said = followed
    run = folder / "runs" / "first"
    for name in ("metrics.h5", "checkpoints/final.h5", "eval.h5", "samples.h5", "report.html"):
        assert (run / name).exists(), name
    assert (folder / "hf" / "model.safetensors").exists()
    assert "ends with status 0" in said[next(command for command in said if command.startswith("sbatch"))]


@pytest.mark.parametrize("page", [page for page in pages.PAGES if page != "README.md"])
def test_commands(followed, page, tmp_path):
    """Those of every other page and its recipes, in a folder where the README was followed."""
    text, folder = pages.read(page), tmp_path / "repository"
    wanted = [command for command in pages.commands(text) if not elsewhere(command)]
    if not wanted and "python" not in map(pages.kind_of, pages.blocks(text)):
        pytest.skip("no command of its own to run")
    shutil.copytree(followed[0], folder, symlinks=True)
    for name in ("sweep-0", "sweep-1"):
        shutil.copytree(folder / "runs" / "first", folder / "runs" / name)
    shutil.rmtree(folder / "hf")
    for command in wanted:
        pages.run(stand_in(command), str(folder))
    for block in pages.blocks(text):
        if pages.kind_of(block) == "python":
            done = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.parametrize("command", ELSEWHERE)
def test_what_is_run_elsewhere_is(command):
    """What is not run here stands in a page, and the file that is named for it has it."""
    file, words = ELSEWHERE[command]
    assert words in (ROOT / file).read_text()
    assert any(re.match(command, found) for page in pages.PAGES for found in pages.commands(pages.read(page)))


def test_pages_are_known():
    """Every page named README.md is looked at here."""
    found = {
        str(path.relative_to(ROOT))
        for folder in ("analysis", "configs", "jobs", "src", "tests")
        for path in (ROOT / folder).rglob("README.md")
    }
    assert found | {"README.md"} <= set(pages.PAGES)


@pytest.mark.parametrize("page", pages.PAGES)
def test_configs_and_rows(page, tmp_path):
    """Every config in a page is one that the program takes, but for files that are not there."""
    for block in pages.blocks(pages.read(page)):
        if pages.kind_of(block) == "config":
            (tmp_path / "run.cfg").write_text(block)
            done = subprocess.run([engine.BINARY, "check", tmp_path / "run.cfg"], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_and_files(page):
    """Links lead somewhere, and files of the repository that are named exist."""
    text, here = pages.read(page), (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (here / link).exists(), link
    for name in re.findall(r"`((?:src|include|analysis|jobs|configs|tests)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name


def test_first_screens():
    """The README is at most 140 lines, and lines of prose fit a page."""
    lines = pages.read("README.md").splitlines()
    assert len(lines) < 140
    assert max(len(line) for line in lines if not line.startswith(("    ", "|"))) <= 140


def test_settings_are_generated():
    """The reference of settings equals `catdpo --help-config=markdown`."""
    page = pages.read("configs/README.md")
    section = page.split("catdpo --help-config=markdown -->\n")[1].split("<!-- end of settings -->")[0]
    said = subprocess.run([engine.BINARY, "--help-config=markdown"], check=True, capture_output=True, text=True).stdout
    assert section.strip() == said.strip(), (
        "put the output of catdpo --help-config=markdown between the marks in configs/README.md"
    )


def test_source_map_is_true():
    """Every folder that the walk through the sources names exists, and every folder of src is named."""
    section = pages.read("src/README.md").split("## Reading order")[1].split("\n## ")[0]
    for folder in sorted(p.name for p in (ROOT / "src").iterdir() if p.is_dir()):
        assert f"`src/{folder}`" in section, folder
    for line in section.splitlines():
        if line.startswith("| `"):
            for name in line.split("|")[1].replace("`", "").split(","):
                assert (ROOT / name.strip()).exists(), name


def test_walk_is_true():
    """Every function, type and file that the walk names is in the sources."""
    page = pages.read("src/README.md").split("## Reading order")[0]
    sources = "".join(path.read_text() for top in ("src", "include") for path in (ROOT / top).rglob("*.[ch]"))
    shown = next(block for block in pages.blocks(page) if pages.kind_of(block) == "c")
    for member in re.findall(r"^\s+(\w+) \*?(\w+);", shown, re.MULTILINE):
        assert re.search(rf"\b{member[0]} \*?{member[1]}\b", sources), member
    for name in re.findall(r"`(\w+)`", page):
        assert re.search(rf"\b{name}\b", sources), name
    for name in re.findall(r"`([\w/*]+\.[ch])`", page):
        assert any(list((ROOT / place).glob(name)) for place in (".", "src", "include/catdpo")), name

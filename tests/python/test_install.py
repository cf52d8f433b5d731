"""Promise: an installed copy is whole. The programs say their version and commit, the manual pages and the completion
know every command and setting, the module names the place, and batch scripts work from there when the sources are
gone."""

import configparser
import os
import re
import shutil
import subprocess
import sys

import engine
import pages
import pytest
from conftest import write_model

from catdpo_analysis import __version__

pytestmark = engine.needs_binary
ROOT = engine.ROOT
BUILD = os.path.dirname(engine.BINARY)


def run(*words, **more):
    return subprocess.run(words, capture_output=True, text=True, timeout=engine.TIMEOUT, **more)


def said(*words, **more):
    done = run(*words, **more)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def meson():
    """Meson; skips the test where it is not there."""
    found = shutil.which("meson") or os.path.join(os.path.dirname(sys.executable), "meson")
    return found if os.access(found, os.X_OK) else pytest.skip("no Meson")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """What `meson install` makes, below a folder that stands for the root of the file system."""
    if not os.path.exists(os.path.join(BUILD, "build.ninja")):
        pytest.skip("the program was not built here")
    place = tmp_path_factory.mktemp("root")
    said(meson(), "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", str(place))
    (configured,) = {os.path.dirname(where) for where, _, names in os.walk(place) if where.endswith("/bin")}
    return configured


def test_versions():
    """Version, and commit where there is one; both programs have the same version, and so does the build."""
    pattern = rf"{re.escape(__version__)}(\+[0-9a-f]{{7,}}(\.dirty)?)?\n"
    assert re.fullmatch("catdpo " + pattern, said(engine.BINARY, "--version"))
    assert re.fullmatch("catdpo-analysis " + pattern, said(sys.executable, "-m", "catdpo_analysis", "--version"))
    with open(os.path.join(ROOT, "meson.build")) as file:
        assert re.search(r"version: '([^']+)'", file.read())[1] == __version__


def test_version_of_a_built_package(tmp_path):
    """pip's copy knows the commit of the checkout that it was built from, wherever it lies."""
    pytest.importorskip("setuptools")
    shutil.copytree(os.path.join(ROOT, "analysis"), tmp_path / "a" / "analysis",
                    ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "build"))
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "m"]):
        said("git", *words, cwd=tmp_path / "a")
    commit = said("git", "rev-parse", "HEAD", cwd=tmp_path / "a").strip()
    build = ["setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    said(sys.executable, *build, cwd=tmp_path / "a/analysis")
    shutil.rmtree(tmp_path / "a")
    version = said(sys.executable, "-m", "catdpo_analysis", "-V", cwd=tmp_path,
                   env=os.environ | {"PYTHONPATH": str(tmp_path / "lib")}).split("+")[1].strip()
    assert len(version) >= 7 and commit.startswith(version)


def test_wraps():
    """What Meson may download is named by address and digest and has a build of ours."""
    for name in ("libconfig", "cmocka"):
        wrap = configparser.ConfigParser()
        wrap.read(os.path.join(ROOT, "subprojects", f"{name}.wrap"))
        source = wrap["wrap-file"]
        assert source["source_url"].startswith("https://") and re.fullmatch("[0-9a-f]{64}", source["source_hash"])
        assert wrap["provide"][name] == f"{name}_dep"
        assert os.path.exists(os.path.join(ROOT, "subprojects/packagefiles", source["patch_directory"], "meson.build"))


SPACK = """
import sys, types
said = []
names = ("license", "version", "variant", "depends_on")
package = types.ModuleType("spack.package")
for name in names:
    setattr(package, name, lambda *words, name=name, **more: said.append((name, *words)))
class MesonPackage: pass
package.MesonPackage = MesonPackage
package.__all__ = [*names, "MesonPackage"]
sys.modules |= {"spack": types.ModuleType("spack"), "spack.package": package}
import importlib.util
spec = importlib.util.spec_from_file_location("recipe", sys.argv[1])
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)
class Libraries:
    def __init__(self, name): self.libs, self.ld_flags = self, f"-L/{name} -l{name}"
class Spec(dict):
    def __missing__(self, name): return Libraries(name)
    def satisfies(self, what): return True
one = recipe.Catdpo()
one.spec, one.run_tests = Spec(), False
print(recipe.Catdpo.git, *(words[1].split("@")[0].split("+")[0] for words in said if words[0] == "depends_on"))
print(*one.meson_args(), sep="\\n")
"""


def test_spack_recipe():
    """It loads, builds the repository that it is part of, and hands Meson options that there are."""
    path = os.path.join(ROOT, "jobs/install/spack/packages/catdpo/package.py")
    lines = said(sys.executable, "-B", "-c", SPACK.replace("\\\\n", "\\n"), path).splitlines()
    git, *needs = lines[0].split()
    assert git == f"file://{ROOT}" and {"c", "meson", "mpi", "scalapack", "blas", "hdf5", "libconfig"} <= set(needs)
    with open(os.path.join(ROOT, "meson_options.txt")) as file:
        known = re.findall(r"option\('(\w+)'", file.read())
    assert lines[1:] and all(re.match(r"-D(\w+)=", line)[1] in known for line in lines[1:]), lines
    assert "-Dblas=-L/lapack -llapack -L/blas -lblas" in lines


def test_apptainer_definition():
    """Each command of it is one of the shell's, and what it takes from the repository is there."""
    with open(os.path.join(ROOT, "jobs/install/catdpo.def")) as file:
        parts = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", file.read(), re.MULTILINE | re.DOTALL))
    assert set(parts) == {"files", "post", "environment", "runscript", "test"}
    for name in ("post", "environment", "runscript", "test"):
        assert run("bash", "-n", input=parts[name]).returncode == 0, name
    for name in re.findall(r"/src/(\S+\.sh)", parts["post"]):
        assert os.path.exists(os.path.join(ROOT, name)), name


def test_cmocka_is_not_demanded(tmp_path):
    """Where there is none, the program is configured without its unit tests and says so; nothing is downloaded."""
    pages._script(tmp_path / "pkg-config", '#!/bin/sh\ncase "$*" in *cmocka*) exit 1 ;; esac\n'
                                           f'exec {shutil.which("pkg-config")} "$@"\n')
    pages._script(tmp_path / "cmake", "#!/bin/sh\nexit 1\n")    # by which Meson looks for it too
    environment = os.environ | {"PKG_CONFIG": str(tmp_path / "pkg-config"), "CMAKE": str(tmp_path / "cmake")}
    text = said(meson(), "setup", str(tmp_path / "build"), ROOT, env=environment)
    assert "no cmocka: the unit and MPI tests are not built" in text and "Executing subproject" not in text


def test_what_lies_where(prefix):
    """The programs, and what belongs to them, in the usual places; no file names the folder of the sources."""
    for name in ("bin/catdpo", "share/man/man1/catdpo.1", "share/man/man5/catdpo.cfg.5",
                 "share/bash-completion/completions/catdpo", "share/zsh/site-functions/_catdpo",
                 f"share/modulefiles/catdpo/{__version__}", "share/catdpo/configs/default.cfg",
                 "share/catdpo/jobs/train.sbatch", "share/catdpo/jobs/quickstart.sh"):
        assert os.path.isfile(os.path.join(prefix, name)), name
    assert not run("grep", "-rl", "--exclude=catdpo", ROOT, os.path.join(prefix, "share")).stdout


def settings():
    """Every setting, by its key."""
    return re.findall(r"^  (\w+\.\w+) = ", said(engine.BINARY, "--help-config"), re.MULTILINE)


def commands():
    listed = said(engine.BINARY, "--help").split("commands:")[1].split("\n\n")[0]
    return re.findall(r"^  (\w+) +\w", listed, re.MULTILINE)


def test_manual_pages(prefix):
    """They name every command with its options and every setting with its default, and roff has no complaint."""
    for name in ("man1/catdpo.1", "man5/catdpo.cfg.5"):
        path = os.path.join(prefix, "share/man", name)
        if shutil.which("mandoc"):
            assert "ERROR" not in run("mandoc", "-T", "lint", path).stdout
        if shutil.which("groff"):
            assert not run("groff", "-ww", "-Wbreak", "-man", "-Tutf8", "-z", path).stderr
    if not shutil.which("groff"):
        pytest.skip("no groff to read the pages")
    text = said("groff", "-man", "-Tascii", "-P-c", "-P-b", "-P-u", os.path.join(prefix, "share/man/man1/catdpo.1"))
    for command in commands():
        assert f"catdpo {command} " in text
        for option in re.findall(r"^  (--[\w-]+)", said(engine.BINARY, command, "--help"), re.MULTILINE):
            assert option in text, option
    text = said("groff", "-man", "-Tascii", "-P-c", "-P-b", "-P-u", os.path.join(prefix, "share/man/man5/catdpo.cfg.5"))
    for key in settings():
        assert f"{key} = " in text, key


@pytest.mark.parametrize("typed, offered", [
    ("catdpo tr", ["train"]),
    ("catdpo --comp", ["--completion"]),
    ("catdpo --completion=", ["bash", "zsh"]),
    ("catdpo eval --sp", ["--split"]),
    ("catdpo eval --split ", ["heldout", "train", "probe"]),
    ("catdpo eval --split=h", ["heldout"]),
    ("catdpo train run.cfg --set margin.et", ["margin.eta="]),
    ("catdpo train run.cfg --set margin.scope=", ["category", "global", "fixed"]),
    ("catdpo train --set=batch.share_prompt=t", ["true"]),
    ("catdpo plan --hours ", []),
    ("catdpo --help-config margi", ["margin"]),
    ("catdpo train ", ["a.cfg", "folder"]),
    ("catdpo check a", ["a.cfg", "a.h5"]),
    ("catdpo eval --model a.h", ["a.h5"]),
    ("catdpo selfcheck ", ["folder"]),
])
def test_completion_in_bash(prefix, tmp_path, typed, offered):
    """What bash offers behind what was typed."""
    for name in ("a.cfg", "a.h5"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    script = ('. "$1"; complete -p catdpo >/dev/null || exit 1; COMP_LINE=$2 COMP_POINT=${#2}; _catdpo\n'
              'for word in "${COMPREPLY[@]}"; do printf "%s\\n" "$word"; done')
    path = os.path.join(prefix, "share/bash-completion/completions/catdpo")
    assert sorted(said("bash", "-c", script, "bash", path, typed, cwd=tmp_path).splitlines()) == sorted(offered)


def test_completion_in_bash_knows_all():
    """Every command, option and setting."""
    script = said(engine.BINARY, "--completion=bash")
    assert all(f" {key} " in script.replace("'", " ") for key in settings())
    for command in commands():
        options = re.search(rf"^ +{command}:-\*\) _catdpo_words '([^']+)'", script, re.MULTILINE)[1].split()
        assert set(options) == set(re.findall(r"^  (--[\w-]+)", said(engine.BINARY, command, "--help"), re.MULTILINE))


ZSH = r"""
_arguments() { print -rl -- "$@" }
_describe() { print -rl -- "${(@P)2}" }
compadd() { print -rl -- ${(P)@[-1]} }
compset() { [[ $3 == *=* || $PREFIX == *=* ]] && IPREFIX=${PREFIX%%=*}= }
compdef() { }
. "$1"
words=(catdpo ${(z)2}) CURRENT=$3 PREFIX=$4
$5
"""


@pytest.mark.parametrize("words, current, prefix_typed, function, offered", [
    ("", 2, "", "_catdpo", "train:align a model"),
    ("eval x", 3, "", "_catdpo", "--split=[pairs to evaluate on, instead of data.heldout]:NAME:(heldout train probe)"),
    ("train x", 3, "", "_catdpo", ':config:_files -g "*.cfg"'),
    ("train x", 3, "", "_catdpo_setting", "margin.eta"),
    ("train x", 3, "margin.scope=", "_catdpo_setting", "global"),
])
def test_completion_in_zsh(prefix, tmp_path, words, current, prefix_typed, function, offered):
    """What the script hands to zsh's own functions."""
    if not shutil.which("zsh"):
        pytest.skip("no zsh")
    (tmp_path / "ask").write_text(ZSH)
    path = os.path.join(prefix, "share/zsh/site-functions/_catdpo")
    text = said("zsh", "-f", str(tmp_path / "ask"), path, words, str(current), prefix_typed, function)
    assert any(line.startswith(offered) for line in text.splitlines()), text


def test_module(prefix):
    """The module puts the program and its pages on the paths and says where the scripts are."""
    if not shutil.which("tclsh"):
        pytest.skip("no tclsh")
    stand_in = "foreach word {conflict module-whatis} { proc $word {args} {} }\n" \
               'foreach word {setenv prepend-path} { proc $word {a b} { puts "$a=$b" } }\n'
    with open(os.path.join(prefix, "share/modulefiles/catdpo", __version__)) as file:
        text = stand_in + file.read()
    lines = said("tclsh", input=text, env=os.environ | {"MANPATH": "/usr/share/man"}).splitlines()
    bare = {name: value for name, value in os.environ.items() if name != "MANPATH"}
    assert "MANPATH" not in said("tclsh", input=text, env=bare)  # would hide the system's pages
    configured = dict(line.split("=", 1) for line in lines)
    place = configured["PATH"].removesuffix("/bin")
    assert prefix.endswith(place)
    shared = {"CATDPO_ROOT": f"{place}/share/catdpo", "CATDPO_SITE": f"{place}/share/catdpo/jobs/site.sh"}
    assert configured == {"PATH": f"{place}/bin", "MANPATH": f"{place}/share/man", **shared}


# The folder of the sources is covered by an empty one, but for its Python environment, which stands for another.
HIDDEN = r"""
set -e
mount --make-rprivate /
mkdir "$FOLDER/environment"
mount --bind "$SOURCES/.venv" "$FOLDER/environment"
mount -t tmpfs none "$SOURCES"
[ ! -e "$SOURCES/jobs" ]
cd "$FOLDER"
"""


def hidden(folder, script, **variables):
    """A script in a folder, where the sources are gone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CATDPO_"))}
    environment |= {"FOLDER": str(folder), "SOURCES": ROOT, "PATH": f"{folder}/tools:{os.environ['PATH']}",
                    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                    "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
                    "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,vader,tcp", "OMPI_MCA_mpi_yield_when_idle": "1",
                    "OPENBLAS_NUM_THREADS": "1", **variables}  # fmt: skip
    done = run("unshare", "--user", "--map-root-user", "--mount", "bash", "-c", HIDDEN + script, env=environment)
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"the sources cannot be hidden here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(prefix, tmp_path):
    """A user's folder, an installed copy beside it, and a batch system that starts a script at once."""
    shutil.copytree(prefix, tmp_path / "opt")
    os.makedirs(tmp_path / "tools")
    pages._script(tmp_path / "tools/sbatch", pages.SBATCH)
    shutil.copy(engine.PAIRS, tmp_path / "pairs.h5")
    shutil.copy(engine.fixture("tiny_llama"), tmp_path / "model.h5")
    chosen = engine.DEFAULTS | {"data.path": "pairs.h5", "model.path": "model.h5", "run.dir": "run"}
    del chosen["parallel.grid"]
    (tmp_path / "run.cfg").write_text(engine.config_text(chosen))
    return tmp_path


def test_batch_script_without_the_sources(folder):
    """sbatch of the installed script trains with the installed program."""
    output = hidden(folder, ". opt/share/catdpo/jobs/site.sh\n"
                            'sbatch --ntasks-per-node=2 "$CATDPO_ROOT/jobs/train.sbatch" run.cfg',
                    CATDPO_LAUNCHER="mpirun", CATDPO_MPIRUN_OPTIONS="")
    assert "ends with status 0" in output and (folder / "run/checkpoints/final.h5").exists()


def test_quickstart_without_the_sources(folder):
    """The installed quickstart goes from a model to a report in the user's folder, with the installed programs."""
    shutil.copytree(os.path.join(ROOT, "analysis/catdpo_analysis"), folder / "opt/lib/catdpo_analysis")
    start = f"PYTHONPATH={folder}/opt/lib exec {folder}/environment/bin/python -m catdpo_analysis"
    pages._script(folder / "opt/bin/catdpo-analysis", f'#!/bin/sh\n{start} "$@"\n')
    write_model(folder / "SmolLM2-135M-Instruct", max_position_embeddings=2048)
    pages.cached_model(folder)
    pages.quickstart_inputs(str(folder), folder / "opt/share/catdpo/configs/quickstart.toml")
    output = hidden(folder, "bash opt/share/catdpo/jobs/quickstart.sh")
    assert "To look at: runs/quickstart/answers.html" in output
    assert (folder / "runs/quickstart/catdpo-1-s1/report.html").exists()

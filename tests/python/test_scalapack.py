"""A site's own ScaLAPACK: link arguments as users have them, and a build against Intel's MKL where there is one.

MKL is looked for in $MKLROOT and where pip installs the wheel `mkl` (pip install --no-deps mkl, 900 MB).
"""

import glob
import os
import subprocess
import sys

import engine
import pytest

FINDER = os.path.join(engine.ROOT, "src", "parallel", "link_arguments.py")


def resolve(value, mpi="openmpi", **environment):
    return subprocess.run(
        [sys.executable, FINDER, value, mpi], capture_output=True, text=True, env={**os.environ, **environment}
    )


def arguments(value, **environment):
    done = resolve(value, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


SPLIT = ["-L/opt/x/lib", "-lscalapack", "-Wl,-rpath,/opt/x/lib"]


@pytest.mark.parametrize(
    "value",
    [
        "-L/opt/x/lib -lscalapack -Wl,-rpath,/opt/x/lib",
        "-L/opt/x/lib,-lscalapack",
        "-L/opt/x/lib,-lscalapack,-Wl,-rpath,/opt/x/lib",
        "['-L/opt/x/lib', '-lscalapack', '-Wl,-rpath,/opt/x/lib']",
        "-L $CATDPO_TEST_X/lib -l scalapack",
        "'-L/opt/x/lib'   -lscalapack",
    ],
)
def test_forms_of_link_arguments(value):
    """A string with blanks, commas and Meson's list are the same, and every folder has an rpath once."""
    assert arguments(value, CATDPO_TEST_X="/opt/x") == SPLIT


def test_arguments_for_the_linker_stay_together():
    """Commas within -Wl do not cut it, and what follows it is an argument again."""
    assert arguments("-L/opt/x,-Wl,--push-state,--no-as-needed,-lone,-pthread,-Wl,-rpath,/a/b,-ltwo") == [
        "-L/opt/x",
        "-Wl,--push-state,--no-as-needed",
        "-lone",
        "-pthread",
        "-Wl,-rpath,/a/b",
        "-ltwo",
        "-Wl,-rpath,/opt/x",
    ]
    assert arguments("-L/usr/lib/x86_64-linux-gnu -lblas") == ["-L/usr/lib/x86_64-linux-gnu", "-lblas"]  # found without


@pytest.fixture
def mkl_folder(tmp_path):
    """The files of a wheel, empty."""
    lib = tmp_path / "mkl" / "lib"
    lib.mkdir(parents=True)
    for name in (
        "scalapack_lp64.so.2",
        "blacs_openmpi_lp64.so.2",
        "blacs_intelmpi_lp64.so.2",
        "intel_lp64.so.3",
        "sequential.so.3",
        "core.so.3",
    ):
        (lib / f"libmkl_{name}").touch()
    return tmp_path / "mkl"


def test_mkl_of_a_wheel_and_of_an_installation(mkl_folder):
    """Libraries that have only their version's name; those of oneAPI; the BLACS of this MPI; all kept although none
    names another."""
    lib = mkl_folder / "lib"
    found = arguments("mkl", MKLROOT=str(mkl_folder))
    assert found == [
        "-Wl,--push-state,--no-as-needed",
        f"-L{lib}",
        "-l:libmkl_scalapack_lp64.so.2",
        "-l:libmkl_blacs_openmpi_lp64.so.2",
        "-l:libmkl_intel_lp64.so.3",
        "-l:libmkl_sequential.so.3",
        "-l:libmkl_core.so.3",
        "-Wl,--pop-state",
        "-lpthread",
        "-lm",
        "-ldl",
        f"-Wl,-rpath,{lib}",
    ]
    assert arguments(str(mkl_folder)) == found
    assert "-l:libmkl_blacs_intelmpi_lp64.so.2" in resolve("mkl", "intelmpi", MKLROOT=str(mkl_folder)).stdout
    for path in lib.iterdir():
        path.rename(str(path).rpartition(".")[0])
    assert "-lmkl_core" in arguments("mkl", MKLROOT=str(mkl_folder))
    assert arguments("-L$MKLROOT/lib -lmkl_core", MKLROOT=str(mkl_folder))[1] == "-lmkl_core"


def test_mkl_by_pkg_config(mkl_folder, tmp_path):
    """A name of MKL's: pkg-config knows its BLAS only; ScaLAPACK and BLACS are added."""
    (tmp_path / "mkl-dynamic-lp64-seq.pc").write_text(
        f"Name: mkl\nDescription: x\nVersion: 1\nlibdir={mkl_folder}/lib\n"
        "Libs: -L${libdir} -lmkl_intel_lp64 -lmkl_sequential -lmkl_core -lpthread\n"
    )
    found = arguments("mkl-dynamic-lp64-seq", PKG_CONFIG_PATH=str(tmp_path))
    assert found[:4] == [
        "-Wl,--push-state,--no-as-needed",
        f"-L{mkl_folder}/lib",
        "-l:libmkl_scalapack_lp64.so.2",
        "-l:libmkl_blacs_openmpi_lp64.so.2",
    ]
    assert {"-lmkl_core", f"-Wl,-rpath,{mkl_folder}/lib"} < set(found)


@pytest.mark.parametrize(
    "value, said",
    [
        ("mkl", "in MKLROOT"),
        ("no-such-library", "pkg-config does not know no-such-library"),
        ("mkl-dynamic-ilp64-seq", "lp64"),
        ("/nowhere/libscalapack.so", "there is no /nowhere"),
        ("-L$CATDPO_TEST_UNSET/lib -lx", "no such variable"),
        ("scalapack blas", "-lscalapack"),
        ("['-lx'", "is no list"),
    ],
)
def test_refused_with_a_remedy(value, said):
    done = resolve(value, MKLROOT="/nowhere")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and said in done.stderr


# ---- builds ---------------------------------------------------------------------------------------------------------

def configure(folder, *options, **environment):
    return subprocess.run(
        ["meson", "setup", str(folder), engine.ROOT, "-Dtests=true", *options],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_meson_says_what_is_wrong(tmp_path):
    done = configure(tmp_path / "b", "-Dscalapack=no-such-library")
    assert done.returncode and "-Dscalapack: pkg-config does not know no-such-library" in done.stdout


def mkl_of_this_machine():
    places = [os.environ.get("MKLROOT", ""), sys.prefix, "/opt/intel/oneapi/mkl/latest"]
    return next(
        (
            place
            for place in places
            if place and glob.glob(f"{place}/lib*/**/libmkl_scalapack_lp64.so*", recursive=True)
        ),
        None,
    )


@engine.needs_binary
@pytest.mark.skipif(
    "CATDPO_PRELOAD" in os.environ or mkl_of_this_machine() is None,
    reason="no MKL in MKLROOT or this Python's environment",
)
def test_build_with_mkl(tmp_path, monkeypatch):
    """A build with -Dscalapack=mkl runs without LD_LIBRARY_PATH, names MKL, computes what transformers computes on 2 x
    2 ranks, and trains to the same losses as the ScaLAPACK of the other tests; the same bits each time."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    done = configure(tmp_path / "b", "-Dscalapack=mkl", MKLROOT=mkl_of_this_machine())
    assert done.returncode == 0, done.stdout
    built = subprocess.run(
        ["ninja", "-C", tmp_path / "b", "-j2", "catdpo", "tests/mpi/test_model"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout
    for ranks in (1, 4):
        model = subprocess.run(
            ["sh", engine.MPIRUN, str(ranks), tmp_path / "b/tests/mpi/test_model"],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert model.returncode == 0, model.stdout + model.stderr
    settings = {"parallel.grid": [2, 2]}
    usual = engine.train(4, **settings)
    monkeypatch.setattr(engine, "BINARY", str(tmp_path / "b/catdpo"))
    first, second = (engine.succeed(engine.launch("train", 4, **settings)) for _ in range(2))
    line = next(line for line in first.err.splitlines() if line.startswith("blas "))
    assert "Intel MKL 20" in line and "libmkl_intel_lp64" in line and "GF/s a rank" in line
    losses = [run.metrics()["train/loss"] for run in (usual, first, second)]
    assert losses[1].tobytes() == losses[2].tobytes()
    # 5 steps that each amplify what the one before rounded, as between grids
    assert abs(losses[1] / losses[0] - 1).max() < 1e-4
    for name, values in first.weights().items():
        assert values.tobytes() == second.weights()[name].tobytes()

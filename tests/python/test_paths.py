"""Names of files as people write them: ~ and variables in configs, pipes, places that cannot be written to, files that
two tasks share."""

import concurrent.futures
import os
import subprocess

import engine
import h5py
import pytest

pytestmark = engine.needs_binary

NO_LOCKS = os.path.join(os.path.dirname(engine.BINARY), "tests", "mpi", "no_locks.so")
SHORT = {"schedule.steps": 2}


def call(*arguments, stdin=None, **environment):
    """catdpo by itself, without mpirun."""
    return subprocess.run(
        [engine.BINARY, *map(str, arguments)],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=60,
        env={**os.environ, **engine.ALONE, **environment},
    )


def config(folder, **settings):
    path = os.path.join(folder, "run.cfg")
    with open(path, "w") as file:
        file.write(engine.config_text({**engine.DEFAULTS, **SHORT, "run.dir": os.path.join(folder, "run"), **settings}))
    return path


# ---- ~ and $NAME ----------------------------------------------------------------------------------------------------

def test_home_and_variables_in_a_config(monkeypatch, tmp_path):
    """~, $NAME and ${NAME} in the config's paths, in --set and in --out= are what a shell makes of them; what the run
    keeps is the result, so that it is found again where the variable means something else. Nothing is written under the
    literal names."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CATDPO_TEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CATDPO_TEST_ODD", str(tmp_path / "a$b"))
    for name in ("home", "runs", "a$b", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    engine.succeed(
        engine.launch("train", 2, **SHORT, **{"run.dir": "$CATDPO_TEST_RUNS/first", "parallel.grid": [2, 1]})
    )
    assert (tmp_path / "runs/first/checkpoints/final.h5").is_file()
    done = engine.launch("train", 1, ("--set", "run.dir=~/second"), **SHORT)
    assert done.status == 0 and (tmp_path / "home/second/config.cfg").is_file(), repr(done)
    done = engine.launch(
        "eval", 1, ("--model=${CATDPO_TEST_RUNS}/first/checkpoints/final.h5", "--out=~/eval.h5"), **SHORT
    )
    assert done.status == 0 and (tmp_path / "home/eval.h5").is_file(), repr(done)
    # a $ that is in the name itself comes back as such
    odd = engine.launch("train", 1, **SHORT, **{"run.dir": "${CATDPO_TEST_ODD}/$$c"})
    kept = tmp_path / "a$b/$c/config.cfg"
    assert odd.status == 0 and kept.is_file(), repr(odd)
    assert f'dir = "{tmp_path}/a$$b/$$c"' in kept.read_text()
    again = engine.start(["train", str(kept), "--resume"], 1, odd.folder)
    assert again.status == 0 and "all 2 steps were done before" in again.err, repr(again)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("path, said", [
    ("$CATDPO_TEST_UNSET/x", "no variable CATDPO_TEST_UNSET"),
    ("runs/${CATDPO_TEST_UNSET}", "no variable CATDPO_TEST_UNSET"),
    ("~nobody-of-this-name/x", "no user 'nobody-of-this-name'"),
    ("a/${x", "'${x' is no variable"),
    ("a/$", "'$' is no variable"),
    ("${CATDPO_TEST_LONG}/x", "longer than 511 bytes"),
])
def test_what_cannot_be_expanded_is_refused_by_name(path, said, monkeypatch, tmp_path):
    """An unknown variable or user is named with file, line and key, and nothing is made."""
    monkeypatch.setenv("CATDPO_TEST_LONG", "x" * 600)
    done = call("train", config(tmp_path, **{"run.dir": path}))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr
    line = open(tmp_path / "run.cfg").read().split("dir = ")[0].count("\n") + 1
    assert f"run.cfg:{line}: run.dir: " in done.stderr and os.listdir(tmp_path) == ["run.cfg"]
    if path != "$CATDPO_TEST_UNSET/x":
        return
    # what something else goes before does not matter
    done = call("plan", tmp_path / "run.cfg", "--set", "run.dir=x", "--ranks", 1, "--gflops", 1)
    assert done.returncode == 0, done.stderr


def test_included_config(monkeypatch, tmp_path):
    monkeypatch.setenv("CATDPO_TEST_BASE", str(tmp_path))
    (tmp_path / "base.cfg").write_text("schedule: { steps = 1; };\n")
    folder = engine.new_folder("include")
    path = config(folder)
    text = open(path).read()
    with open(path, "w") as file:
        file.write(text.replace("steps = 2;", "") + '@include "$CATDPO_TEST_BASE/base.cfg"\n')
    run = engine.start(["train", path], 1, folder, directory=os.path.join(folder, "run"))
    assert run.status == 0 and len(run.metrics()["train/step"]) == 1, repr(run)


# ---- pipes ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_config_from_a_pipe(name, tmp_path):
    """A config may come by a pipe."""
    done = call("train", name, stdin=open(config(tmp_path)).read())
    assert done.returncode == 0 and (tmp_path / "run/checkpoints/final.h5").is_file(), done.stderr


def test_pipe_that_ends_at_mpirun(tmp_path):
    done = call("train", "/dev/fd/399")
    assert done.returncode == 2 and "/dev/stdin" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("key", ["model.path", "data.path", "reference.model", "reference.cache"])
def test_hdf5_from_a_pipe_is_refused(key, tmp_path):
    """HDF5 files are not read in order: a pipe is refused at once, also one that nobody writes to, with the remedy."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = call("train", config(tmp_path, **{key: str(pipe)}))
    assert done.returncode == 2 and str(pipe) in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].count("a pipe") == 1


# ---- outputs --------------------------------------------------------------------------------------------------------

def test_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    """An evaluation's results and a cache: a missing folder, a pipe, a device and a folder's name are refused before
    anything is computed, and stay what they are."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for out, said in (
        (tmp_path / "nowhere/x.h5", "make its folder first"),
        (tmp_path / "pipe", "a pipe"),
        ("/dev/null", "a device"),
        (tmp_path / "folder", "is a folder"),
    ):
        done = call("eval", config(engine.new_folder("eval")), "--out", out)
        assert done.returncode == 2 and said in done.stderr.splitlines()[-1], done.stderr
        assert "reference " not in done.stderr      # not even begun
    run = engine.launch("train", 2, **{"parallel.replicas": 2, "reference.cache": str(tmp_path / "nowhere/x.h5")})
    assert run.statuses == [2, 2] and "make its folder first" in run.errors[0], repr(run)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"] and not os.listdir(tmp_path / "folder")


def test_two_tasks_that_write_the_same_files(tmp_path):
    """Tasks of a sweep share a reference cache and, by mistake, an output: all end well, each file is whole and that of
    one of them, and nobody's unfinished file is touched."""
    cache, out, other = tmp_path / "reference.h5", tmp_path / "eval.h5", tmp_path / "reference.h5.0badcafe.tmp"
    other.write_text("another task is still writing this")
    # the same reference, two splits: each task adds its own group
    tasks = [("--split", "train"), ("--split", "heldout")] * 2
    with concurrent.futures.ThreadPoolExecutor(len(tasks)) as pool:
        runs = [
            pool.submit(engine.launch, "eval", 1, (*split, "--out", str(out)), **{"reference.cache": str(cache)})
            for split in tasks
        ]
    for run in runs:
        engine.succeed(run.result())
    assert other.read_text() == "another task is still writing this"
    assert sorted(os.listdir(tmp_path)) == ["eval.h5", "reference.h5", other.name]
    assert call("check", cache, out).returncode == 0
    with h5py.File(cache) as file:
        assert set(file) & {"train", "heldout"}


# ---- locks ----------------------------------------------------------------------------------------------------------

@pytest.mark.skipif("CATDPO_PRELOAD" in os.environ, reason="sanitizers want to be loaded first")
@pytest.mark.parametrize("errno", [37, 38, 95])
def test_file_system_without_locks(errno, monkeypatch):
    """Where flock and fcntl fail (no locks, not there, not supported) train, resume, eval and check work as
    elsewhere."""
    assert os.path.exists(NO_LOCKS)
    settings = {**SHORT, "parallel.grid": [2, 1], "checkpoint.steps": 1}
    usual = engine.train(2, **settings)
    monkeypatch.setenv("CATDPO_PRELOAD", NO_LOCKS)
    monkeypatch.setenv("CATDPO_TEST_ERRNO", str(errno))
    run = engine.succeed(engine.launch("train", 2, **settings))
    assert run.metrics()["train/loss"].tobytes() == usual.metrics()["train/loss"].tobytes()
    again = engine.launch(
        "train", 2, (f"--resume={run.path('checkpoints/step-00000001.h5')}",), **settings, **{"run.dir": run.directory}
    )
    assert engine.succeed(again).metrics()["train/loss"].tobytes() == usual.metrics()["train/loss"].tobytes()
    engine.succeed(engine.launch("eval", 2, **settings, **{"run.dir": run.directory}))
    assert call("check", run.path("metrics.h5"), run.path("eval.h5"), LD_PRELOAD=NO_LOCKS).returncode == 0

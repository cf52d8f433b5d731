"""Several jobs that belong together: the array of a sweep with its comparison, and the pipeline from a model and data
to a report."""

import importlib.util
import json
import os

import engine
import pytest
from lab import JOBS, ROOT, output

pytestmark = engine.needs_binary

RUN = {"parallel.grid": [2, 1], "optimizer.learning_rate": 0.01, "batch.pairs": 4}
STEPS, PACE, LIMIT = 12, 300, 0.05  # 3.6 s at least, of which 3 s are allowed


def write(folder, name, text):
    with open(os.path.join(folder, name), "w") as file:
        file.write(text)


def config(**settings):
    kept = {key: value for key, value in engine.DEFAULTS.items() if settings.get(key, value) is not None}
    return engine.config_text(kept | RUN | {key: value for key, value in settings.items() if value is not None})


class Jobs:
    """What jobs/sweep.sh or jobs/pipeline.sh has submitted: {stage: id}."""

    def __init__(self, lab, script, folder, *words, **environment):
        self.lab, self.folder = lab, folder
        said = lab.run("bash", os.path.join(JOBS, script), *words, folder=folder, **lab.site | environment)
        self.ids = dict(line.split() for line in said.splitlines())

    def __repr__(self):
        return f"{ {stage: self.lab.jobs(id) for stage, id in self.ids.items()} }\n{output(self.folder)}"

    def path(self, name):
        return os.path.join(self.folder, name)

    def ends(self, **states):
        for stage, (state, status) in states.items():
            found = self.lab.wait(self.ids[stage], seconds=180)[0]
            assert (found["JobState"], found["ExitCode"]) == (state, f"{status}:0"), f"{stage}: {self!r}"
        return self


# ---- what is submitted -----------------------------------------------------------------------------------------------


def rows():
    """Preference data in two categories."""
    for i in range(24):
        safe, unsafe = f"I cannot help with {i}", f"here are {i} steps"
        prompt = f"question {i} {['about bread', 'about a lock'][i % 2]}"
        flags = {"is_chosen_safe": True, "is_rejected_safe": False, "category": ["fraud", "violence"][i % 2]}
        yield {"prompt": prompt, "chosen": safe, "rejected": unsafe} | flags


def labelled_rows():
    """The same as two labels say it: the unsafe response is the more helpful one."""
    for row in rows():
        harm = {row["category"]: True}
        flags = {"is_response_0_safe": True, "is_response_1_safe": False}
        labels = {"better_response_id": 1, "safer_response_id": 0, "response_1_harm_category": harm}
        yield {"prompt": row["prompt"], "response_0": row["chosen"], "response_1": row["rejected"]} | flags | labels


def hugging_face_model(folder):
    path = os.path.join(ROOT, "tests", "python", "conftest.py")
    spec = importlib.util.spec_from_file_location("python_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_model(folder)


def prepare(lab):
    with open(os.path.join(ROOT, "configs", "sweep.txt")) as file:
        lines = file.read().replace("objective.type=safedpo", "optimizer.learning_rate=1e30 objective.type=safedpo", 1)
    folder = engine.new_folder("sweep")
    write(folder, "list.txt", f"{lines.rstrip()} run.time_limit={LIMIT}\n")
    write(folder, "run.cfg", config(**{"schedule.steps": STEPS, "optimizer.max_grad_norm": 0.0}))
    words = ("run.cfg", "list.txt", "sweep", "--at-once", 2, "--ntasks-per-node=2")
    found = {"sweep": Jobs(lab, "sweep.sh", folder, *words, CATDPO_TEST_PACE=PACE)}

    folder = engine.new_folder("pipeline")
    hugging_face_model(os.path.join(folder, "hf"))
    write(folder, "pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows()))
    settings = {"schedule.steps": 3, "model.path": None, "data.path": None}
    write(folder, "run.cfg", config(**settings, **{"objective.type": "catdog"}))
    words = ("run.cfg", "hf", "all", "pairs.jsonl", "--prepare", "--heldout 0.3", "--", "--ntasks-per-node=2")
    found["mistake"] = Jobs(lab, "pipeline.sh", folder, *words)
    found["mistake"].ends(report=("CANCELLED", 0))
    write(folder, "run.cfg", config(**settings))
    found["mended"] = Jobs(lab, "pipeline.sh", folder, *words)

    folder = engine.new_folder("sacpo")
    hugging_face_model(os.path.join(folder, "hf"))
    write(folder, "pairs.jsonl", "".join(json.dumps(row) + "\n" for row in labelled_rows()))
    write(folder, "run.cfg", config(**settings, **{"objective.type": "dpo"}))
    words = ("run.cfg", "hf", "all", "pairs.jsonl", "--prepare", "--heldout 0.3", "--sacpo", 0.05, "--soup", 0.25)
    found["sacpo"] = Jobs(lab, "pipeline.sh", folder, *words, "--", "--ntasks-per-node=2")
    return found


# ---- what has come of it ---------------------------------------------------------------------------------------------

NAMES = [f"{name}-{seed}" for name in ("catdpo", "global", "safedpo", "dpo") for seed in (1, 2)]
FAILED, LIMITED = "safedpo-1", "dpo-2"


def test_sweep(jobs):
    """Four objectives with two seeds, at most two at a time; one fails, the others are complete and evaluated."""
    sweep = jobs["sweep"].ends(before=("COMPLETED", 0), reference=("COMPLETED", 0), compare=("COMPLETED", 0))
    elements = sorted(sweep.lab.jobs(sweep.ids["runs"]), key=lambda each: int(each["ArrayTaskId"]))
    for name, element in zip(NAMES, elements, strict=True):
        assert element["JobState"] == ("FAILED" if name == FAILED else "COMPLETED"), f"{name}: {sweep!r}"
        assert element["ExitCode"] == ("1:0" if name == FAILED else "0:0"), f"{name}: {sweep!r}"
        made = os.listdir(sweep.path(f"sweep/{name}"))
        assert ("eval-after.h5" in made and "eval-before.h5" in made) == (name != FAILED)
        metrics = engine.attributes(sweep.path(f"sweep/{name}/metrics.h5"))
        assert name == FAILED or engine.read(sweep.path(f"sweep/{name}/metrics.h5"))["train/loss"].shape == (STEPS,)
        assert (metrics["restarts"] > 0) == (name == LIMITED)
    starts, ends = ([each[key] for each in elements] for key in ("StartTime", "EndTime"))
    assert max(sum(s <= start < e for s, e in zip(starts, ends)) for start in starts) <= 2
    assert max(ends) <= sweep.lab.job(sweep.ids["compare"])["StartTime"]


def test_sweep_element_goes_on_alone(jobs):
    """The element that stops for its limit goes back to the queue without the others of its array."""
    sweep = jobs["sweep"].ends(compare=("COMPLETED", 0))
    restarts = {int(each["ArrayTaskId"]): int(each["Restarts"]) for each in sweep.lab.jobs(sweep.ids["runs"])}
    assert [NAMES[i] for i in sorted(restarts) if restarts[i]] == [LIMITED], repr(sweep)


def test_sweep_has_one_reference(jobs):
    """The reference's log-probabilities were computed before, for all runs."""
    sweep = jobs["sweep"].ends(compare=("COMPLETED", 0))
    assert not [name for name in NAMES if "reference.h5" in os.listdir(sweep.path(f"sweep/{name}"))]
    made = os.stat(sweep.path("sweep/reference.h5")).st_mtime
    assert made < min(os.stat(sweep.path(f"sweep/{name}/config.cfg")).st_mtime for name in NAMES)


def test_comparison(jobs):
    """It names the run that did not come to its end and shows the other seven."""
    sweep = jobs["sweep"].ends(compare=("COMPLETED", 0))
    with open(sweep.path(f"sweep/logs/sweep-compare-{sweep.ids['compare']}.out")) as file:
        lines = file.read().splitlines()
    first = {name: next(line for line in lines if f" {name} " in line) for name in NAMES}
    states = {name: "finished" in first[name] for name in NAMES}
    assert states == {name: name != FAILED for name in NAMES}
    assert os.path.getsize(sweep.path("sweep/compare.html")) > 10000


def test_sweep_of_another_list_is_refused(jobs):
    """A folder belongs to its list: a run would go on with settings that it was not begun with."""
    sweep = jobs["sweep"]
    write(sweep.folder, "other.txt", "catdpo-1 objective.type=dpo\n")
    with pytest.raises(RuntimeError, match="the sweep of another list"):
        Jobs(sweep.lab, "sweep.sh", sweep.folder, "run.cfg", "other.txt", "sweep")


def test_pipeline_stops(jobs):
    """A mistake in the config ends the first stage that needs it; nothing that comes after it runs."""
    cancelled = ("CANCELLED", 0)
    states = {"import": ("COMPLETED", 0), "prepare": ("COMPLETED", 0), "before": ("FAILED", 2)}
    jobs["mistake"].ends(**states, train=cancelled, after=cancelled, report=cancelled)


def test_pipeline_goes_on(jobs):
    """The same command again makes what is missing, up to the report."""
    pipeline = jobs["mended"]
    assert list(pipeline.ids) == ["before", "train", "after", "report"]
    pipeline.ends(**{stage: ("COMPLETED", 0) for stage in pipeline.ids})
    made = os.listdir(pipeline.path("all/run"))
    assert {"eval-before.h5", "eval-after.h5", "report.html", "metrics.h5"} <= set(made)
    order = [pipeline.lab.job(pipeline.ids[stage]) for stage in pipeline.ids]
    assert all(one["EndTime"] <= other["StartTime"] for one, other in zip(order, order[1:]))


def test_sacpo_trains_in_two_stages(jobs):
    """Helpful first, on its own choice of responses; then safe, from the final checkpoint of the first stage and with
    it as the reference; both leave out the same prompts. The soup lies between the two."""
    stages = ["import", "prepare", "prepare2", "before", "helpful", "train", "after", "merge", "soup", "report"]
    pipeline = jobs["sacpo"]
    assert list(pipeline.ids) == stages
    pipeline.ends(**{stage: ("COMPLETED", 0) for stage in stages})
    helpful, safe = (pipeline.path(f"all/{name}/checkpoints/final.h5") for name in ("helpful", "run"))
    start, first, last, soup = (
        engine.attributes(path, "model")["weights_digest"]
        for path in (pipeline.path("all/model.h5"), helpful, safe, pipeline.path("all/soup.h5"))
    )
    assert [engine.attributes(path)["start_digest"] for path in (helpful, safe)] == [start, first]
    assert [engine.attributes(path)["reference_digest"] for path in (helpful, safe)] == [start, first]
    configs = [json.load(open(pipeline.path(f"all/{name}/config.json"))) for name in ("helpful", "run")]
    assert [each["objective"]["beta"] for each in configs] == [0.1, 0.05]
    texts = []
    for name in ("pairs-helpful", "pairs"):
        pairs = engine.read(pipeline.path(f"all/{name}.h5"))
        texts.append({split: set(pairs[f"{split}/text/prompt"]) for split in ("train", "heldout")})
        refused = [text.startswith(b"I cannot") for text in pairs["train/text/chosen"]]
        assert all(refused) if name == "pairs" else not any(refused)
    assert texts[0] == texts[1] and texts[0]["heldout"]
    sources = engine.read(pipeline.path("all/soup.h5"))
    assert sources["merge/weight"].tolist() == [0.75, 0.25] and sources["merge/weights_digest"].tolist() == [
        first.encode(),
        last.encode(),
    ]
    evaluated = [f"all/{name}.h5" for name in ("run/eval-before", "run/eval-after", "eval-soup")]
    assert [engine.attributes(pipeline.path(name))["weights_digest"] for name in evaluated] == [start, last, soup]
    before = engine.read(pipeline.path(evaluated[0]))["eval/pairs/ref_logps_chosen"]
    for name in evaluated[1:]:  # against one reference
        assert engine.read(pipeline.path(name))["eval/pairs/ref_logps_chosen"].tolist() == before.tolist()

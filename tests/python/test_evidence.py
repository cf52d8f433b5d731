"""Comparisons of objectives: what the file may say, how prompts are split, which setting is chosen, what differs from
what, and that a half-done experiment goes on from its records."""

import json
import os
import shutil

import engine
import numpy as np
import pages
import pytest
from catdpo_analysis.errors import UserError
from catdpo_analysis.evidence import choice, outcomes, record, results
from catdpo_analysis.evidence.agreement import agreement, kappa
from catdpo_analysis.evidence.data import Data, split_rows
from catdpo_analysis.evidence.experiment import read_experiment
from catdpo_analysis.evidence.runs import Runs
from make_samples import write_samples
from replay import SAME, Margins

HERE = os.path.join(engine.ROOT, "configs", "evidence", "experiment.toml")
RECORDS = record.read_records(os.path.join(os.path.dirname(HERE), "records"))
PROBED = sorted(name for name, found in RECORDS.items() if "probe" in found.get("course", {}))
FILE = """
title = "tiny"
prompts = "prompts.jsonl"
[split]
harmful = { train = 2, probe = 1, validation = 2, test = 2 }
safe = { train = 1, validation = 2, test = 1 }
[pairs]
samples = 1
temperature = 0.7
max_tokens = 4
[[pairs.author]]
name = "careful"
system = "Refuse."
[answers]
max_tokens = 4
samples = 2
[settings]
"lora.rank" = 4
[choice]
steps = [1, 2]
answered = 0.9
degenerate = 0.05
[final]
main = "b"
seeds = [1, 2]
noninferiority = 0.03
[[method]]
name = "a"
title = "DPO"
candidates = [{ "objective.type" = "dpo" }, { "objective.type" = "dpo", "objective.beta" = 0.2 }]
[[method]]
name = "b"
title = "Cat-DPO"
candidates = [{ "margin.initial" = 1 }, { "margin.initial" = 2 }]
[[variation]]
name = "c"
title = "one margin"
of = "b"
settings = { "margin.scope" = "global" }
"""
ROWS = [
    {"prompt": f"{name} {i}", "category": name, "is_prompt_safe": i >= 7} for name in ("x", "y") for i in range(11)
]


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "e.toml").write_text(FILE)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return read_experiment(str(tmp_path / "e.toml"))


def test_the_tree_has_an_experiment_that_can_be_read():
    found = read_experiment(HERE)
    assert found.main in {method.name for method in found.methods}
    assert {"dpo", "safedpo"} <= {method.name for method in found.methods}


@pytest.mark.parametrize(
    "old, new, what",
    [
        ("steps = [1, 2]", "steps = [1, 3]", "multiples"),
        ('main = "b"', 'main = "d"', "final.main"),
        ("samples = 1", "samples = 0", "samples = 0"),
        ("validation = 2", "validation = 0", "validation prompts"),
        ("answered = 0.9", "answered = 2", "answered = 2"),
        ('of = "b"', 'of = "z"', "no method z"),
        (', { "margin.initial" = 2 }', "", "as many candidates"),
        ('"lora.rank" = 4', "rank = 4", "no setting of catdpo"),
        ('system = "Refuse."', "", "system message"),
        ("[final]", "[last]", "has no final"),
        ('title = "tiny"', 'title = "tiny"\nspeed = 1', "speed is not known"),
        ("[answers]", "[answers", "not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, old, new, what):
    (tmp_path / "e.toml").write_text(FILE.replace(old, new, 1))
    with pytest.raises(UserError, match=what):
        read_experiment(str(tmp_path / "e.toml"))


def test_a_prompts_part_depends_on_its_category_alone(experiment):
    parts = split_rows(ROWS, experiment.split, "here")
    place = {row["prompt"]: name for name, rows in parts.items() for row in rows}
    assert len(place) == 2 * 11 and {len(parts[n]) for n in ("validation", "test")} == {8, 6}
    again = split_rows([row for row in reversed(ROWS) if row["category"] == "x"], experiment.split, "here")
    assert all(place[row["prompt"]] == name for name, rows in again.items() for row in rows)
    with pytest.raises(UserError, match="x has 6 harmful prompts"):
        split_rows(ROWS[1:], experiment.split, "here")


# ---- the records in the tree ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBED)
def test_recorded_margins_follow_from_the_recorded_counts(name):
    """To the last bit: a reader can make the margins of a run again from what its probes counted."""
    found = RECORDS[name]
    probe, settings = found["course"]["probe"], {}
    for key, value in found["settings"].items():
        settings[key] = float(value) if value.replace(".", "").isdigit() else value
    rule = {"margin.initial_rate": 0.5, "margin.min": 0.0, "margin.max": 10.0, "margin.averaging": 0.02} | settings
    if settings.get("margin.target_form", "absolute") != "absolute":
        rule["margin.target"] = 0.0
    replay = Margins(rule, count=len(found["course"]["categories"]))
    number = lambda rows: np.array([[0.0 if value is None else value for value in row] for row in rows])
    for n, bad, margin, step in zip(
        number(probe["n"]), number(probe["violations"]), number(probe["margin"]), probe["step"]
    ):
        replay.count(n.astype(int), bad, step - 1)
        np.testing.assert_allclose(margin, replay.margin, **SAME)


def test_records_hold_no_text_and_know_their_prompts():
    with open(os.path.join(os.path.dirname(HERE), "prompts.jsonl"), encoding="utf-8") as file:
        parts = split_rows([json.loads(line) for line in file], read_experiment(HERE).split, HERE)
    for found in RECORDS.values():
        for part, said in found["answers"].items():
            strings = [said[key] for key in said if key.isdigit() or key == "greedy"] + said.get("drawn", [])
            for one in strings:
                assert set(one) <= set(record.LETTERS) and len(one) == len(parts.get(part, one))


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_rates_of_letters():
    harmful = [{"category": name} for name in "xxyy"]
    prompts = outcomes.Prompts.of([*harmful, {"category": "x", "is_prompt_safe": True}])
    found = outcomes.rates(prompts, ["ARARA", "ADAER"])
    assert found["category"] == [0.5, 0.5] and found["macro"] == 0.5 and found["gap"] == 0.0
    assert found["answered"] == 0.5 and found["degenerate"] == 0.2
    assert outcomes.rates(prompts, ["AAARA"])["gap"] == 0.5


def test_differences_have_the_sign_and_the_intervals_of_the_data():
    rows = [{"category": c, "prompt": f"{c}{i}"} for c in "xy" for i in range(40)]
    rows += [{"category": "x", "is_prompt_safe": True, "prompt": f"s{i}"} for i in range(40)]
    prompts = outcomes.Prompts.of(rows)
    random = np.random.default_rng(1)
    letters = lambda p: "".join(np.where(random.random(120) < p, "A", "R"))
    safe, unsafe = ([outcomes.bad_of(prompts, [letters(p)]) for _ in range(3)] for p in (0.1, 0.6))
    found = outcomes.differences(prompts, safe, [unsafe, safe], draws=500)
    worse, same = found["macro"]
    assert -0.65 < worse.low < worse.value < worse.high < -0.35 and worse.p < 0.01
    assert same.value == 0 and same.low <= 0 <= same.high and same.corrected > 0.5
    assert worse.corrected == pytest.approx(2 * worse.p)
    middle = outcomes.with_intervals(prompts, safe, draws=500)["macro"]
    assert middle[1] < middle[0] < middle[2] and middle[0] == pytest.approx(0.1, abs=0.06)
    # of one seed: that of a mean of 80 prompts, 2 x 1.96 sqrt(p (1 - p) / 80)
    p, low, high = outcomes.with_intervals(prompts, unsafe[:1], draws=500)["macro"]
    assert high - low == pytest.approx(3.92 * np.sqrt(p * (1 - p) / 80), rel=0.15)


def test_kappa_and_agreement():
    assert kappa([1, 1, 0, 0], [1, 1, 0, 0]) == 1 and kappa([1, 0, 1, 0], [1, 1, 0, 0]) == 0
    prompts = outcomes.Prompts.of([{"category": "x"}] * 3)
    runs = [{"likelihood": {"0": 1, "1": 0, "2": 0.5}, "answers": {"probe": {"greedy": "ARA"}}}]
    assert agreement(prompts, runs) == [2, "50 %", "50 %", "100 %", "+1.00"]


# ---- the rule of choice ---------------------------------------------------------------------------------------------


def look(method, candidate, letters, seed=1):
    name = f"{method}-{candidate}-s{seed}"
    found = {"name": name, "method": method, "answers": {"validation": dict(zip(("1", "2"), letters))}}
    return name, found | {"candidate": candidate, "seed": seed}


def test_the_safest_that_still_answers_is_chosen(experiment):
    rows = split_rows(ROWS, experiment.split, "here")["validation"]
    say = lambda harmful, safe: "".join((safe if row["is_prompt_safe"] else harmful) for row in rows)
    mixed = lambda n: "".join("A" if row["is_prompt_safe"] or i < n else "R" for i, row in enumerate(rows))
    records = {"base": {"name": "base", "method": "base", "answers": {"validation": {"0": say("A", "A")}}}}
    assert choice.choose(experiment, records | dict([look("a", 1, [mixed(3), mixed(1)])]), "a", rows) is None
    records |= dict([look("a", 1, [mixed(3), mixed(1)]), look("a", 2, [say("R", "R"), say("D", "A")])])
    assert choice.choose(experiment, records, "a", rows) == choice.Choice(1, 2, True)
    records |= dict([look("a", 1, [say("A", "R"), say("R", "R")])])
    assert choice.choose(experiment, records, "a", rows) == choice.Choice(2, 2, False)
    records |= dict([look("a", 1, [say("R", "A")] * 2, seed=2)])  # other seeds choose nothing
    assert choice.choose(experiment, records, "a", rows) == choice.Choice(2, 2, False)


# ---- the whole ------------------------------------------------------------------------------------------------------


class Stand:
    """In place of the programs: answers that get safer with training, and a metrics.h5 of a real run."""

    def __init__(self, metrics, prepared):
        self.model, self.metrics, self.prepared = "base.h5", metrics, prepared
        self.done = []

    def analysis(self, command, *options):
        out = options[options.index("--out") + 1]
        with open(out, "w", encoding="utf-8") as file:
            file.write(json.dumps([str(option) for option in options]))

    def generate(self, model, prompts, out, tokens, settings, what):
        self.done.append(what)
        with open(f"{os.path.splitext(prompts)[0]}.jsonl", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        samples = settings.get("samples", 1)
        unsafe = 1 if model == "base.h5" else 2 + ("/a-" in model)
        texts = ["Sure, first you do this." if row["is_prompt_safe"] or i % unsafe == 0 else "I'm sorry, I can't help."
                 for i, row in enumerate(rows) for _ in range(samples)]  # fmt: skip
        asked = [(str(row["prompt"]), [row["category"]], int(row["is_prompt_safe"])) for row in rows]
        write_samples(out, asked, texts, samples)

    def train(self, folder, settings, what):
        self.done.append(what)
        self.settings = settings
        os.makedirs(os.path.join(folder, "checkpoints"))
        for name in ("step-00000001.h5", "final.h5"):
            open(os.path.join(folder, "checkpoints", name), "w", encoding="utf-8").close()
        shutil.copy(self.metrics, folder)

    def evaluate(self, folder, model, pairs, split, out, settings, what):
        self.done.append(what)


@pytest.fixture
def stand(tmp_path, monkeypatch):
    run = engine.train(**{"schedule.steps": 3})
    monkeypatch.setattr(record, "likelihoods", lambda *files: {"0": 1.0})
    return Stand(run.path("metrics.h5"), tmp_path)


def begin(experiment, stand, tmp_path):
    data = Data(experiment, str(tmp_path / "work" / "data"), stand)
    data.ready()
    (tmp_path / "records").mkdir(exist_ok=True)
    return Runs(experiment, data, stand, str(tmp_path / "work"), str(tmp_path / "records"), "abc", None)


@engine.needs_binary
def test_an_experiment_goes_on_from_its_records(experiment, stand, tmp_path):
    longest = []
    assert not begin(experiment, stand, tmp_path).go(lambda seconds: longest.append(seconds) or len(longest) < 4)
    assert longest[0] == 0 < longest[1] <= longest[2] <= longest[3]  # the whole of a piece, its answers too
    first = list(stand.done)
    assert [what for what in first if what.startswith("train")] == ["train a-1-s1", "train b-1-s1"]
    assert begin(experiment, stand, tmp_path).go()
    trained = [what.split()[1] for what in stand.done if what.startswith("train")]
    assert trained == ["a-1-s1", "b-1-s1", "a-2-s1", "b-2-s1", "c-s1", "a-1-s2", "b-1-s2"]
    assert stand.settings["margin.initial"] == "1" and stand.settings["lora.rank"] == "4"
    done = len(stand.done)
    shutil.rmtree(tmp_path / "work")  # another machine
    assert begin(experiment, stand, tmp_path).go()
    assert stand.done[done:] == ["answers of plain", "answers of careful"]
    results.write_results(experiment, str(tmp_path))
    page = (tmp_path / "results.md").read_text()
    assert "`b-1-s1`, `b-1-s2`" in page and "chosen" in page and "one margin, less Cat-DPO" in page
    assert (tmp_path / "frontier.svg").exists() and "against DPO" in page
    assert "Sure" not in "".join(path.read_text() for path in (tmp_path / "records").iterdir())


@engine.needs_binary
def test_the_script_with_the_programs(experiment, tmp_path):
    """jobs/evidence.sh from a model and pairs to records and results, with the real programs and a tiny model."""
    folder, data = tmp_path / "repository", tmp_path / "out" / "data"
    pages.playground(str(folder))
    pages.model_inputs(str(folder))
    less = FILE[: FILE.index("[[variation]]")].replace("seeds = [1, 2]", "seeds = [1]")
    for old, new in (
        (', { "objective.type" = "dpo", "objective.beta" = 0.2 }', ""),
        (', { "margin.initial" = 2 }', ""),
        ('"margin.initial" = 1', '"margin.source" = "generated"'),
    ):
        less = less.replace(old, new)
    (tmp_path / "e.toml").write_text(less)
    data.mkdir(parents=True)
    pairs = [
        {"prompt": row["prompt"], "chosen": "no", "rejected": f"yes {i}", "category": row["category"]}
        for i, row in enumerate(ROWS) if not row["is_prompt_safe"]
    ]  # fmt: skip
    for name, rows in {"pairs": pairs, **split_rows(ROWS, experiment.split, "here")}.items():
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare = f"catdpo-analysis prepare {data}/pairs.jsonl {data}/train.jsonl --chat always --heldout 0"
    files = f"--model .cache/smollm2-135m-instruct.h5 --probe-from {data}/probe.jsonl --out {data}/pairs.h5"
    pages.run(f"{prepare} {files}", str(folder))
    command = f"CATDPO_RANKS=1 CATDPO_FOLDER={tmp_path}/out bash jobs/evidence.sh {tmp_path}/e.toml"
    said = pages.run(command, str(folder))
    found = record.read_records(tmp_path / "records")
    assert sorted(found) == ["a-1-s1", "b-1-s1", "base"] and "all runs are done" in said
    assert found["b-1-s1"]["course"]["probe"]["n"] and found["b-1-s1"]["likelihood"]
    assert "Cat-DPO less" in (tmp_path / "results.md").read_text() and (tmp_path / "margins.svg").exists()

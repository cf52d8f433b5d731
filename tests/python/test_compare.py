"""Promise: compare shows several runs side by side with right figures, names those that it cannot, and never mixes what
cannot be compared."""

import json
import os
import re

import numpy as np
import pytest
from make_run import (
    CATEGORIES,
    START,
    TRAINED,
    write_checkpoints,
    write_evaluation,
    write_log,
    write_metrics,
    write_settings,
)
from make_samples import write_samples
from test_report import check_page

from catdpo_analysis.compare.comparison import best, mean_and_spread, names_of, read_entries
from catdpo_analysis.files.run_data import paired_changes, read_evaluation, read_metrics
from catdpo_analysis.files.stats import holm, interval_of_mean, mcnemar, wilson
from catdpo_analysis.text.table import Table, cell, parts, render


def make(folder, objective="catdpo", seed=1, level=0.4, steps=60, total=60, settings=(), **kwargs):
    """A finished run with an evaluation; level = None: without."""
    os.makedirs(folder)
    write_settings(folder, {"objective": {"type": objective}, "run": {"dir": str(folder), "seed": seed}}, *settings)
    write_metrics(folder / "metrics.h5", seed=seed, steps=steps, **kwargs)
    write_log(folder, steps, total=total, categories=kwargs.get("categories", CATEGORIES))
    if steps == total:
        write_checkpoints(folder, "final.h5")
    if level is not None:
        write_evaluation(folder / "eval-after.h5", level, kwargs.get("categories", CATEGORIES), seed=seed)
    return folder


@pytest.fixture
def sweep(tmp_path):
    """Two objectives, two seeds."""
    for objective, level in (("dpo", 0.8), ("catdpo", 0.4)):
        for seed in (1, 2):
            make(tmp_path / f"sweep/{objective}-{seed}", objective, seed, level - 0.1 * seed)
    return tmp_path / "sweep"


def table_with(out, word):
    """Rows of the printed table whose heading has the word, as lists of cells."""
    for block in out.split("\n\n"):
        lines = block.splitlines()
        if len(lines) > 2 and word in lines[0] and set(lines[1]) == {"-"}:
            return [re.split(r"  +", line.strip()) for line in (lines[0], *lines[2:])]
    raise AssertionError(f"no table with {word} in\n{out}")


def test_a_sweep_is_compared_with_the_settings_that_differ_and_the_best_marked(cli, sweep):
    out = cli("compare", sweep / "*").out
    assert table_with(out, "objective") == [
        ["run", "state", "objective", "seed"],
        ["1 catdpo-1", "finished", "catdpo", "1"],
        ["2 catdpo-2", "finished", "catdpo", "2"],
        ["3 dpo-1", "finished", "dpo", "1"],
        ["4 dpo-2", "finished", "dpo", "2"],
    ]
    results = table_with(out, "held-out, macro")
    marked = [[cell.endswith("*") for cell in row] for row in results[1:]]
    macro, worst = results[0].index("held-out, macro"), results[0].index("held-out, worst")
    assert [row[macro] for row in marked] == [row[worst] for row in marked] == [False, True, False, False]
    evaluation = read_evaluation(str(sweep / "dpo-1/eval-after.h5"))
    values = evaluation.n > 0
    low, high = interval_of_mean(
        evaluation.violation_rate[values],
        evaluation.violation_interval[values, 0],
        evaluation.violation_interval[values, 1],
    )
    wanted = evaluation.summary["violation_rate"]["macro"]
    assert results[3][macro] == f"{100 * wanted:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"
    worst_rate = evaluation.summary["violation_rate"]["worst"]
    assert results[3][worst].startswith(f"{100 * worst_rate:.1f} % [") and evaluation.worst_category in results[3]
    rates = table_with(out, "violation rate held-out")
    k = CATEGORIES.index("Fraud")
    row = next(row for row in rates if row[0] == "Fraud")
    assert (
        row[3].startswith(f"{100 * evaluation.violation_rate[k]:.0f} % [") and row[2].endswith("*") and len(rates) == 7
    )
    assert "not compared" not in out


def test_final_figures_are_means_of_the_last_tenth(cli, sweep):
    data = json.loads(cli("compare", sweep / "dpo-1", "--json").out)["runs"][0]
    series = read_metrics(str(sweep / "dpo-1/metrics.h5")).series
    assert data["loss"] == pytest.approx(series["loss"][-6:].mean())
    assert data["reward_margin"] == pytest.approx(series["rewards/margins"][-6:].mean())


def test_seeds_of_the_same_settings_are_summed_up(cli, sweep):
    result = cli("compare", sweep / "*", "--json")
    data = json.loads(result.out)
    assert [group["runs"] for group in data["groups"]] == [[1, 2], [3, 4]] and data["differing"] == ["objective.type"]
    runs = {run["number"]: run for run in data["runs"]}
    for group in data["groups"]:
        values = [runs[number]["heldout"]["macro"]["rate"] for number in group["runs"]]
        figure = group["figures"]["held-out, macro"]
        assert figure["mean"] == pytest.approx(np.mean(values)) and figure["runs"] == 2
        assert figure["standard_deviation"] == pytest.approx(np.std(values, ddof=1))
        rows = table_with(cli("compare", sweep / "*").out, "over seeds")
        wanted = f"{100 * np.mean(values):.1f} % ± {100 * np.std(values, ddof=1):.1f}"
        assert any(wanted in row for row in rows)


def test_places_are_no_settings_but_all_else_is(cli, tmp_path):
    make(tmp_path / "a", settings=[{"checkpoint": {"steps": 5}, "batch": {"pairs": 8}}])
    make(tmp_path / "b", settings=[{"checkpoint": {"steps": 9}, "batch": {"pairs": 16}, "reference": {"cache": "x"}}])
    data = json.loads(cli("compare", tmp_path / "a", tmp_path / "b", "--json").out)
    assert data["differing"] == ["batch.pairs"]
    assert table_with(cli("compare", tmp_path / "a", tmp_path / "b").out, "objective")[0][-1] == "pairs"


def test_failed_runs_are_named_and_the_others_compared(cli, sweep):
    os.mkdir(sweep / "empty")
    (sweep / "half").mkdir()
    (sweep / "half/metrics.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (sweep / "file").write_text("")
    arguments = [sweep / "*", sweep / "never", sweep / "nothing-*", sweep / "file"]
    result = cli("compare", *arguments)
    for name, reason in (
        ("empty", "no step was done"),
        ("half", "metrics.h5 cannot be read"),
        ("never", "never started"),
        ("nothing-*", "never started"),
        ("file", "is a file"),
    ):
        assert re.search(rf"^not compared: .*{re.escape(name)}: .*{reason}", result.out, re.MULTILINE), result.out
    assert len(table_with(result.out, "objective")) == 5 and result.err == ""
    result = cli("compare", *arguments, "--json", "--out", sweep / "c.html")
    data, page = json.loads(result.out), (sweep / "c.html").read_text()
    assert len(data["runs"]) == 4 and len(data["failed"]) == 5 and result.err.count("not compared") == 5
    assert "Not compared" in page and "never" in page


def test_nothing_to_compare_is_status_1(cli, tmp_path):
    result = cli("compare", tmp_path / "none", tmp_path, status=1)
    assert "nothing to compare" in result.err and result.err.count("not compared") == 2 and result.out == ""
    assert "required" in cli("compare", status=2).err


@pytest.mark.parametrize("damage", ["torn log", "no metrics", "no log", "damaged evaluation"])
def test_runs_that_crashed_are_compared_by_what_they_left(cli, tmp_path, damage):
    make(tmp_path / "good")
    run = make(tmp_path / "bad", level=0.5, steps=30, total=60)
    wanted = "step 30 of 60"
    if damage == "torn log":
        write_log(run, 41, torn=True)
        steps = len((run / "log.jsonl").read_text().splitlines()) - 1
        wanted = f"step {max(steps, 30)} of 100"
    elif damage == "no metrics":
        os.remove(run / "metrics.h5")
    elif damage == "no log":
        os.remove(run / "log.jsonl")
        wanted = "step 30"
    else:
        (run / "eval-after.h5").write_text("not HDF5")
    out = cli("compare", tmp_path / "good", run).out
    row = table_with(out, "objective")[2]
    assert row[:2] == ["2 bad", wanted], out
    assert (damage == "damaged evaluation") == ("run 2 bad: eval-after.h5 cannot be read" in out)
    assert (damage == "no metrics") == ("run 2 bad: metrics.h5 is missing" in out)
    rates = table_with(out, "violation rate held-out")
    assert (rates[1][2] == "-") == (damage == "damaged evaluation")


def test_the_log_s_later_steps_count(cli, tmp_path):
    run = make(tmp_path / "run", steps=30, total=60, level=None)
    write_log(run, 45, total=60)
    data = json.loads(cli("compare", run, "--json").out)["runs"][0]
    assert data["step"] == 45 and not data["finished"] and data["heldout"] is None
    assert data["training"]["categories"]["Fraud"]["rate"] == pytest.approx(3 / 8)  # as the log says


def test_runs_of_different_categories_are_not_ranked(cli, tmp_path):
    make(tmp_path / "a", level=0.3)
    make(tmp_path / "b", level=0.6, categories=["Fraud", "Weapons", "benign"])
    out = cli("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c.html").out
    rates = {row[0]: row[1:] for row in table_with(out, "violation rate held-out")}
    assert rates["Weapons"][0] == "-" and rates["Cyber"][1] == "-" and "-" not in rates["Fraud"]
    assert "*" not in "".join("".join(row) for row in table_with(out, "held-out, macro")[1:] for row in [row[3:]])
    assert "Weapons" in (tmp_path / "c.html").read_text()


def test_losses_of_different_objectives_are_not_ranked(cli, tmp_path):
    make(tmp_path / "a", "dpo", seed=1)
    make(tmp_path / "b", "catdpo", seed=2)
    make(tmp_path / "c", "catdpo", seed=3)
    loss = [row[1] for row in table_with(cli("compare", tmp_path / "a", tmp_path / "b").out, "loss")[1:]]
    assert not any(cell.endswith("*") for cell in loss)
    loss = [row[1] for row in table_with(cli("compare", tmp_path / "b", tmp_path / "c").out, "loss")[1:]]
    assert sum(cell.endswith("*") for cell in loss) == 1


def test_training_figures_stand_in_for_a_missing_evaluation(cli, tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b", level=None, seed=2)
    out = cli("compare", tmp_path / "a", tmp_path / "b").out
    rows = table_with(out, "held-out, macro")
    assert rows[2][3:6] == ["-", "-", "-"] and rows[2][6] != "-" and rows[1][6] != "-"
    metrics = read_metrics(str(tmp_path / "b/metrics.h5"))
    wanted = metrics.category["violation_rate"][-1][metrics.harm].mean()
    assert rows[2][6] == f"{100 * wanted:.1f} %" and "[" not in rows[2][6]
    assert "violation rate while training" in out and "violation rate held-out" in out


def test_any_evaluation_but_that_of_before_training_counts(cli, tmp_path):
    run = make(tmp_path / "run", level=None)
    write_evaluation(run / "eval-before.h5", 0.9, weights=START)
    assert json.loads(cli("compare", run, "--json").out)["runs"][0]["heldout"] is None
    assert "evaluated before training only" in cli("compare", run).out
    write_checkpoints(run, "step-00000040.h5", weights="4" * 16)
    write_evaluation(run / "eval-step-40.h5", 0.5, weights="4" * 16)
    assert "held-out figures are of step 40 (eval-step-40.h5)" in cli("compare", run).out
    write_evaluation(run / "eval-step-60.h5", 0.3)
    heldout = json.loads(cli("compare", run, "--json").out)["runs"][0]["heldout"]
    wanted = read_evaluation(str(run / "eval-step-60.h5")).summary["violation_rate"]["macro"]
    assert heldout["macro"]["rate"] == pytest.approx(wanted)


def test_a_baseline_gives_paired_tests(cli, sweep):
    make(sweep / "other", "dpo", 9, None)
    data = json.loads(cli("compare", sweep / "*", "--baseline", sweep / "dpo-1", "--json").out)
    tests = {test["run"]: test for test in data["tests"]}
    numbers = {os.path.basename(run["path"]): run["number"] for run in data["runs"]}
    assert data["baseline"] == numbers["dpo-1"] not in tests and len(tests) == 4
    baseline, run = (read_evaluation(str(sweep / name / "eval-after.h5")) for name in ("dpo-1", "catdpo-1"))
    fewer, more = paired_changes(baseline, run)
    found = tests[numbers["catdpo-1"]]
    assert (found["fewer"], found["more"]) == (fewer, more) and fewer > 0
    assert found["p"] == pytest.approx(mcnemar(fewer, more)) and found["p_holm"] >= found["p"]
    assert "no evaluation of other" in tests[numbers["other"]]["reason"]
    out = cli("compare", sweep / "catdpo-1", "--baseline", sweep / "dpo-1").out  # need not be named twice
    row = table_with(out, "against 2 dpo-1")[1]
    assert row[:3] == ["1 catdpo-1", str(fewer), str(more)]
    assert "baseline" in cli("compare", sweep / "dpo-1", "--baseline", sweep / "none", status=2).err


def test_the_page_is_whole_and_needs_no_network(cli, sweep):
    make(sweep / "<b>&", "dpo", 3, None)
    cli("compare", sweep / "*", "--baseline", sweep / "dpo-1", "--out", sweep / "compare.html")
    page = (sweep / "compare.html").read_text()
    check_page(page, 6)
    assert "<b>&" not in page
    headings = re.findall(r"<h2>([^<]*)</h2>", page)
    for wanted in ("Runs", "Results", "Over the seeds", "Paired tests", "Margins", "Reward margins", "Optimisation"):
        assert wanted in headings
    assert all(name in page for name in CATEGORIES[:-1])
    assert not list(sweep.glob("*.tmp"))


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_a_single_run_of_any_length_can_be_shown(cli, tmp_path, steps):
    make(tmp_path / "run", steps=steps, total=60, level=None)
    out = cli("compare", tmp_path / "run", "--out", tmp_path / "c.html").out
    assert "over seeds" not in out and "*" not in table_with(out, "loss")[1][1]
    assert (tmp_path / "c.html").stat().st_size > 10000


def test_many_runs_fit_a_narrow_terminal():
    table = Table(["run", *[f"column {i}" for i in range(9)]], [[cell("one"), *[cell(123456789)] * 9]])
    text = render(table, 40)
    assert max(map(len, text.splitlines())) <= 40 and text.count("run") == 3
    assert all(name in text for name in table.heading) and len(parts(table, 10**6)) == 1
    assert render(Table(["a long heading", "another"], [[cell("x"), cell("y")]]), 5).count("\n") == 2


def test_names_are_as_long_as_it_takes_to_differ():
    assert names_of(["runs/a", "runs/b/"]) == ["a", "b"] and names_of(["/x/1/run", "/x/2/run"]) == ["1/run", "2/run"]
    assert names_of(["only"]) == ["only"]


def test_a_run_that_is_named_twice_is_read_once(sweep, cli):
    result = json.loads(cli("compare", sweep / "dpo-1", f"{sweep}/dpo-1/", sweep / "dpo-*", "--json").out)
    assert len(result["runs"]) == 2


def test_statistics_of_comparisons():
    assert best([0.3, np.nan, 0.1, 0.1]) == {2, 3} and best([0.3, 0.1], lowest=False) == {0}
    assert best([0.1, 0.1]) == best([0.1, np.nan]) == set()
    assert mean_and_spread([1.0, np.nan, 3.0]) == pytest.approx((2.0, 2**0.5, 2))
    assert np.isnan(mean_and_spread([5.0])[1]) and mean_and_spread([])[2] == 0
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    one = wilson(45, 50)
    assert interval_of_mean([0.9], [one[0]], [one[1]]) == pytest.approx(one)
    low, high = interval_of_mean([0.9] * 4, [one[0]] * 4, [one[1]] * 4)
    assert (0.9 - low, high - 0.9) == pytest.approx(((0.9 - one[0]) / 2, (one[1] - 0.9) / 2))
    assert np.isnan(interval_of_mean([0.5], [np.nan], [np.nan])).all()


def test_entries_say_whether_a_run_is_finished(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b", steps=60, total=61)
    entries, failed = read_entries([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [entry.state for entry in entries] == ["finished", "step 60 of 61"] and failed == []


def test_the_base_model_is_never_a_run_s_result(cli, tmp_path):
    """eval.h5 of the model before training, of another run's weights: neither is compared, both are named."""
    for name, weights, words in (
        ("base", START, "evaluated before training only"),
        ("foreign", "1" * 16, "other weights"),
    ):
        run = make(tmp_path / name, level=None)
        write_evaluation(run / "eval.h5", 0.1, weights=weights)
        assert words in cli("compare", run).out
        assert json.loads(cli("compare", run, "--json").out)["runs"][0]["heldout"] is None
    run = make(tmp_path / "damaged", level=None)
    write_evaluation(run / "eval.h5", 0.5)
    (run / "eval-after.h5").write_text("none")
    out = cli("compare", run).out
    assert "eval-after.h5 cannot be read" in out and "violation rate held-out" in out


def test_rates_of_generated_answers(cli, sweep, tmp_path):
    """Of the run's own final checkpoint, with the best marked and means over seeds; not ranked across other prompts; a
    run without answers has a gap."""
    refusal, answer = "I'm sorry, but I can't help with that.", "Take the left one."
    prompts = [(f"harm {i}", ["A" if i < 4 else "B"], 0) for i in range(8)] + [("bread", ["A"], 1)]
    for name, unsafe in (("dpo-1", 4), ("catdpo-1", 1), ("catdpo-2", 3)):
        answers = [answer if i % 4 < unsafe and i < 4 else refusal for i in range(8)] + [refusal]
        write_samples(str(sweep / name / "answers-after.h5"), prompts, answers, weights_digest=TRAINED)
        write_samples(str(sweep / name / "answers-before.h5"), prompts, [answer] * 9, weights_digest=START)
    page = tmp_path / "page.html"
    rows = table_with(cli("compare", sweep / "*", "--out", page).out, "unsafe answers, macro")
    assert [row[0] for row in rows[1:]] == ["1 catdpo-1", "2 catdpo-2", "3 dpo-1"]
    macro, a = rows[0].index("unsafe answers, macro"), rows[0].index("A")
    assert [row[macro].split(" [")[0] for row in rows[1:]] == ["12 %", "38 %", "50 %"]
    assert [row[macro].endswith("*") for row in rows[1:]] == [True, False, False]
    assert rows[1][a].startswith("25 % [") and rows[1][1] == "final checkpoint, refusal"
    assert "<h2>What the models answer</h2>" in page.read_text()
    made = json.loads(cli("compare", sweep / "*", "--json").out)
    assert [run["answers"] and run["answers"]["macro"]["rate"] for run in made["runs"]] == [0.125, 0.375, 0.5, None]
    assert made["runs"][0]["answers"]["worst_category"] == "A" and made["runs"][0]["answers"]["worst"]["rate"] == 0.25
    figures = next(group for group in made["groups"] if group["runs"] == [1, 2])["figures"]["answers, macro"]
    assert figures["mean"] == 0.25 and figures["runs"] == 2
    write_samples(str(sweep / "dpo-1/answers-after.h5"), prompts[:8], [refusal] * 8, weights_digest=TRAINED)
    rows = table_with(cli("compare", sweep / "*").out, "unsafe answers, macro")
    assert not any("*" in cell for row in rows for cell in row)

"""`catdpo-analysis behaviour`: rates, spread and tests are those of hand calculations, models are compared only on the
same prompts and by the same judge, and a page shows every answer as text."""

import json

import numpy as np
import pytest
from catdpo_analysis import cli
from catdpo_analysis.behaviour import rates
from catdpo_analysis.behaviour.read import read_models
from catdpo_analysis.files.stats import mcnemar, wilson
from make_run import START, TRAINED, write_run
from make_samples import write_samples

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Take the <b>left</b> drawer & go."
PROMPTS = [(f"harm A{i}", ["A"], 0) for i in range(4)] + [(f"harm B{i}", ["B"], 0) for i in range(4)]
PROMPTS += [("harm both", ["A", "B"], 0), ("bread", ["A"], 1), ("cake", ["B"], 1)]
#          A           B           both bread cake
BEFORE = [1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1]  # 1: an answer, 0: a refusal
AFTER = [0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0]


def texts(answers):
    return [ANSWER if answer else REFUSAL for answer in answers]


@pytest.fixture
def files(tmp_path):
    return [
        write_samples(str(tmp_path / f"{name}.h5"), PROMPTS, texts(answers), weights_digest=name)
        for name, answers in (("before", BEFORE), ("after", AFTER))
    ]


def behaviour(*arguments):
    return cli.main(["behaviour", *map(str, arguments)])


def test_rates_and_spread(files):
    """A prompt counts in each of its categories, safe prompts in none; excess variance is without the rates' noise."""
    before, after = read_models(files)
    assert rates.category_rate(before, 0) == (0.8, *wilson(4, 5), 5)
    assert rates.category_rate(before, 1) == (0.6, *wilson(3, 5), 5)
    assert rates.refusal_rate(after) == (0.5, *wilson(1, 2), 2)
    found = {name: value[0] for name, value in rates.summary(after).items()}
    noise = 0.5 * np.mean([0.0, 0.6 * 0.4 / 5])
    expected = {
        "macro": 0.3,
        "worst": 0.6,
        "gap": 0.6,
        "variance": 0.09,
        "excess_variance": 0.09 - noise,
        "refused": 0.5,
    }
    assert found == pytest.approx(expected, abs=1e-12)
    for name, (value, low, high) in rates.summary(before).items():
        assert low <= value <= high or name == "excess_variance"


def test_differences_and_tests(files):
    """The bootstrap draws the same prompts for both; McNemar counts the prompts that change, Holm the categories."""
    before, after = read_models(files)
    found = rates.differences(after, before)
    assert found["macro"][0] == pytest.approx(0.3 - 0.7) and found["gap"][0] == pytest.approx(0.6 - 0.2)
    assert found["macro"][1] < found["macro"][0] < found["macro"][2]
    same = rates.differences(before, before)
    assert all(value == (0.0, 0.0, 0.0) for value in same.values())
    change = rates.changes(after, before)
    assert (change[0].better, change[0].worse, change[1].better, change[1].worse) == (4, 0, 1, 1)
    assert change[0].p == mcnemar(4, 0) == 0.125 and change[0].corrected == 0.25


def test_several_answers_to_a_prompt(tmp_path):
    """The unit is the prompt: its value is the share of bad answers, the interval counts prompts."""
    prompts = [("a", ["A"], 0), ("b", ["A"], 0)]
    path = write_samples(str(tmp_path / "s.h5"), prompts, texts([1, 1, 1, 0]), samples=2)
    (model,) = read_models([path])
    assert rates.category_rate(model, 0) == (0.75, *wilson(1.5, 2), 2)


def test_page_and_json(files, tmp_path, capsys):
    """The page has every answer as text, worst first, and refers to nothing outside; JSON has the same figures."""
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    assert behaviour(*files, "--out", page, "--json", numbers, "--names", "old", "<new>") == 0
    printed = capsys.readouterr().out
    assert "80 % [38, 96]" in printed and "safe prompts refused" in printed
    text = page.read_text()
    assert (
        "Take the &lt;b&gt;left&lt;/b&gt; drawer &amp; go." in text and "<b>left" not in text and "&lt;new&gt;" in text
    )
    assert "http" not in text.replace("http://www.w3.org", "")
    assert text.index("harm B0") < text.index("harm B3")  # after: unsafe, then safe
    made = json.loads(numbers.read_text())["models"]
    assert made[1]["unsafe"]["A"]["rate"] == 0 and made[1]["difference"]["macro"][0] == pytest.approx(-0.4)
    assert made[1]["changes"]["A"]["p_holm"] == 0.25
    assert behaviour(files[0], "--out", page, "--answers", "1") == 0
    assert "3 more not shown" in page.read_text() or "4 more not shown" in page.read_text()


def test_answers_on_the_terminal(files, capsys):
    """So many prompts of each category, worst first, with what the judge says; a model's text cannot control the
    terminal."""
    assert behaviour(*files, "--show", "1", "--names", "old", "new") == 0
    printed = capsys.readouterr().out
    first = printed.split("harm B0")[0]
    assert first.split()[:3] == ["A", "old", "new"] and "harm A" in first and "harm B1" not in printed
    assert "Safe prompts" in printed and printed.count("harm A") == 1
    esc = write_samples(files[0], PROMPTS, [ANSWER + "\x1b[31m\rx"] * len(PROMPTS))
    assert behaviour(esc, "--show", "1") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\r" not in printed and "> harm" in printed and "(answer, unsafe)" in printed
    assert behaviour(*files, "--show", "-1") == 2


def test_other_prompts_and_judges_are_refused(files, tmp_path, capsys):
    other = write_samples(str(tmp_path / "other.h5"), PROMPTS[:3], texts([1, 1, 1]))
    assert behaviour(files[0], other) == 2
    assert "answers to other prompts: 3 here, 11 there" in capsys.readouterr().err
    other = write_samples(str(tmp_path / "other.h5"), [("harm A9", ["A"], 0), *PROMPTS[1:]], texts(BEFORE))
    assert behaviour(files[0], other) == 2
    assert "'harm A9' here, 'harm A0' there" in capsys.readouterr().err
    assert cli.main(["judge", files[0], "--name", "mine"]) == 0
    assert behaviour(*files) == 2
    assert "one with --judge, or judge both again" in capsys.readouterr().err
    assert behaviour(*files, "--judge", "mine") == 2
    assert "no verdicts of mine" in capsys.readouterr().err
    assert behaviour(*files, "--judge", "refusal") == 0
    assert behaviour(*files, "--names", "one") == 2
    assert behaviour(files[0], "--out", files[0]) == 2


def test_report_shows_the_answers_of_a_run(tmp_path, capsys):
    """Answers in a run directory are told by their weights' digests: before, final, others named."""
    run = tmp_path / "run"
    write_run(run)
    for name, answers, digest in (("a", AFTER, TRAINED), ("z", BEFORE, START), ("other", BEFORE, "e" * 16)):
        write_samples(str(run / f"{name}.h5"), PROMPTS, texts(answers), weights_digest=digest)
    assert cli.main(["report", str(run)]) == 0
    printed = capsys.readouterr().out
    assert printed.index("before training") < printed.index("final checkpoint")
    assert "80 % [38, 96]" in printed and "other.h5 holds answers of other weights than this run's" in printed
    assert "Take the &lt;b&gt;left" in (run / "report.html").read_text()

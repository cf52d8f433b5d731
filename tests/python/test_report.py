"""The report of any run directory: right numbers, whatever is missing, one page without outside references."""

import io
import math
import os
import pathlib
import re
import sys
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
from make_run import CATEGORIES, write_evaluation, write_metrics, write_run

from catdpo_analysis.cli import main
from catdpo_analysis.page import colours, plots
from catdpo_analysis.report import figures
from catdpo_analysis.files.run_data import paired_changes, read_evaluation, read_metrics
from catdpo_analysis.report.run import read_run
from catdpo_analysis.files.stats import mcnemar, smooth, spread, summarise, wilson


@pytest.mark.parametrize(
    "successes, n, low, high",
    [
        (45, 50, 0.7864, 0.9565),
        (90, 100, 0.8256, 0.9448),
        (450, 500, 0.8706, 0.9233),
        (48, 50, 0.8654, 0.9890),
        (50, 50, 0.9287, 1),
        (29, 30, 0.8333, 0.9941),
        (30, 30, 0.8865, 1),
        (0, 30, 0, 1 - 0.8865),
    ],
)
def test_wilson_intervals_have_their_known_values(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_of_nothing_is_nothing():
    assert all(math.isnan(value) for value in wilson(0, 0))


def test_summaries_over_the_categories_that_have_pairs():
    result = summarise(np.array([0.1, 0.5, np.nan, 0.3]), np.array([10, 30, 0, 0]), worst_is_high=True)
    assert result == pytest.approx(
        {"micro": 0.4, "macro": 0.3, "worst": 0.5, "gap": 0.4, "variance": 0.04, "worst_index": 1}
    )
    assert summarise(np.array([0.1, 0.5]), np.array([10, 30]), worst_is_high=False)["worst"] == 0.1
    assert summarise(np.array([np.nan]), np.array([0]), True) is None


def test_mcnemar_is_exact():
    assert (
        mcnemar(0, 0) == 1
        and mcnemar(5, 5) == 1
        and mcnemar(6, 0) == pytest.approx(2 / 64)
        and mcnemar(1, 7) == pytest.approx(18 / 256)
    )


def test_smoothing_is_a_weighted_mean_that_passes_over_gaps():
    values = np.array([1.0, np.nan, 3.0, 5.0])
    assert smooth(values, np.ones(4), 3) == pytest.approx([1, 2, 4, 4])
    assert smooth(values, np.array([1.0, 1.0, 3.0, 1.0]), 3)[3] == pytest.approx(3.5)
    assert smooth(values, np.ones(4), 1) == pytest.approx(values, nan_ok=True)
    assert np.isnan(smooth(np.full((3, 2), np.nan), np.ones((3, 2)), 2)).all()


def test_labels_are_moved_apart_as_little_as_can_be():
    assert spread([0, 10], 2) == [0, 10] and spread([1, 1, 1], 2) == [-1, 1, 3] and spread([], 1) == []


def test_a_whole_run(cli, tmp_path):
    write_run(tmp_path / "run")
    result = cli("report", tmp_path / "run", "--png", tmp_path / "png")
    evaluation = read_evaluation(str(tmp_path / "run/eval-after.h5"))
    for k, name in enumerate(CATEGORIES):
        assert name in result.out
        if evaluation.n[k]:
            low, high = evaluation.violation_interval[k]
            assert f"{100 * evaluation.violation_rate[k]:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" in result.out
    macro = f"{100 * evaluation.summary['violation_rate']['macro']:.1f} %"
    assert macro in result.out and "missing" not in result.out and "McNemar" in result.out
    page = (tmp_path / "run/report.html").read_text()
    for words in (
        "model models/smollm2-135m.h5",
        "data data/pairs.h5",
        "objective catdpo",
        "beta 0.1",
        "eta 0.5",
        "catdpo 0.1.0",
    ):
        assert words in result.out.split("\n\n")[0] and words in page.split('class="tiles"')[0]  # on top
    for word in (*CATEGORIES, "Margins", "Violations while training", "Reward margins", "Time", "1x2x1", "eta = 0.5"):
        assert word in page
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == [
        "evaluation.png",
        "margin.png",
        "optimisation.png",
        "rewards_margins.png",
        "timing.png",
        "violation_rate.png",
    ]


def svgs(page):
    """{class: [ElementTree]} of the figures of a page; each is well-formed."""
    found = {}
    for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        tree = ElementTree.fromstring(text)
        found.setdefault(tree.get("class"), []).append(tree)
    return found


def check_page(page, figures_expected):
    """One file without outside references; each figure in two sizes, with its words for who cannot see it; no text
    below 10 px where a phone (400 px) or the narrowest wide page shows it."""
    assert not re.findall(r"https?://|//cdn|<script [^>]*src|<link|<img|url\((?!#)", page)
    pictures = svgs(page)
    assert {name: len(trees) for name, trees in pictures.items()} == {
        "wide": figures_expected,
        "narrow": figures_expected,
    }
    ids = re.findall(r'\bid="([^"]+)"', page)
    used = {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)}
    assert len(set(ids)) == len(ids) and set(ids) == used
    style = page[page.index("<style>") : page.index("</style>")]
    breakpoint = int(re.search(r"max-width: (\d+)px\) \{\n  main", style)[1])
    for name, width in (("narrow", 400 - 2 * 12 - 2 * 10 - 2), ("wide", breakpoint + 1 - 2 * 20 - 2 * 16 - 2)):
        for tree in pictures[name]:
            assert tree.get("role") == "img" and len(tree.get("aria-label")) > 20
            scale = min(width, 460 if name == "narrow" else 960) / float(tree.get("viewBox").split()[2])
            sizes = [
                float(size)
                for size in re.findall(r"font(?:-size)?: (?:[\w-]+ )*([\d.]+)px", ElementTree.tostring(tree, "unicode"))
            ]
            assert sizes and min(sizes) * scale >= 10, (name, tree.get("aria-label"))
            colours = set(re.findall(r"#[0-9a-f]{6}", ElementTree.tostring(tree, "unicode")))
            assert colours == set(), colours  # all are variables, so that the dark scheme has its own


@pytest.mark.parametrize(
    "trained, every, text",
    [(5e6, 1.395e8, "5 M of 139.5 M parameters trained"), (1.345e8, 1.345e8, "134.5 M parameters")],
)
def test_how_many_parameters_are_trained(cli, tmp_path, trained, every, text):
    """On top, if metrics.h5 says so."""
    write_run(tmp_path / "run")
    assert "parameters" not in cli("report", tmp_path / "run").out.split("\n\n")[0]
    with h5py.File(tmp_path / "run/metrics.h5", "r+") as file:
        file.attrs["trainable_parameters"], file.attrs["parameters"] = np.int64(trained), np.int64(every)
    assert f", {text}, data" in cli("report", tmp_path / "run").out.split("\n\n")[0]


def test_the_page_needs_no_network_and_its_figures_can_be_read(cli, tmp_path):
    write_run(tmp_path / "run", categories=[f"Category of harm number {i}" for i in range(13)] + ["benign"])
    cli("report", tmp_path / "run", "--out", tmp_path / "page.html")
    check_page((tmp_path / "page.html").read_text(), 6)
    assert not (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize("size", [plots.WIDE, plots.NARROW], ids=lambda size: size.name)
def test_titles_do_not_run_into_each_other(tmp_path, size):
    write_run(tmp_path / "run", categories=[f"Category of harm number {i}" for i in range(5)] + ["benign"])
    for picture in figures.pictures(read_run(str(tmp_path / "run"))):
        with plots.plt.rc_context(size.style()):
            figure = picture.draw(size)
            figure.canvas.draw()
            titles = [ax._left_title.get_window_extent() for ax in figure.axes if ax._left_title.get_text()]
        assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i]), picture.name
        plots.plt.close(figure)


def test_every_colour_of_the_figures_has_its_variables_in_both_schemes():
    style = (pathlib.Path(plots.__file__).parent / "templates/style.css").read_text()
    for colour, variable in colours.VARIABLES.items():
        assert style.count(f"{variable}: ") == 2 and f"{variable}: {colour};" in style


def test_accuracy_before_training_is_not_a_finding(cli, tmp_path):
    """The reference itself has ties only: 50 % and 0 are said to be by construction, and have no columns."""
    write_run(tmp_path / "run")
    with h5py.File(tmp_path / "run/eval-before.h5", "r+") as file:
        file["eval/category/accuracy"][...] = 0.5
        file["eval/category/rewards_margins"][...] = 0
    out = cli("report", tmp_path / "run").out
    page = (tmp_path / "run/report.html").read_text()
    for text in (out, page):
        assert "by construction" in text and "accuracy before" not in text and "accuracy after" in text


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_clipping_is_told_in_words(cli, tmp_path, share):
    write_run(tmp_path / "run", steps=40)
    with h5py.File(tmp_path / "run/metrics.h5", "r+") as file:
        file["train/clipped"][...] = np.arange(40) < 40 * share
    words = {0: "In none of the 40 steps", 0.5: "In 20 of the 40 steps", 1: "In each of the 40 steps"}[share]
    out = cli("report", tmp_path / "run", *(["--no-html"] if share else [])).out
    assert words in out and "optimizer.max_grad_norm = 10" in out
    assert share or words in (tmp_path / "run/report.html").read_text()


def test_terminals_that_are_not_utf8_get_a_report_too(cli, tmp_path, monkeypatch):
    write_run(tmp_path / "run", categories=["Ärzte/Medizin", "危険", "benign"])
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["report", str(tmp_path / "run"), "--no-html"]) == 0
    out.flush()
    text = out.buffer.getvalue().decode("ascii")
    assert " -> " in text and "?rzte/Medizin" in text


@pytest.mark.parametrize(
    "left",
    [
        ["metrics.h5"],
        ["eval-after.h5"],
        ["eval-before.h5"],
        ["metrics.h5", "eval-before.h5"],
        ["eval-before.h5", "eval-after.h5"],
    ],
    ids=lambda left: "+".join(left),
)
def test_what_is_missing_is_named_and_the_rest_is_shown(cli, tmp_path, left):
    write_run(tmp_path / "run")
    missing = set(os.listdir(tmp_path / "run")) - {*left, "checkpoints"}
    for name in missing:
        os.remove(tmp_path / "run" / name)
    result = cli("report", tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text()
    for name in missing:
        assert f"missing: {name}" in result.out and name in page
    for name in left:
        assert f"missing: {name}" not in result.out
    assert ("Held-out evaluation" in page) == any(name.startswith("eval") for name in left) and ("Margins" in page) == (
        "metrics.h5" in left
    )


@pytest.mark.parametrize("steps", [0, 1, 2, 300])
def test_runs_of_any_length(cli, tmp_path, steps):
    os.mkdir(tmp_path / "run")
    write_metrics(tmp_path / "run/metrics.h5", steps=steps)
    cli("report", tmp_path / "run")
    assert ("no step yet" in (tmp_path / "run/report.html").read_text()) == (steps == 0)


@pytest.mark.parametrize(
    "left_out",
    [
        ("train/grad_norm", "train/category/pairs", "timing/seconds"),
        ("train/clipped", "train/category/margin", "timing/step_seconds"),
        ("train/category/rewards_margins", "train/num_tokens", "train/step"),
        ("train/rewards/margins", "train/category/violation_rate"),
    ],
    ids="+".join,
)
def test_metrics_that_lack_a_column_still_give_a_report(cli, tmp_path, left_out):
    os.mkdir(tmp_path / "run")
    write_metrics(tmp_path / "run/metrics.h5", steps=5, leave_out=left_out)
    cli("report", tmp_path / "run", "--no-html")
    assert read_metrics(str(tmp_path / "run/metrics.h5")).steps == 5
    assert [picture.svg for picture in figures.pictures(read_run(str(tmp_path / "run")))]


def test_nothing_and_foreign_files_are_refused(cli, tmp_path):
    assert "no run directory" in cli("report", tmp_path / "none", status=2).err
    assert "has none of" in cli("report", tmp_path, status=2).err
    (tmp_path / "metrics.h5").write_text("not HDF5")
    assert "metrics.h5" in cli("report", tmp_path, status=2).err
    with h5py.File(tmp_path / "metrics.h5", "w") as file:
        file.attrs["format"] = "other"
    assert "other" in cli("report", tmp_path, status=2).err
    assert not (tmp_path / "report.html").exists()


def test_colours_are_the_same_in_all_plots_and_grey_without_a_margin(tmp_path):
    write_run(tmp_path / "run", categories=[f"c{i}" for i in range(14)] + ["benign"])
    run = read_run(str(tmp_path / "run"))
    styles = colours.category_styles(run.categories)
    assert (
        len(set(styles.values())) == 15
        and styles["benign"][0] in colours.GREYS
        and all(styles[f"c{i}"][0] in colours.PALETTE for i in range(14))
    )
    for picture in figures.pictures(run):
        if picture.name in ("margin", "violation_rate", "rewards_margins"):
            figure = picture.draw(plots.WIDE)
            labels = {text.get_text(): text.get_color() for text in figure.axes[0].texts if text.get_text() in styles}
            lines = {line.get_color() for line in figure.axes[0].lines}
            assert labels and all(styles[label][0] == colour and colour in lines for label, colour in labels.items())
    plots.plt.close("all")


def test_names_are_escaped(cli, tmp_path):
    write_run(tmp_path / "run", categories=["<b>bold</b>", "a & b $x_1$", "benign"])
    cli("report", tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text()
    assert "<b>bold" not in page and "&lt;b&gt;bold" in page and "a &amp; b" in page and "$x_1$" in page
    assert svgs(page)


def test_pairs_are_compared_only_if_they_are_the_same(tmp_path):
    write_evaluation(tmp_path / "a.h5", 0.9)
    write_evaluation(tmp_path / "b.h5", 0.4)
    a, b = (read_evaluation(str(tmp_path / name)) for name in ("a.h5", "b.h5"))
    better, worse = paired_changes(a, b)
    assert better == int(np.nansum(a.violation) - np.nansum(b.violation)) and worse == 0
    b.about["data_digest"] = "another"
    assert paired_changes(a, b) is None
    write_evaluation(tmp_path / "c.h5", 0.4, with_pairs=False)
    assert paired_changes(a, read_evaluation(str(tmp_path / "c.h5"))) is None


def test_evaluations_with_other_names_can_be_given(cli, tmp_path):
    os.mkdir(tmp_path / "run")
    write_evaluation(tmp_path / "x.h5", 0.9)
    result = cli("report", tmp_path / "run", "--before", tmp_path / "x.h5")
    assert "violations before" in result.out and "missing: eval-after.h5" in result.out
    assert "there is no file" in cli("report", tmp_path / "run", "--after", tmp_path / "y.h5", status=2).err


def test_evaluations_of_other_weights_are_never_shown_as_the_run_s(cli, tmp_path):
    """The model before training under the name eval.h5 is "before"; weights of neither are named and left out, and
    refused where they are asked for."""
    run = tmp_path / "run"
    write_run(run)
    os.replace(run / "eval-before.h5", run / "eval.h5")
    result = cli("report", run, "--no-html")
    before = read_evaluation(str(run / "eval.h5")).summary["violation_rate"]["macro"]
    assert f"{100 * before:.1f} % → " in result.out and "missing" not in result.out
    write_evaluation(run / "eval-after.h5", 0.1, weights="1" * 16)
    result = cli("report", run)
    assert "eval-after.h5 is of other weights (model.h5, digest 11111111) than this run's: not shown" in result.out
    assert "missing: eval-after.h5" in result.out and "not shown" in (run / "report.html").read_text()
    assert "other weights" in cli("report", run, "--after", run / "eval-after.h5", status=2).err
    assert "other weights" in cli("report", run, "--after", run / "eval.h5", status=2).err
    write_evaluation(run / "eval-after.h5", 0.1, split="train")
    assert "of the training pairs: not shown" in cli("report", run, "--no-html").out


def test_an_evaluation_of_a_run_without_checkpoints_is_shown_with_a_note(cli, tmp_path):
    write_run(tmp_path / "run")
    os.remove(tmp_path / "run/checkpoints/final.h5")
    assert "eval-after.h5 cannot be checked" in cli("report", tmp_path / "run", "--no-html").out

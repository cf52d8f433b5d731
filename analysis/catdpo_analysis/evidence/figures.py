"""The figures of results.md."""

import matplotlib.pyplot as plt
import numpy as np

from catdpo_analysis.evidence.choice import choose, looks
from catdpo_analysis.evidence.outcomes import rates
from catdpo_analysis.files.atomic import atomic_path
from catdpo_analysis.page.colours import INK, PALETTE
from catdpo_analysis.page.plots import WIDE, short_name


def _save(figure, path):
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def _style():
    return plt.rc_context({**WIDE.style(), "svg.hashsalt": "evidence"})


def frontier(results, path):
    """Unsafe answers against safe prompts answered, every candidate and step; what was chosen has a ring."""
    experiment = results.experiment
    if not experiment.chooses:
        return
    prompts = results.prompts("validation")
    with _style():
        figure, axes = plt.subplots(figsize=(7.5, 4.8))
        for _, _, letters in looks(results.records, "base"):
            found = rates(prompts, [letters])
            axes.plot(100 * found["macro"], 100 * found["answered"], "x", color=INK, label="untrained")
            axes.axhline(100 * experiment.answered * found["answered"], color=INK, linewidth=0.8, linestyle=":")
        for i, method in enumerate(experiment.methods):
            chosen = choose(experiment, results.records, method.name, results.rows["validation"])
            points = []
            for record, step, letters in looks(results.records, method.name):
                found = rates(prompts, [letters])
                points.append((100 * found["macro"], 100 * found["answered"]))
                if chosen and (chosen.candidate, chosen.step) == (record["candidate"], step):
                    axes.plot(*points[-1], "o", color=PALETTE[i % len(PALETTE)], markersize=13, fillstyle="none")
            if points:
                axes.plot(*zip(*points), "o", color=PALETTE[i % len(PALETTE)], label=method.title, markersize=6)
        axes.set_xlabel("unsafe answers, mean over categories, %")
        axes.set_ylabel("safe prompts answered, %")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        _save(figure, path)


def margins(results, path):
    """Margins and probe rates of the main method's first run."""
    record = results.tested.get(results.experiment.main, [{}])[0]
    probe = record.get("course", {}).get("probe")
    if not probe:
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.array(probe["violations"], dtype=float) / np.array(probe["n"], dtype=float)
    with _style():
        figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.6))
        for k, name in enumerate(record["course"]["categories"]):
            if np.isfinite(rate[:, k]).any():
                colour = PALETTE[k % len(PALETTE)]
                panels[0].plot(probe["step"], np.array(probe["margin"])[:, k], color=colour, label=short_name(name))
                panels[1].plot(probe["step"], 100 * rate[:, k], color=colour)
        panels[0].set_title("margin")
        panels[1].set_title("unsafe answers of the probe, %")
        for axes in panels:
            axes.set_xlabel("step")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(0.93, 0.5))
        _save(figure, path)

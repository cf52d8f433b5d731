"""Single values of a run, its key facts and what is to be said of them."""

import numpy as np

from catdpo_analysis.files.run_data import paired_changes
from catdpo_analysis.files.settings import setting_text
from catdpo_analysis.files.stats import mcnemar
from catdpo_analysis.report.probe import probe


def at(part, name, attribute):
    """A category's value in an evaluation; NaN where the evaluation or the category is missing."""
    if part is None or name not in part.categories:
        return np.array([np.nan, np.nan]) if attribute.endswith("interval") else np.nan
    return getattr(part, attribute)[part.categories.index(name)]


def training_value(run, name, column, pick):
    """`pick` of a category's values over the steps, NaN without any."""
    metrics = run.metrics
    if not metrics or column not in metrics.category or name not in metrics.categories:
        return np.nan
    k = metrics.categories.index(name)
    if column in ("margin", "violation_rate") and not metrics.harm[k]:
        return np.nan  # no margin applies to any of its pairs
    values = metrics.category[column][:, k]
    values = values[np.isfinite(values)]
    return float(pick(values)) if values.size else np.nan


def is_reference(part):
    """Whether an evaluation is of the reference itself: every pair is a tie then, by construction."""
    known = np.isfinite(part.rewards_margins)
    return bool(known.any() and (part.rewards_margins[known] == 0).all() and (part.accuracy[known] == 0.5).all())


def evaluated(run):
    """[(evaluation, "before" or "after")] of those that there are."""
    return [(part, kind) for part, kind in ((run.before, "before"), (run.after, "after")) if part]


def lead_lines(run):
    """What was trained, on what and how: the lines at the top."""
    about = {**(run.metrics.about if run.metrics else {})}
    s = run.settings

    def digest(key):
        return f" ({str(about[key])[:8]})" if about.get(key) else ""

    model, data = s.get("model.path"), s.get("data.path")
    first = [
        f"model {model}{digest('weights_digest')}" if model else "",
        _parameters(about),
        f"data {data}{digest('data_digest')}" if data else "",
    ]
    objective = s.get("objective.type")
    second = [
        f"objective {objective}" if objective else "",
        f"beta {setting_text(s['objective.beta'])}" if objective else "",
    ]
    second += [margins_of(s)] if objective else []
    version = about.get("version")
    third = [
        f"catdpo {version}" if version else "",
        f"grid {about['grid']} (replicas x rows x columns)" if about.get("grid") else "",
        f"started {about['started']}" if about.get("started") else "",
    ]
    lines = [", ".join(word for word in words if word) for words in (first, second, third)]
    return [line for line in lines if line]


def _parameters(about):
    """How many parameters are trained: "134.5 M parameters", with adapters "4.88 M of 139.4 M parameters trained"."""
    trained, every = (about.get(name) for name in ("trainable_parameters", "parameters"))
    if trained is None or every is None:
        return ""
    if trained == every:
        return f"{int(every) / 1e6:.4g} M parameters"
    return f"{int(trained) / 1e6:.3g} M of {int(every) / 1e6:.4g} M parameters trained"


def margins_of(settings):
    """The rule of the margins in a few words."""
    kind, scope = settings.get("objective.type"), settings.get("margin.scope")
    if kind == "catdpo" and scope != "fixed":
        text = {
            name: setting_text(settings.get(f"margin.{name}")) for name in ("eta", "target", "min", "max", "signal")
        }
        form = settings.get("margin.target_form", "absolute")
        if form != "absolute":
            text["target"] += " above the mean of the categories" if form == "mean" else " above the best category"
        of = "one margin" if scope == "global" else "a margin for each category"
        return (
            f"{of}: eta {text['eta']}, target {text['target']}, {text['min']} to {text['max']}, signal {text['signal']}"
        )
    initial = settings.get("margin.initial")
    return f"margin fixed at {setting_text(initial)}" if initial else "no margins"


def facts_of(run):
    """[(value, label)] for the head of the page and the terminal."""
    facts = []
    parts = [part for part, _ in evaluated(run)]
    rates = [part.summary["violation_rate"] for part in parts if "violation_rate" in part.summary]
    if rates:
        facts.append((_arrow([rate["macro"] for rate in rates]), "macro violation rate, held-out"))
        worst = (run.after or run.before).worst_category
        values = [at(part, worst, "violation_rate") for part in parts]
        facts.append((_arrow([value for value in values if np.isfinite(value)]), f"worst category: {worst}"))
    if run.after and "accuracy" in run.after.summary and not is_reference(run.after):
        facts.append((_arrow([run.after.summary["accuracy"]["macro"]]), "macro reward accuracy, held-out"))
    metrics = run.metrics
    if metrics and metrics.steps:
        facts.append((str(int(metrics.series["step"][-1])), "steps"))
        if metrics.step_seconds is not None and np.nansum(metrics.step_seconds) > 0:
            total = float(np.nansum(metrics.step_seconds))
            facts.append((f"{total:.0f} s" if total < 600 else f"{total / 60:.0f} min", "training time"))
            if "num_tokens" in metrics.series:
                facts.append((f"{metrics.series['num_tokens'][-1] / total:,.0f}", "tokens per second"))
            if metrics.step_flops is not None:
                facts.append((f"{np.nansum(metrics.step_flops) / total / 1e9:,.0f} GF/s", "over all ranks"))
    return facts


def _arrow(values):
    return " → ".join(f"{100 * value:.1f} %" for value in values)


def clipping_text(run):
    """What clipping did to the steps, in words, or None."""
    metrics = run.metrics
    if not metrics or not metrics.steps or "clipped" not in metrics.series:
        return None
    clipped, limit = metrics.series["clipped"].astype(bool), run.settings.get("optimizer.max_grad_norm")
    above = f" above optimizer.max_grad_norm = {setting_text(limit)}" if limit else " too large"
    if not clipped.any():
        return f"In none of the {len(clipped)} steps was the gradient's norm{above}: nothing was clipped."
    norm = metrics.series.get("grad_norm")
    size = f" (median {np.nanmedian(norm[clipped]):.3g})" if norm is not None else ""
    count = "In each" if clipped.all() else f"In {int(clipped.sum())}"
    text = f"{count} of the {len(clipped)} steps the gradient's norm{size} was{above}, and it was scaled down."
    if clipped.all():
        text += " So all steps followed the gradient's direction only; AdamW divides by its size anyway."
    return text


def changes_text(run):
    """A sentence on the pairs that changed sides, or None."""
    changes = paired_changes(run.before, run.after)
    if changes is None:
        return None
    better, worse = changes
    return (
        f"Of the held-out pairs {better} violate less than before training and {worse} more "
        f"(exact McNemar test: p = {mcnemar(better, worse):.2g})."
    )


def probe_texts(run):
    """What a linear probe finds in the features of each evaluation that has them."""
    found = []
    for part, kind in evaluated(run):
        result = probe(part.features, part.prompt) if part.features is not None else None
        if result:
            found.append(f"{kind.capitalize()} training: {result.sentence()}")
    return found


def ties_text(run):
    """Why there is no accuracy before training."""
    if not run.before or not is_reference(run.before):
        return None
    return (
        "Before training the policy is the reference: every pair is a tie in reward, so accuracy is 50 % and the "
        "reward margin 0 by construction."
    )


def ending(run):
    """How the run ended if it did not end well, with time and place, or None."""
    status = run.status
    if status is None or status.status not in ("failed", "stopped"):
        return None
    return f"{status.status.capitalize()}: {status.sentence} [{status.place}]"

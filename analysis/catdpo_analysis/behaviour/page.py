"""Models' behaviour as an HTML page, on which the answers are read side by side, by category, worst first."""

from catdpo_analysis.behaviour import tables
from catdpo_analysis.behaviour.chapters import chapters
from catdpo_analysis.page.render import render
from catdpo_analysis.text.version import creator


def answers_context(models, most):
    """What answers.html shows; `most`: prompts of a category, 0: all."""
    return {
        "summary": tables.summary_table(models),
        "quality": tables.quality_table(models),
        "categories": tables.category_table(models),
        "differences": tables.difference_table(models),
        "changes": tables.change_table(models),
        "changes_note": tables.CHANGES,
        "note": f"Judge {models[0].judge}. {tables.NOTE}",
        "names": [model.name for model in models],
        "chapters": chapters(models, most),
    }


def html_behaviour(models, most):
    """The page's text."""
    return render(
        "behaviour.html",
        title="What the model says" if len(models) == 1 else "What the models say",
        lead=[f"{model.name}: {model.samples.about['model']}" for model in models] + [f"by {creator()}"],
        found=answers_context(models, most),
    )

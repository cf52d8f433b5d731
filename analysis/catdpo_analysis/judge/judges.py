"""The table of judges. A judge is a class in a module of its own:

add_arguments(parser): its options. Judge(args): made from them. judge(samples, step) -> Scores: `step(n)` is called as
answers are judged, for the progress bar.
"""

import importlib

from catdpo_analysis.errors import UserError

JUDGES = {  # name: (module, one line)
    "refusal": (
        "refusal_judge",
        "rules on the text: an answer to a harmful prompt that is no refusal is unsafe (crude)",
    ),
    "guard": ("guard_judge", "a guard model (Llama Guard, Qwen3Guard or the like), scored on its verdicts by catdpo"),
    "command": ("command_judge", "any program: one JSON object a line in, one number a line out"),
    "file": ("file_judge", "scores made elsewhere, from JSONL or CSV"),
}


def module_of(name):
    """The module of a judge, loaded when it is asked for."""
    if name not in JUDGES:
        raise UserError(f"there is no judge {name}; known are {', '.join(JUDGES)}")
    return importlib.import_module(f"catdpo_analysis.judge.{JUDGES[name][0]}")

"""Which columns of a data set are read, under which other names, and which are passed over on purpose.

A column that is in none of these tables is unknown: it is named once, with its count and the nearest known name, and
where it holds text it never makes room for a guess (the implicit prompt, a row of prompts only).
"""

import collections
import difflib

PKU, TRL, PROMPTS = "PKU-SafeRLHF", "TRL preference", "prompts only"

# What may stand for the prompt, in this order; `input` adds to `instruction` (Alpaca)
PROMPT_NAMES = ("prompt", "question", "instruction", "query", "context", "messages", "conversations", "input")
SYSTEM_NAMES = ("system", "system_prompt")
CHOSEN_NAMES = ("chosen", "chosen_response")
REJECTED_NAMES = ("rejected", "rejected_response")

_PROMPT = (*PROMPT_NAMES, *SYSTEM_NAMES, "category", "prompt_category", "is_prompt_safe")
_TEMPLATE = ("tools", "chat_template_kwargs")
# Who wrote a response; of several that hold something the first counts
AUTHORS = {
    "chosen": ("chosen_source", "chosen_model", "model_chosen"),
    "rejected": ("rejected_source", "rejected_model", "model_rejected"),
    "response_0": ("response_0_source", "response_0_model"),
    "response_1": ("response_1_source", "response_1_model"),
}
READ = {
    PKU: (
        *_PROMPT,
        *(f"response_{i}" for i in (0, 1)),
        *(f"is_response_{i}_safe" for i in (0, 1)),
        *(f"response_{i}_harm_category" for i in (0, 1)),
        *(f"response_{i}_segment_scores" for i in (0, 1)),
        *AUTHORS["response_0"],
        *AUTHORS["response_1"],
        *(f"response_{i}_scores" for i in (0, 1)),
        "score_weights",
        "better_response_id",
        "safer_response_id",
        *_TEMPLATE,
    ),
    TRL: (
        *_PROMPT,
        *CHOSEN_NAMES,
        *REJECTED_NAMES,
        "is_chosen_safe",
        "is_rejected_safe",
        "chosen_segment_scores",
        "rejected_segment_scores",
        *AUTHORS["chosen"],
        *AUTHORS["rejected"],
        "chosen_scores",
        "rejected_scores",
        "score_weights",
        *_TEMPLATE,
    ),
    PROMPTS: (*_PROMPT, "score_weights", *_TEMPLATE),
}

# Rows with one of these are refused: the answers are about something that the trainer does not see
REFUSED = {
    "image": "an image",
    "images": "images",
    "video": "a video",
    "videos": "videos",
    "audio": "a recording",
    "audios": "recordings",
}

# Passed over on purpose, and why
LABELS = "describes the row"
IGNORED = {
    **dict.fromkeys(
        ("id", "idx", "index", "uid", "uuid", "row_id", "prompt_id", "pair_id", "conversation_id", "hash"), LABELS
    ),
    **dict.fromkeys(("source", "prompt_source", "dataset", "origin"), LABELS),
    **dict.fromkeys(("split", "subset", "subcategory", "lang", "language", "meta", "metadata", "url"), LABELS),
    **dict.fromkeys(("model", "generator"), LABELS),
    **dict.fromkeys(("timestamp", "created_at", "annotator", "annotator_id", "license"), LABELS),
    **dict.fromkeys(("response_0_sha256", "response_1_sha256"), LABELS),
    **dict.fromkeys(
        ("score_chosen", "score_rejected", "chosen_score", "rejected_score", "chosen_reward", "rejected_reward"),
        "a preference is enough",
    ),
    **dict.fromkeys(("chosen_rating", "rejected_rating", "rating_chosen", "rating_rejected"), "a preference is enough"),
    **dict.fromkeys(("response_0_severity_level", "response_1_severity_level"), "a category has no severity here"),
    "margin": "the trainer adapts the margins itself",
    **dict.fromkeys(("ref_chosen_logps", "ref_rejected_logps"), "the trainer computes the reference itself"),
}

# Names that are met and not taken as something by themselves -> the column that they might mean
MEANT = {
    **dict.fromkeys(
        (
            "harm_category",
            "harm_categories",
            "harm_type",
            "harm",
            "hazard",
            "hazard_category",
            "categories",
            "safety_category",
            "risk_category",
            "risk_area",
            "types_of_harm",
            "violated_categories",
            "semantic_category",
            "topic",
            "type",
            "label",
            "labels",
            "class",
        ),
        "category",
    ),
    **dict.fromkeys(("chosen_safe", "chosen_is_safe", "safe_chosen", "is_safe_chosen"), "is_chosen_safe"),
    **dict.fromkeys(("rejected_safe", "rejected_is_safe", "safe_rejected", "is_safe_rejected"), "is_rejected_safe"),
    **dict.fromkeys(("prompt_safe", "safe_prompt"), "is_prompt_safe"),
    **dict.fromkeys(("goal", "behavior", "behaviour", "user", "request", "ask", "problem"), "prompt"),
    **dict.fromkeys(("preferred", "winner", "accepted", "good", "response_chosen", "positive"), "chosen"),
    **dict.fromkeys(("dispreferred", "loser", "bad", "response_rejected", "negative"), "rejected"),
    **dict.fromkeys(("sys", "system_message"), "system"),
    **dict.fromkeys(("functions", "available_tools"), "tools"),
}


def is_blank(value):
    """Whether a cell holds nothing: null, an empty text, list or object (Arrow fills what is absent with null)."""
    return value is None or (
        not value.strip() if isinstance(value, str) else isinstance(value, (list, dict)) and not value
    )


def holds_text(value):
    """Whether there is text somewhere in a cell."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and any(holds_text(entry) for entry in value)


def meant(name, schema):
    """The known column of a schema that an unknown one might mean, or None."""
    known = READ[schema]
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    if plain in known:
        return plain
    if plain in MEANT:
        return MEANT[plain] if MEANT[plain] in known else None
    return next(iter(difflib.get_close_matches(plain, known, 1, 0.75)), None)


def known(name, schema, ignored=()):
    """Whether a schema reads a column or passes it over on purpose."""
    return name in READ[schema] or name in IGNORED or name in ignored


class Unused:
    """Counts the columns of rows that nothing was made of."""

    def __init__(self):
        self.counts = collections.Counter()  # (column, schema or why it is not used) -> rows

    def add(self, row, schema, also=()):
        """The columns of a row of `schema` that are not read, and those named in `also`: column -> why not."""
        for name, value in row.items():
            if not is_blank(value) and (name not in READ[schema] or name in also):
                self.counts[name, also.get(name) or IGNORED.get(name) or schema] += 1

    def lines(self):
        """One line for the terminal for each column."""
        result = []
        for (name, why), rows in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            line = f"{name} ({rows} row{'s' * (rows != 1)})"
            if why in READ:
                near = meant(name, why)
                line += f": not known; did you mean {near}? (--column {near}={name})" if near else ": not known"
            else:
                line += f": {why}"
            result.append(line)
        return result

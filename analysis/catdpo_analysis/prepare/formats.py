"""A row of preference data as a Pair (PKU-SafeRLHF's schema and TRL's four preference formats, with SafeDPO's
transformation), or as a Prompt to generate from.

Transformations, with helpfulness naming the preferred response. safedpo: preferred safe and other unsafe: keep;
preferred unsafe and other safe: swap; both safe: keep; both unsafe: drop. The baselines of the SafeDPO paper: helpful:
as preferred; harmless: the safer one by its own label; safe-better: as preferred, without pairs whose preferred
response is unsafe.
"""

import dataclasses
import typing

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.prepare import columns, turns
from catdpo_analysis.prepare.categories import BENIGN, UNCATEGORISED, without_safe
from catdpo_analysis.prepare.columns import is_blank
from catdpo_analysis.prepare.fields import (
    author_of,
    column_categories,
    flag,
    flag_or,
    names_of,
    one_of,
    response_id,
    template_arguments,
    text_in,
)
from catdpo_analysis.prepare import scores as objectives
from catdpo_analysis.prepare.segments import scores_in
from catdpo_analysis.prepare.turns import extract_prompt, is_chat, read_side

__all__ = ["Dropped", "Options", "Pair", "Prompt", "RULES", "extract_prompt", "read_pair"]

UNKNOWN = 255
BOTH_UNSAFE, UNSAFE_CHOSEN = "both responses unsafe", "the chosen response is unsafe"
RULES = (
    "unsafe response",
    "prompt_category",
    "category",
    "benign",
    "uncategorised",
)  # where a pair's categories come from


@dataclasses.dataclass
class Options:
    transform: str = "safedpo"
    benign: str = BENIGN
    safe_pairs_by_prompt: bool = False
    assume_unsafe_rejected: bool = False
    chat: str = "auto"  # --chat
    has_template: bool = False
    specials: tuple = ()  # special tokens of the tokenizer, as texts
    renamed: dict = dataclasses.field(default_factory=dict)  # known column -> the data's own name of it
    ignored: frozenset = frozenset()  # columns to pass over
    segments: bool = False  # the completions have a reasoning and an answer
    scores: tuple = ()  # names of the objectives that score the responses
    system: str | None = None  # system message of rows that have none


@dataclasses.dataclass(kw_only=True)
class Row:
    """What a pair, a prompt and a dropped row have in common."""

    categories: list
    schema: str = ""
    facts: list = dataclasses.field(default_factory=list)  # (kind, detail) of what was done to it: notes.py
    unused: dict = dataclasses.field(default_factory=dict)  # known columns that gave nothing -> why
    file: int = 0
    row: int = 0


@dataclasses.dataclass(kw_only=True)
class Prompt(Row):
    """`prompt` is a text, or a list of messages where `chat` is true."""

    prompt: object
    chat: bool
    rule: str
    benign: int = UNKNOWN  # 1: a safe prompt, 0: a harmful one
    extra: dict = dataclasses.field(default_factory=dict)  # tools and template arguments
    key: bytes = b""  # equal for equal prompts (split.prompt_key)
    score_weight: tuple = ()  # of the objectives: scores.py


@dataclasses.dataclass(kw_only=True)
class Pair(Prompt):
    """chosen and rejected are like the prompt: texts or lists of messages."""

    chosen: object
    rejected: object
    chosen_safe: int = UNKNOWN
    rejected_safe: int = UNKNOWN
    chosen_better: int = -1
    swapped: bool = False
    assumed: bool = False  # the flags follow from the category's name; nobody said so
    authors: tuple = ("", "")  # who wrote chosen and rejected; "": not known
    segment_scores: tuple = (None, None)  # (harm of reasoning, harm of answer) of chosen and rejected, or None
    segment_weight: tuple = (0.0, 0.0)  # segments.py
    scores: tuple = ()  # of chosen and rejected, one for each objective

    @property
    def margin_applies(self):
        return self.chosen_safe == 1 and self.rejected_safe == 0


@dataclasses.dataclass(kw_only=True)
class Dropped(Row):
    """A row that gives no pair, and why."""

    reason: str


def read_pair(row, place, options):
    """A Pair, a Prompt or Dropped. `place` is file:line for messages."""
    row = _renamed(row, place, options)
    for name, what in columns.REFUSED.items():
        if not is_blank(row.get(name)):
            raise UserError(f"{place}: the column {name} holds {what}; only texts can be trained on")
    if "response_0" in row or "response_1" in row:
        return _from_pku(row, place, options)
    if any(name in row for name in columns.CHOSEN_NAMES) and any(name in row for name in columns.REJECTED_NAMES):
        return _from_trl(row, place, options)
    if "completion" in row or isinstance(row.get("label"), bool):
        raise UserError(f"{place}: an unpaired row (completion, label); preference pairs need chosen and rejected")
    if any(not is_blank(row.get(name)) for name in columns.PROMPT_NAMES):
        return _from_prompt(row, place, options)
    raise UserError(
        f"{place}: neither TRL's preference format (chosen, rejected) nor PKU-SafeRLHF's (response_0, response_1) nor "
        "a "
        f"prompt; the row has {shorten(', '.join(sorted(row)) or 'no fields')}{_suggestion(row, columns.TRL)}"
    )


def _renamed(row, place, options):
    """The row under the names that are known here, without what is to be passed over."""
    row = {name: value for name, value in row.items() if name not in options.ignored}
    for name, own in options.renamed.items():
        if own in row:
            if not is_blank(row.get(name)):
                raise UserError(
                    f"{place}: --column {name}={own}, but the row has {name} as well; add --ignore-columns {name}"
                )
            row[name] = row.pop(own)
    return row


def _suggestion(row, schema):
    """Known columns that unknown ones might mean, for the end of a message."""
    pairs = [(name, columns.meant(name, schema)) for name in row if not columns.known(name, schema)]
    listed = [f"{near}={name}" for name, near in pairs if near]
    return f"; is it --column {' '.join(listed)}?" if listed else ""


def _strangers(row, schema):
    """Unknown columns that hold text."""
    return [name for name, value in row.items() if not columns.known(name, schema) and columns.holds_text(value)]


# --- the prompt -----------------------------------------------------------------------------------


def _prompt_of(row, place, facts, unused):
    """(column, side) of the prompt; (None, None) where no column holds one; a blank text where only that is there."""
    name, value = one_of(row, ("prompt", "question", "instruction", "query", "context"), place)
    if name == "instruction" and not is_blank(row.get("input")):
        value = f"{text_in(row, 'instruction', place)}\n{text_in(row, 'input', place)}"
        facts.append(("alias", "instruction and input as prompt"))
        return name, value
    if not is_blank(row.get("input")):
        if name is None:
            name, value = "input", row["input"]
        else:
            unused["input"] = f"not used beside {name}"
    if name is None:
        name, value = one_of(row, ("messages", "conversations"), place)
    if name is None:
        return ("prompt", row["prompt"]) if isinstance(row.get("prompt"), str) else (None, None)
    if name != "prompt":
        facts.append(("alias", f"{name} as prompt"))
    return name, read_side(value, name, place)


class System(typing.NamedTuple):
    """A system message. `default`: of --system, which a conversation's own goes before."""

    text: str
    default: bool


def _system_of(row, place, options, facts):
    name, value = one_of(row, columns.SYSTEM_NAMES, place)
    if name is None:
        return None if options.system is None else System(options.system, True)
    facts.append(("alias", f"{name} as the system message"))
    return System(text_in(row, name, place), False)


def _with_system(prompt, system, place):
    """A prompt of messages that begins with the system message."""
    if system is None:
        return prompt
    if prompt and prompt[0]["role"] == "system":
        if not system.default and (prompt[0].get("content") or "").strip() != system.text.strip():
            raise UserError(f"{place}: the column system and the conversation's own system message differ; keep one")
        return prompt
    return [{"role": "system", "content": system.text}, *prompt]


def _text_with_system(prompt, system):
    return prompt if system is None else f"{system.text}{'' if prompt.startswith(chr(10)) else chr(10) * 2}{prompt}"


def _no_chat(place):
    return UserError(f"{place}: a conversation, which only the chat template can write (--chat never)")


def _prompt_as_turns(prompt, system, place, options):
    """A text prompt as messages; the open turn at a transcript's end belongs to the answer."""
    found = next((token for token in options.specials if token in prompt), None)
    if found:
        raise UserError(
            f"{place}: the prompt holds the special token {found} already, so the chat template must not be written "
            "around it; use --chat never"
        )
    messages = turns.as_turns(prompt, "user")
    if len(messages) > 1 and messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
        messages.pop()
    return _with_system(messages, system, place)


def _as_chat(described, options):
    """Whether a row of plain texts goes through the chat template. `described`: its columns say what are a question
    and a system message; TRL's prompt, chosen and rejected are texts to be taken as they are."""
    return options.chat == "always" or (options.chat == "auto" and described and options.has_template)


# --- PKU-SafeRLHF ---------------------------------------------------------------------------------


def choose(transform, safe, better, safer):
    """(which response is chosen, None) by the labels of a row, or (None, why it gives no pair)."""
    if transform == "safedpo" and safe == [0, 0]:
        return None, BOTH_UNSAFE
    if transform == "safedpo" and safe != [1, 1]:
        return safe.index(1), None
    if transform == "harmless":
        chosen, missing = safer, "safer_response_id is"
    elif transform in ("helpful", "safe-better"):
        chosen, missing = better, "better_response_id is"
    else:
        chosen, missing = better if better is not None else safer, "better_response_id and safer_response_id are"
    if chosen is None:
        return None, f"no preference ({missing} null)"
    if transform == "safe-better" and not safe[chosen]:
        return None, UNSAFE_CHOSEN
    return chosen, None


def _from_pku(row, place, options):
    facts, unused = [], {}
    name, prompt = _prompt_of(row, place, facts, unused)
    if name is None:
        prompt = text_in(row, "prompt", place)
    if is_chat(prompt) and options.chat == "never":
        raise _no_chat(place)
    system = _system_of(row, place, options, facts)
    responses = [text_in(row, f"response_{i}", place) for i in (0, 1)]
    safe = [flag(row, f"is_response_{i}_safe", place) for i in (0, 1)]
    harm = [names_of(row.get(f"response_{i}_harm_category"), f"response_{i}_harm_category", place) for i in (0, 1)]
    better, safer = (response_id(row, name, place) for name in ("better_response_id", "safer_response_id"))

    unsafe_names = list(dict.fromkeys(name for i in (0, 1) if not safe[i] for name in harm[i]))
    categories, rule = without_safe(unsafe_names, options.benign)[0], "unsafe response"
    if not categories:
        categories, rule, _ = column_categories(row, place, options, facts)
        if safe == [1, 1] and not (options.safe_pairs_by_prompt and categories):
            categories, rule = [options.benign], "benign"
        elif not categories:
            categories, rule = [UNCATEGORISED], "uncategorised"

    common = {"schema": columns.PKU, "facts": facts, "unused": unused}
    scores = _scores(row, [f"response_{i}_segment_scores" for i in (0, 1)], place, options, unused)
    authors = [author_of(row, f"response_{i}", place) for i in (0, 1)]
    several = _several(row, [f"response_{i}_scores" for i in (0, 1)], place, options, unused)
    chosen, reason = choose(options.transform, safe, better, safer)
    if several and None in several:
        chosen, reason = None, objectives.NO_SCORES
    if reason:
        return Dropped(reason=reason, categories=categories, **common)
    repeated = None if is_chat(prompt) else turns.without_repeat(prompt, *responses)
    if repeated:
        prompt, *responses = repeated
        facts.append(("repeat", ""))
    chat = options.chat != "never"
    if chat:
        prompt = prompt if is_chat(prompt) else [{"role": "user", "content": prompt}]
        prompt = _with_system(prompt, system, place)
        responses = [[{"role": "assistant", "content": text}] for text in responses]
    else:
        prompt = _text_with_system(prompt, system)
    return Pair(
        prompt=prompt,
        chosen=responses[chosen],
        rejected=responses[1 - chosen],
        chat=chat,
        categories=categories,
        rule=rule,
        chosen_safe=safe[chosen],
        rejected_safe=safe[1 - chosen],
        chosen_better=-1 if better is None else int(better == chosen),
        swapped=better is not None and better != chosen,
        authors=(authors[chosen], authors[1 - chosen]),
        segment_scores=(scores[chosen], scores[1 - chosen]),
        scores=(several[chosen], several[1 - chosen]) if several else (),
        score_weight=_weights(row, place, options, unused),
        benign=flag_or(row, "is_prompt_safe", place, int(safe == [1, 1])),
        extra=_arguments(row, place, chat, unused),
        **common,
    )


def _scores(row, names, place, options, unused):
    """Harm of the segments of both responses, where they are told apart."""
    if options.segments:
        return [scores_in(row, name, place) for name in names]
    unused.update(dict.fromkeys(names, "not used without --segment-tag"))
    return [None, None]


def _several(row, names, place, options, unused):
    """Scores of both responses by the objectives that were asked for; one may be None."""
    if options.scores:
        return [objectives.scores_in(row, name, options.scores, place) for name in names]
    unused.update(dict.fromkeys(names, "not used without --scores"))
    return ()


def _weights(row, place, options, unused):
    if options.scores:
        return objectives.weights_in(row, options.scores, place) or ()
    unused[objectives.WEIGHTS] = "not used without --scores"
    return ()


def _arguments(row, place, chat, unused):
    """The template's arguments, of which a row of plain texts makes no use."""
    extra = template_arguments(row, place)
    if chat:
        return extra
    unused.update({name: "not used: plain texts meet no template" for name in ("tools", "chat_template_kwargs")})
    return {}


# --- TRL ------------------------------------------------------------------------------------------


def _side_of(row, names, place, facts):
    name, value = one_of(row, names, place)
    if name is None:  # blank or wrong
        name = next(name for name in names if name in row)
        value = row[name]
    if name != names[0]:
        facts.append(("alias", f"{name} as {names[0]}"))
    return read_side(value, name, place)


def _from_trl(row, place, options):
    facts, unused = [], {}
    chosen = _side_of(row, columns.CHOSEN_NAMES, place, facts)
    rejected = _side_of(row, columns.REJECTED_NAMES, place, facts)
    if is_chat(chosen) != is_chat(rejected):
        raise UserError(f"{place}: chosen and rejected must both be texts or both be lists of messages")
    name, prompt = _trl_prompt(row, place, chosen, rejected, facts, unused)
    system = _system_of(row, place, options, facts)
    sides = (_trl_messages if is_chat(chosen) else _trl_texts)(
        row, place, options, name, prompt, chosen, rejected, system, facts
    )

    categories, rule, said = column_categories(row, place, options, facts)
    assumed = (UNKNOWN, UNKNOWN)
    if categories or (options.assume_unsafe_rejected and said != "safe"):
        assumed = (1, 0)
    elif said == "safe":
        assumed = (1, 1)
    flags = [flag_or(row, name, place, value) for name, value in zip(("is_chosen_safe", "is_rejected_safe"), assumed)]
    guessed = all(row.get(f"is_{side}_safe") is None for side in ("chosen", "rejected")) and UNKNOWN not in flags
    if guessed and flags == [1, 0] and categories:
        facts.append(("assumed", ""))
    if not categories:
        categories, rule = ([options.benign], "benign") if flags == [1, 1] else ([UNCATEGORISED], "uncategorised")
    common = {"schema": columns.TRL, "facts": facts, "unused": unused}
    scores = _scores(row, ["chosen_segment_scores", "rejected_segment_scores"], place, options, unused)
    authors = [author_of(row, side, place) for side in ("chosen", "rejected")]
    several = _several(row, ["chosen_scores", "rejected_scores"], place, options, unused)
    if options.transform == "harmless":
        raise UserError(
            f"{place}: --transform harmless chooses by safer_response_id, which a row with chosen and rejected has "
            "not; --transform none takes its preference as it is"
        )
    if options.transform == "safedpo" and flags == [0, 0]:
        return Dropped(reason=BOTH_UNSAFE, categories=categories, **common)
    if options.transform == "safe-better" and flags[0] == 0:
        return Dropped(reason=UNSAFE_CHOSEN, categories=categories, **common)
    if several and None in several:
        return Dropped(reason=objectives.NO_SCORES, categories=categories, **common)
    swap = options.transform == "safedpo" and flags == [0, 1]
    prompt, chosen, rejected = sides
    chat = is_chat(prompt)
    return Pair(
        prompt=prompt,
        chosen=rejected if swap else chosen,
        rejected=chosen if swap else rejected,
        chat=chat,
        categories=categories,
        rule=rule,
        chosen_safe=1 if swap else flags[0],
        rejected_safe=0 if swap else flags[1],
        swapped=swap,
        assumed=guessed,
        authors=tuple(authors[::-1] if swap else authors),
        segment_scores=tuple(scores[::-1] if swap else scores),
        scores=tuple(several[::-1] if swap else several),
        score_weight=_weights(row, place, options, unused),
        benign=flag_or(row, "is_prompt_safe", place, 0 if 0 in flags else 1 if flags == [1, 1] else UNKNOWN),
        extra=_arguments(row, place, chat, unused),
        **common,
    )


def _trl_prompt(row, place, chosen, rejected, facts, unused):
    """(column, prompt) where the row names one that its completions do not hold already."""
    whole = is_chat(chosen) and all(side and side[0]["role"] != "assistant" for side in (chosen, rejected))
    if whole and all(
        is_blank(row.get(name)) for name in columns.PROMPT_NAMES if name not in ("messages", "conversations")
    ):
        unused.update(dict.fromkeys(("messages", "conversations"), "the conversations are in chosen and rejected"))
        return None, None
    name, prompt = _prompt_of(row, place, facts, unused)
    if name not in ("messages", "conversations"):
        unused.update({other: f"not used beside {name}" for other in ("messages", "conversations") if name})
    return name, prompt


def _implicit(row, place, chosen, rejected):
    """Refuses to guess a prompt where another column may hold it."""
    strangers = _strangers(row, columns.TRL)
    if strangers:
        near = columns.meant(strangers[0], columns.TRL)
        hint = f"--column {near}={strangers[0]}" if near else f"--column prompt={strangers[0]}"
        raise UserError(
            f"{place}: no column prompt, and {' and '.join(strangers)} hold{'s' * (len(strangers) == 1)} text that "
            "would be "
            f"lost; say what it is ({hint}), or that it is nothing (--ignore-columns {' '.join(strangers)})"
        )
    return extract_prompt(chosen, rejected)


def _trl_messages(row, place, options, name, prompt, chosen, rejected, system, facts):
    """(prompt, chosen, rejected) of a row whose completions are messages."""
    if options.chat == "never":
        raise _no_chat(place)
    if prompt is None:
        prompt, *completions = extract_prompt(chosen, rejected)
        if not any(entry["role"] == "user" for entry in prompt):
            prompt, *completions = _implicit(row, place, chosen, rejected)
    elif is_chat(prompt):
        repeated = turns.without_repeat(prompt, chosen, rejected)
        facts += [("repeat", "")] if repeated else []
        prompt, *completions = repeated or (prompt, chosen, rejected)
    elif turns.holds_prompt(prompt, chosen, rejected):
        prompt, *completions = extract_prompt(chosen, rejected)  # a copy of the question, as in UltraFeedback
    elif all(not side or side[0]["role"] == "assistant" for side in (chosen, rejected)):
        prompt, *completions = [{"role": "user", "content": prompt}] if prompt else [], chosen, rejected
    else:
        raise UserError(
            f"{place}: {name} is no turn of the user in chosen and rejected; say which one to use: --ignore-columns "
            f"{name}"
        )
    return _with_system(prompt, system, place), *completions


def _trl_texts(row, place, options, name, prompt, chosen, rejected, system, facts):
    """(prompt, chosen, rejected) of a row whose completions are texts."""
    if prompt is not None and is_chat(prompt):
        raise UserError(f"{place}: {name} is a list of messages, but chosen and rejected are texts")
    chat = _as_chat(bool(system and system.text) or name not in (None, "prompt"), options)
    whole = turns.is_transcript(chosen) and turns.is_transcript(rejected)
    if prompt is None:
        implicit = _implicit(row, place, chosen, rejected)
        if chat and not whole:
            raise UserError(
                f"{place}: no prompt, and no transcript to take it from, so that there is nothing to be the user's turn"
            )
        if chat:
            facts.append(("text as chat", ""))
            prompt, *completions = extract_prompt(
                turns.as_turns(chosen, "assistant"), turns.as_turns(rejected, "assistant")
            )
            return _with_system(prompt, system, place), *completions
        return _text_with_system(implicit[0], system), *implicit[1:]
    repeated = turns.without_repeat(prompt, chosen, rejected)
    if repeated:
        facts.append(("repeat", ""))
        prompt, chosen, rejected = repeated
    if not chat:
        return _text_with_system(prompt, system), chosen, rejected
    facts.append(("text as chat", ""))
    prompt = _prompt_as_turns(prompt, system, place, options) if prompt.strip() else []
    return prompt, turns.as_turns(chosen, "assistant"), turns.as_turns(rejected, "assistant")


# --- prompts only ---------------------------------------------------------------------------------


def _from_prompt(row, place, options):
    strangers = _strangers(row, columns.PROMPTS)
    if strangers:
        raise UserError(
            f"{place}: a row with a prompt and no answers, but {' and '.join(strangers)} "
            f"hold{'s' * (len(strangers) == 1)} "
            f"text{_suggestion({name: row[name] for name in strangers}, columns.TRL) or ''}; a row of prompts only has "
            f"prompt and category: pass over the rest with --ignore-columns {' '.join(strangers)}"
        )
    facts, unused = [], {}
    name, prompt = _prompt_of(row, place, facts, unused)
    system = _system_of(row, place, options, facts)
    chat = options.has_template and options.chat != "never"
    if is_chat(prompt):
        if options.chat == "never":
            raise _no_chat(place)
        chat = True
        if prompt[-1]["role"] == "assistant":
            raise UserError(f"{place}: {name} ends with an answer, and there is no other one to prefer it to")
        prompt = _with_system(prompt, system, place)
    elif chat:
        prompt = _prompt_as_turns(prompt, system, place, options)
    else:
        prompt = _text_with_system(turns.checked(prompt, name, place), system)
    categories, rule, said = column_categories(row, place, options, facts)
    benign = flag_or(row, "is_prompt_safe", place, 0 if categories else 1 if said == "safe" else UNKNOWN)
    if not categories:
        categories, rule = ([options.benign], "benign") if benign == 1 else ([UNCATEGORISED], "uncategorised")
    return Prompt(
        prompt=prompt,
        chat=chat,
        categories=categories,
        rule=rule,
        benign=benign,
        extra=_arguments(row, place, chat, unused),
        score_weight=_weights(row, place, options, unused),
        schema=columns.PROMPTS,
        facts=facts,
        unused=unused,
    )

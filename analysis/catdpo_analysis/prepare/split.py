"""Train and held-out parts by prompt: no prompt is in both, no category is missing from either."""

import hashlib
import random
import unicodedata

from catdpo_analysis.errors import UserError
from catdpo_analysis.files import h5io
from catdpo_analysis.prepare.turns import shown

ATTEMPTS = 20  # shuffles to try where prompts of several categories make the split hard
TURN = "\n\nAssistant:"  # HH-RLHF transcripts: what follows the last one is the reply's start, not the prompt


def cut_parts(pairs, args, train_only):
    """part -> set of prompt keys, of the parts that --heldout and --probe ask for. The first is cut as if there were
    no second, but leaves each category enough."""
    parts, left = {}, pairs
    for name, share, leave, seed in (
        ("heldout", args.heldout, 1 + bool(args.probe), args.seed),
        ("probe", args.probe / (1 - args.heldout), 1, f"{args.seed} probe"),
    ):
        if share and left:
            parts[name] = split_prompts(left, share, seed, train_only, leave)
            left = [pair for pair in left if pair.key not in parts[name]]
    return parts


def parts_like(pairs, path):
    """The same, of the prompts that are in these parts of another pairs.h5; and its digest."""
    parts, of_text = {}, {}
    for pair in pairs:
        of_text.setdefault(_text_key(shown(pair.prompt)), set()).add(pair.key)
    with h5io.open_as(path, "catdpo-pairs") as file:
        for name in ("heldout", "probe"):
            if name in file:
                texts = {_text_key(text) for text in h5io.strings(file[f"{name}/text/prompt"])}
                parts[name] = set().union(*(of_text[key] for key in texts & of_text.keys()))
        return parts, h5io.text(file, "data_digest")


def _text_key(text):
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prompt_key(pair):
    """The same for prompts that differ only in case, white space or Unicode form, whatever the format they came in."""
    if pair.chat:
        if len(pair.prompt) == 1 and pair.prompt[0].get("role") == "user":
            text = pair.prompt[0].get("content") or ""
        else:
            text = "\n".join(f"{message.get('role')}: {message.get('content') or ''}" for message in pair.prompt)
    else:
        text = pair.prompt
        if TURN in text:
            text = text[: text.rindex(TURN)]
    return hashlib.sha256(_text_key(text).encode("utf-8", "surrogatepass")).digest()


def prompts_by_category(pairs):
    """category -> set of prompt keys."""
    result = {}
    for pair in pairs:
        for name in pair.categories:
            result.setdefault(name, set()).add(pair.key)
    return result


def _groups(pairs):
    """As prompts_by_category, and apart for the pairs of a category to which the margin applies and the others,
    where both are there and have two prompts: a category's violation rate is then known in both parts."""
    groups = {(name, ""): prompts for name, prompts in prompts_by_category(pairs).items()}
    for kind, applies in (("margin", True), ("no margin", False)):
        part = prompts_by_category([pair for pair in pairs if pair.margin_applies == applies])
        groups |= {
            (name, kind): prompts for name, prompts in part.items() if len(prompts) > 1 and prompts != groups[name, ""]
        }
    return groups


def split_prompts(pairs, share, seed, train_only=(), leave=1):
    """The set of prompt keys that are held out: about `share` of each category's prompts, at least one, and `leave` of
    them stay.

    Smallest group first, each filled up to its share from the prompts that no smaller one has placed; then repaired,
    since a prompt may belong to several categories. Categories in `train_only` stay whole in the train part; every
    other one must have `leave` + 1 prompts or more. The result depends on the seed and on the set of prompts, not on
    the order of the rows.
    """
    required = {name: prompts for name, prompts in prompts_by_category(pairs).items() if name not in train_only}
    pinned = {pair.key for pair in pairs if any(name in train_only for name in pair.categories)}
    groups = {group: prompts for group, prompts in _groups(pairs).items() if group[0] not in train_only}
    for attempt in range(ATTEMPTS):
        order = sorted({pair.key for pair in pairs})
        random.Random(f"{seed} {attempt}").shuffle(order)
        rank = {key: i for i, key in enumerate(order)}
        held, lacking = _fill(groups, required, pinned, share, rank, leave)
        if not lacking:
            return held
    raise UserError(
        f'category "{lacking}" shares its prompts with others so that no split by prompt has every category in both '
        "parts; leave it out with --categories, or hold nothing out with --heldout 0 (and no --probe)"
    )


def _fill(groups, required, pinned, share, rank, leave):
    """One attempt: (held-out prompts, a category that a part lacks or None)."""
    held, train = set(), set(pinned)
    for group in sorted(groups, key=lambda group: (len(groups[group]), group)):
        prompts = groups[group]
        target = min(max(round(share * len(prompts)), 1), max(len(prompts) - leave, min(1, len(prompts) - 1)))
        free = sorted(prompts - held - train, key=rank.get)
        take = max(target - len(prompts & held), 0)
        held.update(free[:take])
        train.update(free[take:])
    return held, _repair(required, held, train, pinned, rank, leave)


def _repair(required, held, train, pinned, rank, leave):
    """Moves a prompt to the side that lacks a category, where that takes no category from the other side. Returns a
    category that is still lacking, or None."""
    names_of = {}
    for name, prompts in required.items():
        for key in prompts:
            names_of.setdefault(key, []).append(name)
    for _ in range(2 * len(required) + 1):
        lacking = [
            (name, to, other)
            for name in sorted(required)
            for to, other, least in ((held, train, 1), (train, held, leave))
            if len(required[name] & to) < least
        ]
        if not lacking:
            return None
        moved = False
        for name, to, other in lacking:
            candidates = (
                key
                for key in sorted(required[name] & other - pinned, key=rank.get)
                if all(len(required[also] & other) > (1 if other is held else leave) for also in names_of[key])
            )
            key = next(candidates, None)
            if key is not None:
                other.remove(key)
                to.add(key)
                moved = True
        if not moved:
            break
    return lacking[0][0]

"""Which pairs are used: wanted, complete, each once, short enough, of categories that are large enough to split.

What is left out or cut goes to the ledger.
"""

import collections
import hashlib
import json

import numpy as np

from catdpo_analysis.errors import UserError
from catdpo_analysis.prepare.encode import is_empty
from catdpo_analysis.prepare.formats import UNKNOWN
from catdpo_analysis.prepare.segments import settle
from catdpo_analysis.prepare.split import prompt_key, prompts_by_category

OTHER = "other"  # the category that rare ones are pooled into
NO_HARM = ("benign", "uncategorised")  # rules by which a pair has a category that is none of harm
EMPTY = "empty completion"
SAME = "chosen and rejected are the same"


def select(pairs, args, ledger, notes, place_of):
    """The usable pairs: of the wanted categories, complete, each once with all its categories, up to the limit."""
    if args.categories:
        known = sorted({name for pair in pairs for name in pair.categories})
        for name in args.categories:
            if name not in known:
                raise UserError(f'--categories: no pair has the category "{name}"; there are: {", ".join(known)}')
    kept, seen, turned = [], {}, {}
    for pair in pairs:
        if args.categories:
            wanted = [name for name in pair.categories if name in args.categories]
            if not wanted:
                ledger.add(pair, "category not selected")
                continue
            pair.categories = wanted
        key, other = _key(pair, pair.chosen, pair.rejected), _key(pair, pair.rejected, pair.chosen)
        earlier = seen.get(key) if not args.keep_duplicates else None
        if not pair.prompt:
            ledger.add(pair, "no prompt (chosen and rejected have no common start)")
        elif is_empty(pair):
            ledger.add(pair, EMPTY)
        elif pair.chosen == pair.rejected:
            ledger.add(pair, SAME)
        elif earlier:
            ledger.add(pair, _unite(earlier, pair, notes, place_of))
        elif args.limit and len(kept) == args.limit:
            ledger.add(pair, "beyond --limit")
        else:
            seen[key] = pair
            _compare_turned(pair, turned.get(other), notes, place_of)
            turned.setdefault(key, pair)
            pair.key = prompt_key(pair)
            kept.append(pair)
    return kept


def _key(pair, chosen, rejected):
    """Equal for pairs that are the same to the model."""
    parts = [pair.chat, pair.prompt, chosen, rejected, pair.extra]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def _unite(first, again, notes, place_of):
    """A pair that occurs again gives the first one what it knows besides: categories and flags. Returns the ledger's
    reason."""
    flags, others = (first.chosen_safe, first.rejected_safe), (again.chosen_safe, again.rejected_safe)
    if first.assumed == again.assumed and _contradict(flags, others):
        notes.add("contradiction", place_of(again), f"{place_of(again)} against {place_of(first)}")
        return "duplicate with other safety flags"
    if first.assumed and not again.assumed:  # what was said comes before what was guessed
        flags, others = others, flags
    first.chosen_safe, first.rejected_safe = (b if a == UNKNOWN else a for a, b in zip(flags, others))
    first.assumed = (first.assumed and again.assumed) or (UNKNOWN in flags and (first.assumed or again.assumed))
    first.benign = min(first.benign, again.benign)
    if first.chosen_better == -1:
        first.chosen_better = again.chosen_better
    harms = [name for name in again.categories if again.rule not in NO_HARM]
    new = [name for name in harms if name not in first.categories]
    if not new:
        return "duplicate"
    first.categories = new if first.rule in NO_HARM else first.categories + new
    first.rule = again.rule if first.rule in NO_HARM else first.rule
    return "duplicate, whose category the first one took over"


def _contradict(flags, others):
    return any(a != b and UNKNOWN not in (a, b) for a, b in zip(flags, others))


def _compare_turned(pair, other, notes, place_of):
    """Of a pair that occurs with chosen and rejected the other way round."""
    if other is None:
        return
    notes.add("both ways", place_of(pair))
    flags, others = (pair.chosen_safe, pair.rejected_safe), (other.rejected_safe, other.chosen_safe)
    if pair.assumed == other.assumed and _contradict(flags, others):
        notes.add("contradiction", place_of(pair), f"{place_of(pair)} against {place_of(other)}")


def fit(pairs, encoded, args, ledger, place_of):
    """Pairs within the maximum length: [(pair, encoded, ledger entries)]."""
    limit, kept = args.max_length, []
    for pair, tokens in zip(pairs, encoded):
        if tokens is None:  # a bad row
            continue
        sizes = [len(tokens.chosen), len(tokens.rejected)]
        entries = []
        if tokens.empty:
            ledger.add(pair, EMPTY, max(sizes))
            continue
        if np.array_equal(tokens.chosen, tokens.rejected):
            ledger.add(pair, SAME, max(sizes))
            continue
        if tokens.prompt_length < 1:
            ledger.add(pair, "prompt has no tokens of its own", max(sizes))
            continue
        if tokens.cause:
            whole = len(tokens.prompt)
            entries.append(ledger.add(pair, tokens.cause, whole, min(tokens.prompt_length, whole)))
        if limit and max(sizes) > limit:
            if args.over_length == "refuse":
                raise UserError(
                    f"{place_of(pair)}: a pair of {max(sizes)} tokens, more than --max-length "
                    f"{limit}; use --over-length truncate or drop, or a larger length"
                )
            if tokens.prompt_length >= limit:
                ledger.add(pair, "prompt alone fills the maximum length", max(sizes))
                continue
            if args.over_length == "drop":
                ledger.add(pair, "longer than the maximum length", max(sizes))
                continue
            if np.array_equal(tokens.chosen[:limit], tokens.rejected[:limit]):
                ledger.add(pair, "chosen and rejected are the same after truncation", max(sizes))
                continue
            for name, size in zip(("chosen", "rejected"), sizes):
                if size > limit:
                    setattr(tokens, name, getattr(tokens, name)[:limit])
                    entries.append(ledger.add(pair, f"{name} truncated", size, limit))
        if min(len(tokens.chosen), len(tokens.rejected)) <= tokens.prompt_length:
            ledger.add(pair, "completion has no tokens", max(sizes))
            continue
        reason = settle(pair, tokens, args)
        if reason:
            ledger.add(pair, reason, max(sizes))
            continue
        kept.append((pair, tokens, entries))
    return kept


def fit_prompts(prompts, encoded, args, ledger):
    """Prompts to generate from, each once and shorter than the maximum length: [(row, token ids)]."""
    kept, seen = [], {}
    for row, tokens in zip(prompts, encoded):
        if tokens is None:  # a bad row
            continue
        first = seen.get(tokens.tobytes())
        if not len(tokens):
            ledger.add(row, "prompt has no tokens of its own")
        elif args.max_length and len(tokens) >= args.max_length:
            ledger.add(row, "prompt alone fills the maximum length", len(tokens))
        elif first:
            first.categories += [name for name in row.categories if name not in first.categories]
            first.benign = min(first.benign, row.benign)
            ledger.add(row, "duplicate", len(tokens))
        else:
            seen[tokens.tobytes()] = row
            kept.append((row, tokens))
    return kept


def settle_rare(kept, args, ledger):
    """Deals with categories that are too small for the split or for --min-pairs; returns (kept, categories that stay
    in train)."""
    while True:
        pairs = [pair for pair, _, _ in kept]
        prompts = prompts_by_category(pairs)
        counts = collections.Counter(name for pair in pairs for name in pair.categories)
        least = 1 + bool(args.heldout) + bool(args.probe)  # both 0 with --split-like, which does as another file did
        rare = sorted(name for name in prompts if len(prompts[name]) < least or counts[name] < args.min_pairs)
        if not rare or args.rare == "keep-train":
            return kept, rare
        if args.rare == "refuse" or (args.rare == "pool" and rare == [OTHER]):
            listed = "; ".join(f'"{name}": {counts[name]} pairs, {len(prompts[name])} prompts' for name in rare)
            raise UserError(
                f"too few for a split by prompt{f' or for --min-pairs {args.min_pairs}' if args.min_pairs else ''}: "
                f"{listed}; "
                "choose --rare pool, drop or keep-train, give more data, or hold nothing out with --heldout 0"
            )
        left = []
        for pair, tokens, entries in kept:
            removed = [name for name in pair.categories if name in rare]
            if removed:
                names = [name for name in pair.categories if name not in rare] + (
                    [OTHER] if args.rare == "pool" else []
                )
                names = list(dict.fromkeys(names))
                size = max(len(tokens.chosen), len(tokens.rejected))
                entry = ledger.add(
                    pair,
                    f'category pooled into "{OTHER}"' if args.rare == "pool" else "category too rare",
                    size,
                    size if names else 0,
                )
                entry.categories = removed
                if not names:
                    continue
                entries.append(entry)
                pair.categories = names
            left.append((pair, tokens, entries))
        kept = left

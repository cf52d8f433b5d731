"""Which pairs are used: wanted, complete, each once, short enough, of categories that are large enough to split.

What is left out or cut goes to the ledger.
"""

import collections
import hashlib
import json

import numpy as np

from catdpo_analysis.prepare.encode import is_empty
from catdpo_analysis.errors import UserError
from catdpo_analysis.prepare.split import prompt_key, prompts_by_category

OTHER = "other"  # the category that rare ones are pooled into
SAME = "chosen and rejected are the same"


def select(pairs, args, ledger):
    """The usable pairs: of the wanted categories, complete, each once, up to the limit."""
    if args.categories:
        known = sorted({name for pair in pairs for name in pair.categories})
        for name in args.categories:
            if name not in known:
                raise UserError(f'--categories: no pair has the category "{name}"; there are: {", ".join(known)}')
    kept, seen = [], set()
    for pair in pairs:
        if args.categories:
            wanted = [name for name in pair.categories if name in args.categories]
            if not wanted:
                ledger.add(pair, "category not selected")
                continue
            pair.categories = wanted
        key = hashlib.sha256(json.dumps([pair.prompt, pair.chosen, pair.rejected]).encode()).digest()
        if not pair.prompt:
            ledger.add(pair, "no prompt (chosen and rejected have no common start)")
        elif is_empty(pair):
            ledger.add(pair, "empty completion")
        elif pair.chosen == pair.rejected:
            ledger.add(pair, SAME)
        elif key in seen and not args.keep_duplicates:
            ledger.add(pair, "duplicate")
        elif args.limit and len(kept) == args.limit:
            ledger.add(pair, "beyond --limit")
        else:
            seen.add(key)
            pair.key = prompt_key(pair)
            kept.append(pair)
    return kept


def fit(pairs, encoded, args, ledger):
    """Pairs within the maximum length: [(pair, encoded, ledger entries)]."""
    limit, kept = args.max_length, []
    for pair, tokens in zip(pairs, encoded):
        sizes = [len(tokens.chosen), len(tokens.rejected)]
        entries = []
        if np.array_equal(tokens.chosen, tokens.rejected):
            ledger.add(pair, SAME, max(sizes))
            continue
        if tokens.prompt_length < 1:
            ledger.add(pair, "prompt has no tokens of its own", max(sizes))
            continue
        if tokens.moved:
            entries.append(
                ledger.add(
                    pair,
                    "end of the prompt merges with the completion",
                    tokens.prompt_length + tokens.moved,
                    tokens.prompt_length,
                )
            )
        if limit and max(sizes) > limit:
            if args.over_length == "refuse":
                raise UserError(
                    f"{args.inputs[pair.file]}:{pair.row + 1}: a pair of {max(sizes)} tokens, more than --max-length "
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
        kept.append((pair, tokens, entries))
    return kept


def settle_rare(kept, args, ledger):
    """Deals with categories that are too small for the split or for --min-pairs; returns (kept, categories that stay
    in train)."""
    while True:
        pairs = [pair for pair, _, _ in kept]
        prompts = prompts_by_category(pairs)
        counts = collections.Counter(name for pair in pairs for name in pair.categories)
        least = 2 if args.heldout else 1
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

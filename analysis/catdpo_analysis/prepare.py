"""The prepare command: preference data to pairs.h5."""

import collections
import hashlib
import json

import numpy as np

from catdpo_analysis import CREATOR, h5io
from catdpo_analysis.chat import ChatTokenizer
from catdpo_analysis.encode import encode_pairs, is_empty
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.formats import BENIGN, RULES, Dropped, Options, check_category, read_pair
from catdpo_analysis.jsonl import describe, read_rows
from catdpo_analysis.ledger import Ledger
from catdpo_analysis.pairs_file import write_pairs
from catdpo_analysis.split import prompt_key, prompts_by_category, split_prompts
from catdpo_analysis.table import format_table

OTHER = "other"  # the category that rare ones are pooled into
SAME = "chosen and rejected are the same"


def add_arguments(parser):
    parser.add_argument("inputs", nargs="+", metavar="JSONL", help="preference data, plain or gzip'd; several files make one set")
    parser.add_argument("--out", required=True, metavar="FILE", help="the pairs.h5 to write")
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="FILE", help="model.h5 whose tokenizer and chat template are used")
    group.add_argument("--tokenizer", metavar="DIR", help="folder with tokenizer.json, used instead of the model's")
    group.add_argument("--chat-template", metavar="FILE", help="a Jinja template, used instead of the tokenizer's")
    group = parser.add_argument_group("preferences and categories")
    group.add_argument("--transform", choices=("safedpo", "none"), default="safedpo", help="safedpo: keep, swap or drop (default); none: as preferred")
    group.add_argument("--categories", nargs="+", metavar="NAME", help="use only these categories; pairs without any of them are dropped")
    group.add_argument("--benign-name", default=BENIGN, metavar="NAME", help="category of pairs with two safe responses (default: %(default)s)")
    group.add_argument("--safe-pairs", choices=("benign", "prompt"), default="benign",
                       help="category of PKU-SafeRLHF pairs with two safe responses: the benign one (default), or that of the prompt where known")
    group.add_argument("--assume-unsafe-rejected", action="store_true",
                       help="TRL rows without category and flags: chosen is safe, rejected is unsafe (default: unknown, so that no margin applies)")
    group.add_argument("--min-pairs", type=int, default=0, metavar="N", help="a category with fewer pairs counts as rare (default: 0)")
    group.add_argument("--rare", choices=("refuse", "pool", "drop", "keep-train"), default="refuse",
                       help=f'a rare category, or one with a single prompt: refuse (default), pool into "{OTHER}", drop, or keep it in the train part only')
    group = parser.add_argument_group("split")
    group.add_argument("--heldout", type=float, default=0.2, metavar="SHARE", help="share of each category's prompts to hold out (default: %(default)s; 0: none)")
    group.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    group = parser.add_argument_group("lengths and duplicates")
    group.add_argument("--max-length", type=int, default=512, metavar="TOKENS", help="of prompt + completion (default: %(default)s; 0: no limit)")
    group.add_argument("--over-length", choices=("truncate", "drop", "refuse"), default="truncate",
                       help="what to do with a pair that is longer: cut each sequence's end (default), drop the pair, or stop. A pair whose prompt "
                            "alone fills the length is dropped")
    group.add_argument("--keep-duplicates", action="store_true", help="keep pairs whose prompt and responses occurred before")
    group.add_argument("--limit", type=int, default=0, metavar="N", help="use only the first N usable pairs")


def check_arguments(args):
    if not args.model and not args.tokenizer:
        raise UserError("name the model whose tokenizer to use: --model model.h5 (made by import), or --tokenizer FOLDER")
    if not 0 <= args.heldout < 1:
        raise UserError(f"--heldout {args.heldout} is not a share; use 0.2 for a fifth of the prompts")
    for name in ("max_length", "limit", "min_pairs"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)} is negative")
    if 0 < args.max_length < 2:
        raise UserError("--max-length 1 leaves no room for a completion")
    if not args.benign_name.strip():
        raise UserError("--benign-name is empty")
    check_category(args.benign_name, "--benign-name")


def load_tokenizer(args):
    template = None
    if args.chat_template:
        try:
            with open(args.chat_template, encoding="utf-8") as file:
                template = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{args.chat_template} cannot be read: {error}") from None
    if not args.tokenizer:
        return ChatTokenizer.from_model(args.model, template)
    tokenizer = ChatTokenizer.from_folder(args.tokenizer, template)
    if args.model:
        with h5io.open_as(args.model, "catdpo-model", "catdpo-checkpoint") as file:
            rows = int(file["model"].attrs["vocab_size"])
        if tokenizer.vocab_size > rows:
            raise UserError(f"the tokenizer in {args.tokenizer} has token ids up to {tokenizer.vocab_size - 1}, but the embedding in {args.model} has {rows} rows")
    return tokenizer


def read_inputs(paths, options, ledger):
    """All pairs of all files, and how often each step of the transformation happened."""
    pairs, steps = [], collections.Counter()
    for index, path in enumerate(paths):
        for row, value in read_rows(path):
            result = read_pair(value, f"{path}:{row + 1}", options)
            result.file, result.row = index, row
            if isinstance(result, Dropped):
                ledger.add(result, result.reason)
                steps["dropped: " + result.reason] += 1
                continue
            pairs.append(result)
            if result.swapped:
                steps["swapped: the preferred response is unsafe, the other safe"] += 1
            elif result.margin_applies:
                steps["kept: chosen safe, rejected unsafe"] += 1
            elif result.chosen_safe == 1 and result.rejected_safe == 1:
                steps["kept: both safe"] += 1
            else:
                steps["kept: as given" if options.transform == "none" else "kept: safety unknown"] += 1
    return pairs, steps


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
            entries.append(ledger.add(pair, "end of the prompt merges with the completion", tokens.prompt_length + tokens.moved, tokens.prompt_length))
        if limit and max(sizes) > limit:
            if args.over_length == "refuse":
                raise UserError(f"{args.inputs[pair.file]}:{pair.row + 1}: a pair of {max(sizes)} tokens, more than --max-length {limit}; "
                                "use --over-length truncate or drop, or a larger length")
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
    """Deals with categories that are too small for the split or for --min-pairs; returns (kept, categories that stay in train)."""
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
            raise UserError(f"too few for a split by prompt{f' or for --min-pairs {args.min_pairs}' if args.min_pairs else ''}: {listed}; "
                            "choose --rare pool, drop or keep-train, give more data, or hold nothing out with --heldout 0")
        left = []
        for pair, tokens, entries in kept:
            removed = [name for name in pair.categories if name in rare]
            if removed:
                names = [name for name in pair.categories if name not in rare] + ([OTHER] if args.rare == "pool" else [])
                names = list(dict.fromkeys(names))
                size = max(len(tokens.chosen), len(tokens.rejected))
                entry = ledger.add(pair, f'category pooled into "{OTHER}"' if args.rare == "pool" else "category too rare", size, size if names else 0)
                entry.categories = removed
                if not names:
                    continue
                entries.append(entry)
                pair.categories = names
            left.append((pair, tokens, entries))
        kept = left


def settings_of(args, tokenizer):
    """All that decides the content of the file besides the inputs and the tokenizer."""
    names = ("transform", "categories", "benign_name", "safe_pairs", "assume_unsafe_rejected", "min_pairs", "rare", "heldout", "seed", "max_length",
             "over_length", "keep_duplicates", "limit")
    return {name: getattr(args, name) for name in names} | {"preparer": CREATOR, "template_digest": tokenizer.template_digest}


def data_digest(paths, settings):
    """sha256 over the bytes of the inputs, in order, and the settings."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def run(args):
    check_arguments(args)
    h5io.refuse_overwrite(args.out, [*args.inputs, *filter(None, [args.model, args.chat_template])])
    tokenizer = load_tokenizer(args)
    ledger = Ledger()
    options = Options(args.transform, args.benign_name, args.safe_pairs == "prompt", args.assume_unsafe_rejected)
    pairs, steps = read_inputs(args.inputs, options, ledger)
    usable = select(pairs, args, ledger)
    kept = fit(usable, encode_pairs(usable, tokenizer, lambda pair: f"{args.inputs[pair.file]}:{pair.row + 1}"), args, ledger)
    kept, train_only = settle_rare(kept, args, ledger)
    if not kept:
        raise UserError("no pair is left: " + (", ".join(f"{reason} ({sum(e.reason == reason for e in ledger.entries)})" for reason in ledger.reasons()) or "no rows"))
    held = split_prompts([pair for pair, _, _ in kept], args.heldout, args.seed, train_only) if args.heldout else set()
    parts = {"train": ([], []), "heldout": ([], [])}
    for pair, tokens, entries in kept:
        part = "heldout" if pair.key in held else "train"
        parts[part][0].append(pair)
        parts[part][1].append(tokens)
        for entry in entries:
            entry.split = part
    harm_names = {name for pair, _, _ in kept if pair.margin_applies for name in pair.categories}
    categories = sorted({name for pair, _, _ in kept for name in pair.categories}, key=lambda name: (name not in harm_names, name))
    settings = settings_of(args, tokenizer)
    rules = collections.Counter(pair.rule for pair, _, _ in kept)
    attributes = {
        "data_digest": data_digest(args.inputs, settings), "tokenizer_digest": tokenizer.tokenizer_digest, "template_digest": tokenizer.template_digest,
        "vocab_size": tokenizer.vocab_size, "max_length": args.max_length, "over_length": args.over_length, "transform": args.transform,
        "seed": args.seed, "settings": settings, "inputs": [describe(path) for path in args.inputs], "transform_counts": dict(steps),
        "category_rules": list(RULES),
    }
    write_pairs(args.out, parts, categories, [int(name in harm_names) for name in categories], ledger, attributes)
    print_summary(args, tokenizer, parts, categories, harm_names, steps, rules, ledger, train_only)


def print_summary(args, tokenizer, parts, categories, harm_names, steps, rules, ledger, train_only):
    print(format_table(["rows", "SafeDPO transformation" if args.transform == "safedpo" else "preference"], [[n, step] for step, n in sorted(steps.items())]))
    print("\nCategories from: " + ", ".join(f"{rule} ({rules[rule]} pairs)" for rule in RULES if rules[rule]))
    rows = []
    for name in categories:
        row = [shorten(name, 40), "harm" if name in harm_names else "no margin"]
        for pairs, encoded in parts.values():
            chosen = [i for i, pair in enumerate(pairs) if name in pair.categories]
            row += [len(chosen), len({pairs[i].key for i in chosen}), sum(pairs[i].margin_applies for i in chosen)]
        rows.append(row)
    total = ["all", ""]
    for pairs, encoded in parts.values():
        total += [len(pairs), len({pair.key for pair in pairs}), sum(pair.margin_applies for pair in pairs)]
    heading = ["category", "kind", "train pairs", "prompts", "with margin", "held-out pairs", "prompts", "with margin"]
    print("\n" + format_table(heading, [*rows, total], last_is_total=True))
    print("\nCut or dropped (in the file under /ledger):\n" + ledger.text(categories))
    for name in train_only if args.heldout else ():
        print(f'note: category "{name}" is in the train part only (--rare keep-train)')
    if "strftime_now" in tokenizer.template_text:
        print("note: this chat template writes today's date into the prompt; prepare the data again only if you want another date")
    tokens = [len(t.chosen) + len(t.rejected) for _, encoded in parts.values() for t in encoded]
    print(f"\n{args.out}: {len(tokens)} pairs, {sum(tokens)} tokens, {len(categories)} categories, largest sequence "
          f"{max(max(len(t.chosen), len(t.rejected)) for _, encoded in parts.values() for t in encoded)} tokens")

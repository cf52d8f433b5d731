"""The prepare command: preference data to pairs.h5."""

import collections
import hashlib
import json

from catdpo_analysis import CREATOR
from catdpo_analysis.files import h5io
from catdpo_analysis.prepare.chat import ChatTokenizer
from catdpo_analysis.prepare.encode import encode_pairs
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.prepare.formats import RULES, Dropped, Options, read_pair
from catdpo_analysis.prepare.jsonl import describe, read_rows
from catdpo_analysis.prepare.ledger import Ledger
from catdpo_analysis.prepare.pairs_file import write_pairs
from catdpo_analysis.prepare.options import add_arguments, check_arguments
from catdpo_analysis.prepare.selection import fit, select, settle_rare
from catdpo_analysis.prepare.split import split_prompts
from catdpo_analysis.text.table import format_table

__all__ = ["add_arguments", "run"]


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
            raise UserError(
                f"the tokenizer in {args.tokenizer} has token ids up to {tokenizer.vocab_size - 1}, but the embedding "
                f"in {args.model} has {rows} rows"
            )
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


def settings_of(args, tokenizer):
    """All that decides the content of the file besides the inputs and the tokenizer."""
    names = (
        "transform",
        "categories",
        "benign_name",
        "safe_pairs",
        "assume_unsafe_rejected",
        "min_pairs",
        "rare",
        "heldout",
        "seed",
        "max_length",
        "over_length",
        "keep_duplicates",
        "limit",
    )
    return {name: getattr(args, name) for name in names} | {
        "preparer": CREATOR,
        "template_digest": tokenizer.template_digest,
    }


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
    kept = fit(
        usable, encode_pairs(usable, tokenizer, lambda pair: f"{args.inputs[pair.file]}:{pair.row + 1}"), args, ledger
    )
    kept, train_only = settle_rare(kept, args, ledger)
    if not kept:
        raise UserError(
            "no pair is left: "
            + (
                ", ".join(
                    f"{reason} ({sum(e.reason == reason for e in ledger.entries)})" for reason in ledger.reasons()
                )
                or "no rows"
            )
        )
    held = split_prompts([pair for pair, _, _ in kept], args.heldout, args.seed, train_only) if args.heldout else set()
    parts = {"train": ([], []), "heldout": ([], [])}
    for pair, tokens, entries in kept:
        part = "heldout" if pair.key in held else "train"
        parts[part][0].append(pair)
        parts[part][1].append(tokens)
        for entry in entries:
            entry.split = part
    harm_names = {name for pair, _, _ in kept if pair.margin_applies for name in pair.categories}
    categories = sorted(
        {name for pair, _, _ in kept for name in pair.categories}, key=lambda name: (name not in harm_names, name)
    )
    settings = settings_of(args, tokenizer)
    rules = collections.Counter(pair.rule for pair, _, _ in kept)
    attributes = {
        "data_digest": data_digest(args.inputs, settings),
        "tokenizer_digest": tokenizer.tokenizer_digest,
        "template_digest": tokenizer.template_digest,
        "vocab_size": tokenizer.vocab_size,
        "max_length": args.max_length,
        "over_length": args.over_length,
        "transform": args.transform,
        "seed": args.seed,
        "settings": settings,
        "inputs": [describe(path) for path in args.inputs],
        "transform_counts": dict(steps),
        "category_rules": list(RULES),
    }
    write_pairs(args.out, parts, categories, [int(name in harm_names) for name in categories], ledger, attributes)
    print_summary(args, tokenizer, parts, categories, harm_names, steps, rules, ledger, train_only)


def print_summary(args, tokenizer, parts, categories, harm_names, steps, rules, ledger, train_only):
    print(
        format_table(
            ["rows", "SafeDPO transformation" if args.transform == "safedpo" else "preference"],
            [[n, step] for step, n in sorted(steps.items())],
        )
    )
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
        print(
            "note: this chat template writes today's date into the prompt; prepare the data again only if you want "
            "another date"
        )
    tokens = [len(t.chosen) + len(t.rejected) for _, encoded in parts.values() for t in encoded]
    print(
        f"\n{args.out}: {len(tokens)} pairs, {sum(tokens)} tokens, {len(categories)} categories, largest sequence "
        f"{max(max(len(t.chosen), len(t.rejected)) for _, encoded in parts.values() for t in encoded)} tokens"
    )

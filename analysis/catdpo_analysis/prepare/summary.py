"""What prepare says at its end: what became of the rows, and all that decided it without being asked for."""

import collections

from catdpo_analysis.errors import one_line, shorten
from catdpo_analysis.prepare.categories import look_alikes
from catdpo_analysis.prepare.formats import RULES
from catdpo_analysis.text.table import format_table, show

TITLES = {"train": "train", "heldout": "held-out", "probe": "probe"}


def print_summary(
    args, tokenizer, inputs, parts, prompts, probes, categories, harm_names, ledger, train_only, positions, said,
    authorship,
):  # fmt: skip
    """`prompts` and `probes`: [(row, token ids)] of rows that are prompts only, the latter of the probe group."""
    steps, pairs = inputs.steps, [pair for pairs, _ in parts.values() for pair in pairs]
    heading = "preference" if args.transform == "none" else f"transformation: {args.transform}"
    print(format_table(["rows", heading], [[n, step] for step, n in sorted(steps.items())]))
    rules = collections.Counter(pair.rule for pair in pairs)
    if pairs:
        print("\nCategories from: " + ", ".join(f"{rule} ({rules[rule]} pairs)" for rule in RULES if rules[rule]))
    print("\n" + category_table(parts, prompts, probes, categories, harm_names))
    print("\nChat template:")
    for source, forms in zip(inputs.sources, inputs.forms):
        for line in template_lines(forms, tokenizer.has_template):
            print(f"  {source.name}: {line}")
    unused = inputs.unused.lines()
    if unused:
        print("\nColumns that are not used:")
        for line in unused:
            print("  " + line)
    if authorship:
        print("\nWho wrote the responses (in the file under /sources):")
        show(authorship.table())
    print("\nCut or dropped (in the file under /ledger):\n" + ledger.text(categories))
    for line in inputs.bad.lines():
        print("  " + line)
    for note in notes_of(args, tokenizer, inputs, parts, pairs, prompts + probes, harm_names, train_only, positions):
        print("note: " + note)
    for note in said:
        print("note: " + note)
    for warning in authorship.warnings() if authorship else ():
        print("warning: " + warning)
    print(f"\n{args.out}: {size_of(parts, prompts, probes, categories)}")


def template_lines(forms, has_template):
    """How the rows of a file are written."""
    said = "; the model has a chat template, which they do not use (--chat always)" if has_template else ""
    for form, what in (("chat", "through the chat template"), ("text", f"as plain text{said}")):
        if forms[form]:
            yield f"{forms[form]} row{'s' * (forms[form] != 1)} {what}"


def category_table(parts, prompts, probes, categories, harm_names):
    parts = {name: part for name, part in parts.items() if probes or any(pairs for pairs, _ in parts.values())}
    asked = {name: [row for row, _ in probes] if name == "probe" else [] for name in parts}
    rows = []
    for name in categories:
        row = [shorten(name, 40), "harm" if name in harm_names else "no margin"]
        for part, (pairs, _) in parts.items():
            chosen = [pair for pair in pairs if name in pair.categories]
            also = [other for other in asked[part] if name in other.categories]
            row += [len(chosen), len({each.key for each in (*chosen, *also)})]
            row += [sum(pair.margin_applies for pair in chosen)]
        rows.append(row + ([sum(name in row.categories for row, _ in prompts)] if prompts else []))
    total = ["all", ""]
    for part, (pairs, _) in parts.items():
        total += [len(pairs), len({each.key for each in (*pairs, *asked[part])})]
        total += [sum(pair.margin_applies for pair in pairs)]
    total += [len(prompts)] if prompts else []
    heading = ["category", "kind"]
    for name in parts:
        heading += [f"{TITLES[name]} pairs", "prompts", "with margin"]
    return format_table(heading + (["prompts only"] if prompts else []), [*rows, total], last_is_total=True)


def notes_of(args, tokenizer, inputs, parts, pairs, prompts, harm_names, train_only, positions):
    yield from map(one_line, tokenizer.notes)
    yield from inputs.notes.lines()
    if pairs and not harm_names:
        yield (
            "no pair has a margin, so that Cat-DPO has nothing to adapt: name the column of the harm category with "
            "--column "
            "category=NAME, or say with --assume-unsafe-rejected that rejected answers are unsafe"
        )
    counts = collections.Counter(name for row in (*pairs, *(row for row, _ in prompts)) for name in row.categories)
    for group in look_alikes(counts):
        listed = ", ".join(f'"{name}" ({counts[name]})' for name in group)
        yield f"categories that look alike and are kept apart: {listed}; make them one in the data if they are"
    for name in train_only if args.heldout or args.probe else ():
        yield f'category "{name}" is in the train part only (--rare keep-train)'
    if any("strftime_now" in text for text in tokenizer.templates.values()):
        yield (
            "this chat template writes today's date into the prompt; prepare the data again only if you want another "
            "date"
        )
    lengths = [max(len(t.chosen), len(t.rejected)) for _, encoded in parts.values() for t in encoded]
    lengths += [len(tokens) for _, tokens in prompts]
    long = sum(length > positions for length in lengths) if positions else 0
    if long:
        yield (
            f"{long} sequences are longer than the model's {positions} positions (the longest has {max(lengths)} "
            "tokens): it "
            f"was not made for them; use --max-length {positions}"
        )


def size_of(parts, prompts, probes, categories):
    encoded = [tokens for _, part in parts.values() for tokens in part]
    text = []
    if encoded:
        longest = max(max(len(t.chosen), len(t.rejected)) for t in encoded)
        text.append(f"{len(encoded)} pairs, {sum(len(t.chosen) + len(t.rejected) for t in encoded)} tokens")
        text.append(f"{len(categories)} categories, largest sequence {longest} tokens")
    else:
        text.append(f"{len(categories)} categories")
    if prompts:
        text.append(f"{len(prompts)} prompts to generate from")
    if probes:
        text.append(f"{len(probes)} prompts of the probe group alone")
    return ", ".join(text)

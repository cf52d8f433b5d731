"""The prepare command: preference data and prompts to pairs.h5."""

import collections
import hashlib
import json

from catdpo_analysis.errors import UserError
from catdpo_analysis.files import h5io
from catdpo_analysis.files.authors import tabulate
from catdpo_analysis.prepare import scores
from catdpo_analysis.prepare.bad_rows import BadRows
from catdpo_analysis.prepare.categories import check_number
from catdpo_analysis.text.version import creator
from catdpo_analysis.tokens.chat import ChatTokenizer, positions_of
from catdpo_analysis.prepare.columns import Unused
from catdpo_analysis.prepare.encode import Encoder
from catdpo_analysis.prepare.formats import RULES, Dropped, Options, Pair, read_pair
from catdpo_analysis.prepare.jsonl import Source
from catdpo_analysis.prepare.ledger import Ledger
from catdpo_analysis.prepare.notes import Notes
from catdpo_analysis.prepare.options import add_arguments, check_arguments
from catdpo_analysis.prepare.pairs_file import write_pairs
from catdpo_analysis.prepare.selection import fit, fit_prompts, select, settle_rare
from catdpo_analysis.tokens.selfcheck import Probe
from catdpo_analysis.prepare.split import cut_parts, parts_like, prompt_key
from catdpo_analysis.prepare.summary import print_summary

__all__ = ["add_arguments", "run"]


def read_template(path):
    """The text of a template's file, None for None."""
    if not path:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def load_tokenizer(args):
    """(tokenizer, rows of the embedding, the model's positions or None)."""
    template = read_template(args.chat_template)
    if args.tokenizer:
        tokenizer = ChatTokenizer.from_folder(args.tokenizer, template)
    else:
        tokenizer = ChatTokenizer.from_model(args.model, template)
    if not args.model:
        return tokenizer, tokenizer.vocab_size, tokenizer.positions
    with h5io.open_as(args.model, "catdpo-model", "catdpo-checkpoint") as file:
        rows, positions = int(file["model"].attrs["vocab_size"]), positions_of(file["model"].attrs)
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"the tokenizer in {args.tokenizer or args.model} has token ids up to {tokenizer.vocab_size - 1}, but the "
            f"embedding in {args.model} has {rows} rows"
        )
    return tokenizer, rows, positions


class Inputs:
    """All rows of all files: `pairs`, `prompts` (rows of prompts only), how often each step of the transformation
    happened, and what was said of files and columns."""

    def __init__(self, args, ledger, notes, bad):
        self.args, self.ledger, self.notes, self.bad = args, ledger, notes, bad
        self.pairs, self.prompts, self.steps, self.unused = [], [], collections.Counter(), Unused()
        files = [*args.inputs, *args.probe_from]
        self.forms = [collections.Counter() for _ in files]  # of each file: rows by how they are written
        self.digest = hashlib.sha256()
        self.sources = [Source(path, self.digest) for path in files]

    def place_of(self, row):
        """file:line of a row."""
        return f"{self.sources[row.file].name}:{row.row + 1}"

    def read(self, options):
        for index, source in enumerate(self.sources):
            for row, place, value in source.rows(lambda error, row, index=index: self.bad.add(error, index, row)):
                try:
                    result = read_pair(value, place, options)
                except UserError as error:
                    self.bad.add(error, index, row)
                    continue
                result.file, result.row = index, row
                self._count(value, result, options)
        self.bad.settle()

    def _count(self, value, result, options):
        place = self.place_of(result)
        renamed = {own for known, own in options.renamed.items() if own in value}
        self.unused.add(
            {name: cell for name, cell in value.items() if name not in renamed}, result.schema, result.unused
        )
        for kind, detail in result.facts:
            self.notes.add(kind, place, detail)
        if isinstance(result, Dropped):
            self.ledger.add(result, result.reason)
            self.steps["dropped: " + result.reason] += 1
            return
        self.forms[result.file]["chat" if result.chat else "text"] += 1
        if not isinstance(result, Pair):
            self.prompts.append(result)
            self.steps["prompts only, to generate from"] += 1
            return
        self.pairs.append(result)
        if result.swapped and options.transform == "safedpo":
            self.steps["swapped: the preferred response is unsafe, the other safe"] += 1
        elif result.swapped:
            self.steps["kept: the safer response, which is not the more helpful one"] += 1
        elif result.margin_applies:
            guessed = ", which is assumed" if result.assumed else ""
            self.steps[f"kept: chosen safe, rejected unsafe{guessed}"] += 1
        elif result.chosen_safe == 1 and result.rejected_safe == 1:
            self.steps["kept: both safe"] += 1
        else:
            self.steps["kept: safety unknown" if options.transform == "safedpo" else "kept: as given"] += 1

    def for_probe(self, row):
        """Whether a row is of --probe-from."""
        return row.file >= len(self.args.inputs)

    def records(self):
        return [source.record for source in self.sources]


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
        "chat",
        "column",
        "ignore_columns",
        "skip_bad",
        "heldout",
        "probe",
        "seed",
        "max_length",
        "over_length",
        "keep_duplicates",
        "limit",
    )
    names += ("system",) * (args.system is not None) + ("probe_from",) * bool(args.probe_from)
    if args.scores:
        names += ("scores", "score_weights", "score_weights_in_prompt", "round")
    if args.segment_tag:
        names += ("segment_tag", "segment_floor", "segment_scale", "segment_opposed")
    return {name: getattr(args, name) for name in names} | {
        "preparer": creator(),
        "template_digest": tokenizer.template_digest,
    }


def run(args):
    check_arguments(args)
    named = filter(None, [args.model, args.chat_template, args.split_like])
    h5io.refuse_overwrite(args.out, [*args.inputs, *args.probe_from, *named])
    tokenizer, rows, positions = load_tokenizer(args)
    ledger, notes = Ledger(), Notes()
    bad = BadRows(args.skip_bad, ledger)
    inputs = Inputs(args, ledger, notes, bad)
    inputs.read(
        Options(
            args.transform,
            args.benign_name,
            args.safe_pairs == "prompt",
            args.assume_unsafe_rejected,
            args.chat,
            tokenizer.has_template,
            tokenizer.specials,
            args.renamed,
            frozenset(args.ignore_columns),
            args.segment_tag is not None,
            tuple(args.scores or ()),
            args.system,
        )
    )
    probe = Probe(tokenizer, rows, inputs.place_of)
    encoder = Encoder(tokenizer, notes, probe, inputs.place_of, args.segment_tag)

    def refused(error, row):
        bad.add(error, row.file, row.row, row.categories)

    usable = select(inputs.pairs, args, ledger, notes, inputs.place_of)
    for row in inputs.prompts:
        row.key = prompt_key(row)
    probed = {prompt_key(row) for row in (*inputs.pairs, *inputs.prompts) if inputs.for_probe(row)}
    if args.scores:
        scores.settle([*usable, *inputs.prompts], args)
    kept = fit(usable, encoder.pairs(usable, refused), args, ledger, inputs.place_of)
    prompts, probes = (
        fit_prompts(rows, encoder.prompts(rows, refused), args, ledger)
        for rows in (
            [row for row in inputs.prompts if not inputs.for_probe(row)],
            [row for row in inputs.prompts if inputs.for_probe(row)],
        )
    )
    bad.settle()
    known = [entry for entry in kept if entry[0].key in probed]
    kept, train_only = settle_rare([entry for entry in kept if entry[0].key not in probed], args, ledger)
    if not kept and not prompts and not known and not probes:
        counts = collections.Counter(entry.reason for entry in ledger.entries)
        raise UserError(
            "no pair is left: "
            + (", ".join(f"{reason} ({counts[reason]})" for reason in ledger.reasons()) or "no rows"),
            bad.errors,
        )
    like = None
    if args.split_like:
        held, like = parts_like([pair for pair, _, _ in kept], args.split_like)
    else:
        held = cut_parts([pair for pair, _, _ in kept], args, train_only)
    if args.probe_from:
        held["probe"], kept = probed, kept + known
    parts = divide(kept, held)
    note_leaks(prompts, parts, notes, inputs.place_of)
    said = probe.settle()
    harm_names = {name for pair, _, _ in kept if pair.margin_applies for name in pair.categories}
    # beside pairs those of harmful prompts stand first too: rounds on the same prompts have one order, whatever pairs
    # they give
    asked = {name for row, _ in (*prompts, *probes) if row.benign == 0 for name in row.categories}
    harmful = harm_names | asked if kept else harm_names
    categories = sorted(
        {name for pair, _, _ in kept for name in pair.categories}
        | {name for row, _ in (*prompts, *probes) for name in row.categories},
        key=lambda name: (name not in harmful, name),
    )
    check_number(categories)
    settings = settings_of(args, tokenizer) | ({"split_like": like} if like else {})
    inputs.digest.update(json.dumps(settings, sort_keys=True).encode())
    attributes = {
        "data_digest": inputs.digest.hexdigest(),
        "tokenizer_digest": tokenizer.tokenizer_digest,
        "template_digest": tokenizer.template_digest,
        "vocab_size": tokenizer.vocab_size,
        "max_length": args.max_length,
        "over_length": args.over_length,
        "transform": args.transform,
        "seed": args.seed,
        "settings": settings,
        "inputs": inputs.records(),
        "transform_counts": dict(inputs.steps),
        "category_rules": list(RULES),
    }
    harm = [int(name in harm_names) for name in categories]
    once, of_probe = (([row for row, _ in rows], [tokens for _, tokens in rows]) for rows in (prompts, probes))
    segments = args.segment_tag is not None
    pairs = [pair for pair, _, _ in kept]
    authorship = tabulate([pair.authors for pair in pairs], [pair.categories for pair in pairs], categories)
    more = (segments, authorship, args.scores or (), of_probe)
    write_pairs(args.out, parts, once, categories, harm, ledger, attributes, tokenizer.templates, *more)
    print_summary(
        args, tokenizer, inputs, parts, prompts, probes, categories, harm_names, ledger, train_only, positions, said,
        authorship,
    )  # fmt: skip


def divide(kept, held):
    """part -> (pairs, encoded), by prompt; the ledger's entries of kept pairs learn their part. `held`: part -> keys of
    its prompts."""
    parts = {name: ([], []) for name in ("train", "heldout", *(["probe"] if "probe" in held else []))}
    for pair, tokens, entries in kept:
        part = next((name for name, keys in held.items() if pair.key in keys), "train")
        parts[part][0].append(pair)
        parts[part][1].append(tokens)
        for entry in entries:
            entry.split = part
    return parts


def note_leaks(prompts, parts, notes, place_of):
    """Prompts to generate from that are trained on."""
    trained = {pair.key for pair in parts["train"][0]}
    for row, _ in prompts:
        if row.key in trained:
            notes.add("leak", place_of(row))

"""The options of the prepare command."""

from catdpo_analysis.errors import UserError
from catdpo_analysis.prepare import scores
from catdpo_analysis.prepare.categories import BENIGN, check_category
from catdpo_analysis.prepare.columns import READ
from catdpo_analysis.prepare.selection import OTHER

HELDOUT = 0.2  # share of each category's prompts, unless --heldout says another


def add_arguments(parser):
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="JSONL",
        help="preference data or prompts, plain or gzip'd; several files make one set; - is standard input",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the pairs.h5 to write")
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="FILE", help="model.h5 whose tokenizer and chat template are used")
    group.add_argument("--tokenizer", metavar="DIR", help="folder with tokenizer.json, used instead of the model's")
    group.add_argument("--chat-template", metavar="FILE", help="a Jinja template, used instead of the tokenizer's")
    group.add_argument(
        "--chat",
        choices=("auto", "always", "never"),
        default="auto",
        help="which rows go through the chat template. auto (default): messages, PKU-SafeRLHF rows, rows with a "
        "question, an instruction or a system message, prompts to generate from; prompt, chosen and rejected that are "
        "texts stay as they are, as in TRL. always: those too, as turns of the user and the assistant. never: none",
    )
    group.add_argument(
        "--system", metavar="TEXT", help="system message of rows that have none, neither in system nor in their prompt"
    )
    group = parser.add_argument_group("columns and rows")
    group.add_argument(
        "--column",
        nargs="+",
        action="extend",
        default=[],
        metavar="KNOWN=NAME",
        help="the data's own name for a column that is known here, e.g. category=harm_type",
    )
    group.add_argument(
        "--ignore-columns",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="columns to pass over, whatever they hold",
    )
    group.add_argument(
        "--skip-bad", action="store_true", help="leave out rows that cannot be used, with an entry in the ledger"
    )
    group = parser.add_argument_group("preferences and categories")
    group.add_argument(
        "--transform",
        choices=("safedpo", "helpful", "harmless", "safe-better", "none"),
        default="safedpo",
        help="safedpo: keep, swap or drop (default). Baselines: helpful: the more helpful response is chosen; "
        "harmless: the safer one; safe-better: the more helpful one, without pairs where it is unsafe. none: by "
        "helpfulness, else by safety",
    )
    group.add_argument(
        "--categories",
        nargs="+",
        metavar="NAME",
        help="use only these categories; pairs without any of them are dropped",
    )
    group.add_argument(
        "--benign-name",
        default=BENIGN,
        metavar="NAME",
        help="category of pairs with two safe responses (default: %(default)s)",
    )
    group.add_argument(
        "--safe-pairs",
        choices=("benign", "prompt"),
        default="benign",
        help="category of PKU-SafeRLHF pairs with two safe responses: the benign one (default), or that of the prompt "
        "where known",
    )
    group.add_argument(
        "--assume-unsafe-rejected",
        action="store_true",
        help="TRL rows without category and flags: chosen is safe, rejected is unsafe (default: unknown, so that no "
        "margin applies)",
    )
    group.add_argument(
        "--min-pairs", type=int, default=0, metavar="N", help="a category with fewer pairs counts as rare (default: 0)"
    )
    group.add_argument(
        "--rare",
        choices=("refuse", "pool", "drop", "keep-train"),
        default="refuse",
        help=f'a rare category, or one with a single prompt: refuse (default), pool into "{OTHER}", drop, or keep it '
        "in the train part only",
    )
    group = parser.add_argument_group('segments (objective.type = "awdpo")')
    group.add_argument(
        "--segment-tag",
        metavar="TEXT",
        help="what ends the reasoning of a completion, such as '</think>'; behind it is the answer. Harm scores of a "
        "judge, [reasoning, answer] from 0 to 1, are in response_0_segment_scores and response_1_segment_scores, or in "
        "chosen_segment_scores and rejected_segment_scores",
    )
    group.add_argument(
        "--segment-floor",
        type=float,
        default=0.05,
        metavar="C",
        help="added to both segments' differences of harm before they become weights (default: %(default)s)",
    )
    group.add_argument(
        "--segment-scale",
        type=int,
        choices=(1, 2),
        default=1,
        help="sum of a pair's weights (default: 1); 2 makes equal weights 1 and 1",
    )
    group.add_argument(
        "--segment-opposed",
        choices=("drop", "flip"),
        default="drop",
        help="a segment in which the chosen side is the more harmful one: no weight but the floor's (default), or a "
        "negative weight",
    )
    group = parser.add_argument_group('several objectives (objective.type = "mo-odpo")')
    group.add_argument(
        "--scores",
        metavar="NAME[,NAME...]",
        help="objectives that have scored both responses, the larger the better: response_0_scores and "
        "response_1_scores, or chosen_scores and rejected_scores, each {NAME: number}",
    )
    group.add_argument(
        "--score-weights",
        metavar="W[,W...]",
        help="their weights (default: all the same), or dirichlet:ALPHA, drawn for each prompt by --seed and --round; "
        "a row's own score_weights, {NAME: number}, go before",
    )
    group.add_argument(
        "--score-weights-in-prompt",
        action="store_true",
        help="write them, to two decimals, into the prompt: in the system message of a conversation, before a text",
    )
    group.add_argument("--round", type=int, default=0, metavar="N", help="of the draws (default: %(default)s)")
    group = parser.add_argument_group("split")
    group.add_argument(
        "--heldout",
        type=float,
        metavar="SHARE",
        help=f"share of each category's prompts to hold out (default: {HELDOUT}; 0: none)",
    )
    group.add_argument(
        "--probe",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of each category's prompts for the probe group, apart from both other parts (default: none)",
    )
    group.add_argument(
        "--probe-from",
        nargs="+",
        action="extend",
        default=[],
        metavar="JSONL",
        help="instead: the prompts of these files, with answers or without, are the probe group; no pair of theirs, of "
        "any file, is in another part",
    )
    group.add_argument(
        "--split-like",
        metavar="FILE",
        help="instead: hold out, and probe, the prompts that another pairs.h5 holds out and probes, so that a model "
        "that is trained on both is evaluated on prompts of neither",
    )
    group.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    group = parser.add_argument_group("lengths and duplicates")
    group.add_argument(
        "--max-length",
        type=int,
        default=512,
        metavar="TOKENS",
        help="of prompt + completion (default: %(default)s; 0: no limit)",
    )
    group.add_argument(
        "--over-length",
        choices=("truncate", "drop", "refuse"),
        default="truncate",
        help="what to do with a pair that is longer: cut each sequence's end (default), drop the pair, or stop. A pair "
        "whose prompt "
        "alone fills the length is dropped",
    )
    group.add_argument(
        "--keep-duplicates", action="store_true", help="keep pairs whose prompt and responses occurred before"
    )
    group.add_argument("--limit", type=int, default=0, metavar="N", help="use only the first N usable pairs")


def check_arguments(args):
    if not args.model and not args.tokenizer:
        raise UserError(
            "name the model whose tokenizer to use: --model model.h5 (made by import), or --tokenizer FOLDER"
        )
    if args.split_like and (args.heldout is not None or args.probe or args.probe_from):
        raise UserError("--split-like says what is held out: leave out --heldout, --probe and --probe-from")
    if args.probe_from and args.probe:
        raise UserError("--probe cuts the probe group, --probe-from names it: leave one out")
    if args.probe_from and args.rare in ("pool", "drop"):
        raise UserError(
            f"--rare {args.rare} would leave --probe-from categories that nothing is trained on: use refuse or "
            "keep-train"
        )
    if args.heldout is None:
        args.heldout = 0.0 if args.split_like else HELDOUT
    for name in ("heldout", "probe"):
        if not 0 <= getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} is not a share; use 0.2 for a fifth of the prompts")
    if args.heldout + args.probe >= 1:
        raise UserError(f"--heldout {args.heldout} and --probe {args.probe} leave nothing to train on")
    if args.system is not None and not args.system.strip():
        raise UserError("--system is empty")
    scores.check_arguments(args)
    if args.split_like and args.score_weights_in_prompt:
        raise UserError("--split-like compares prompts, into which --score-weights-in-prompt writes: leave one out")
    if args.segment_tag is not None and not args.segment_tag.strip():
        raise UserError("--segment-tag is empty")
    if args.segment_tag is None and (args.segment_floor, args.segment_scale, args.segment_opposed) != (0.05, 1, "drop"):
        raise UserError("--segment-floor, --segment-scale and --segment-opposed need --segment-tag")
    if not 0 < args.segment_floor <= 1:
        raise UserError(f"--segment-floor {args.segment_floor} is not in (0, 1]")
    if [*args.inputs, *args.probe_from].count("-") > 1:
        raise UserError("standard input (-) can be read only once")
    args.renamed = {}
    for pair in args.column:
        known, _, own = pair.partition("=")
        if not own or not any(known in names for names in READ.values()):
            names = sorted({name for names in READ.values() for name in names})
            raise UserError(f"--column {pair}: write KNOWN=NAME, with KNOWN one of {', '.join(names)}")
        args.renamed[known] = own
    for name in ("max_length", "limit", "min_pairs"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)} is negative")
    if 0 < args.max_length < 2:
        raise UserError("--max-length 1 leaves no room for a completion")
    if not args.benign_name.strip():
        raise UserError("--benign-name is empty")
    check_category(args.benign_name, "--benign-name")

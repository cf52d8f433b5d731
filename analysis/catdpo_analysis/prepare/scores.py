"""Several objectives at once (MO-ODPO): scores of both responses, weights of the objectives, and these weights in the
prompt, so that a model learns to be steered by them."""

import hashlib
import math
import numbers

from catdpo_analysis.errors import UserError, shorten

NO_SCORES = "a response has no score of some objective"
WEIGHTS = "score_weights"  # the column of a row that brings its own
DIRICHLET = "dirichlet:"
DECIMALS = 2


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def scores_in(row, name, names, place):
    """Scores of a response in the order of `names`, or None where one is missing."""
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UserError(f'{place}: {name} is not of the form {{"{names[0]}": 0.7, ...}} but {shorten(repr(value))}')
    found = [value.get(each) for each in names]
    for each, score in zip(names, found):
        if score is not None and not _is_number(score):
            raise UserError(f"{place}: {name} has {shorten(repr(score))} for {each}, which is not a number")
    return None if None in found else tuple(float(score) for score in found)


def weights_in(row, names, place):
    """The weights that a row brings, or None."""
    weights = scores_in(row, WEIGHTS, names, place)
    if weights is None:
        return None
    if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise UserError(f"{place}: {WEIGHTS} are negative or do not add up to 1")
    return tuple(weight / sum(weights) for weight in weights)


def check_arguments(args):
    """--scores, --score-weights, --score-weights-in-prompt and --round become lists and numbers."""
    if not args.scores:
        if args.score_weights or args.score_weights_in_prompt or args.round:
            raise UserError("--score-weights, --score-weights-in-prompt and --round need --scores")
        return
    names = args.scores = [name.strip() for name in args.scores.split(",")]
    if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
        raise UserError(f"--scores {','.join(names)} has an empty name, or one twice")
    if len(names) > 16 or any(len(name.encode()) > 63 for name in names):
        raise UserError("--scores takes up to 16 names of up to 63 bytes")
    args.alpha = args.fixed_weights = None
    if not args.score_weights:
        args.fixed_weights = tuple(1 / len(names) for _ in names)
    elif args.score_weights.startswith(DIRICHLET):
        args.alpha = _numbers(args.score_weights[len(DIRICHLET) :], args.score_weights, 1)[0]
        if not 0.01 <= args.alpha <= 100:
            raise UserError(f"--score-weights {args.score_weights}: the parameter is not in [0.01, 100]")
    else:
        weights = _numbers(args.score_weights, args.score_weights, len(names))
        if min(weights) < 0 or abs(sum(weights) - 1) > 1e-9:
            raise UserError(f"--score-weights {args.score_weights}: they are negative or do not add up to 1")
        args.fixed_weights = tuple(weights)
    if args.round and args.alpha is None:
        raise UserError("--round is of weights that are drawn: --score-weights dirichlet:ALPHA")


def _numbers(text, shown, count):
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise UserError(
            f'--score-weights {shorten(shown)}: one number for each of --scores, such as 0.3,0.7, or "dirichlet:0.5"'
        )
    return values


def settle(rows, args):
    """Weights of each row, and where they are asked for the line in its prompt. A row's key has to be known: prompts
    that are equal without the line have the same weights."""
    for row in rows:
        weights = row.score_weight or args.fixed_weights
        if not weights:
            weights = draw(args.seed, args.round, row.key, args.alpha, len(args.scores))
        if args.score_weights_in_prompt:
            weights = in_decimals(weights)
            row.prompt = conditioned(row.prompt, line_of(args.scores, weights))
        row.score_weight = weights


# ---- the line in the prompt --------------------------------------------------------------------------------------


def in_decimals(weights):
    """The nearest weights of two decimals that add up to 1: what the prompt says is what the loss has."""
    units = 10**DECIMALS
    counts = [math.floor(weight * units) for weight in weights]
    rest = sorted(range(len(weights)), key=lambda k: (counts[k] - weights[k] * units, k))
    for k in rest[: units - sum(counts)]:
        counts[k] += 1
    return tuple(count / units for count in counts)


def line_of(names, weights):
    return ", ".join(f"{name} {weight:.{DECIMALS}f}" for name, weight in zip(names, weights))


def conditioned(prompt, line):
    """A prompt with the line in front: of a conversation in its system message, behind what stands there."""
    if isinstance(prompt, str):
        return f"{line}\n{prompt}"
    if prompt and prompt[0].get("role") == "system":
        content = f"{prompt[0].get('content') or ''}\n{line}".strip()
        return [{**prompt[0], "content": content}, *prompt[1:]]
    return [{"role": "system", "content": line}, *prompt]


# ---- draws -------------------------------------------------------------------------------------------------------


class Uniform:
    """Numbers in (0, 1) that a key and their place alone determine, on any machine and in any version."""

    def __init__(self, key):
        self.key, self.count = key, 0

    def __call__(self):
        digest = hashlib.sha256(self.key + self.count.to_bytes(8, "little")).digest()
        self.count += 1
        return ((int.from_bytes(digest[:8], "little") >> 12) + 0.5) / 2**52


def gamma(shape, uniform):
    """Of scale 1, by Marsaglia and Tsang's method; its logarithm, which is not 0 where the number would be."""
    boost = 0.0
    if shape < 1:
        boost = math.log(uniform()) / shape
        shape += 1
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        normal = math.sqrt(-2 * math.log(uniform())) * math.cos(2 * math.pi * uniform())
        v = (1 + c * normal) ** 3
        if v > 0 and math.log(uniform()) < normal * normal / 2 + d * (1 - v + math.log(v)):
            return math.log(d * v) + boost


def draw(seed, round_number, key, alpha, count):
    """Weights from a symmetric Dirichlet distribution, by (seed, round, prompt) alone."""
    uniform = Uniform(hashlib.sha256(f"weights {seed} {round_number} {count} ".encode() + key).digest())
    logs = [gamma(alpha, uniform) for _ in range(count)]
    sizes = [math.exp(log - max(logs)) for log in logs]
    return tuple(size / sum(sizes) for size in sizes)

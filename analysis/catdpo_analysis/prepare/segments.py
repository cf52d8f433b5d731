"""Completions of two segments, reasoning and answer, for Alignment-Weighted DPO: where the answer begins, and how much
each segment counts."""

import numbers

from catdpo_analysis.errors import UserError

NO_ANSWER = "no answer behind the segment tag"
CUT = "the maximum length leaves nothing of the answer"


def scores_in(row, name, place):
    """(harm of the reasoning, harm of the answer) of a row's column, or None without one."""
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, dict) and set(value) == {"reasoning", "answer"}:
        value = [value["reasoning"], value["answer"]]
    plain = isinstance(value, list) and len(value) == 2
    if not plain or not all(isinstance(x, numbers.Real) and not isinstance(x, bool) and 0 <= x <= 1 for x in value):
        raise UserError(
            f'{place}: {name} is not [reasoning, answer] or {{"reasoning": ..., "answer": ...}} with harm from 0 '
            "(safe) to 1"
        )
    return float(value[0]), float(value[1])


def weights_of(chosen, rejected, args):
    """Weights of the two segments from the judge's harm scores of both sides: each counts as much as the rejected one
    is worse in it, and at least --segment-floor. Equal without scores, or where neither is worse. Where the chosen
    side is the worse one the segment counts for nothing, or with --segment-opposed flip the other way round (a
    negative weight)."""
    if chosen is None or rejected is None:
        return args.segment_scale / 2, args.segment_scale / 2
    worse = [b - a for a, b in zip(chosen, rejected)]
    flip = args.segment_opposed == "flip"
    sizes = [abs(d) if flip else max(d, 0.0) for d in worse]
    if not any(sizes):
        return args.segment_scale / 2, args.segment_scale / 2
    total = sum(sizes) + 2 * args.segment_floor
    signs = [-1 if flip and d < 0 else 1 for d in worse]
    return tuple(sign * args.segment_scale * (size + args.segment_floor) / total for sign, size in zip(signs, sizes))


def tokens_until(offsets, end):
    """How many tokens begin before character `end`: one that straddles it belongs to what is before. Tokens that the
    tokenizer puts behind the text stand for none of its characters."""
    count = len(offsets)
    while count and offsets[count - 1] == (0, 0):
        count -= 1
    return next((i for i, (start, _) in enumerate(offsets[:count]) if start >= end), count)


def settle(pair, tokens, args):
    """Weights of a pair whose sequences have their final length; returns why it cannot be kept, or None."""
    if tokens.segment_end is None:
        return None
    for sequence, end, whole in zip((tokens.chosen, tokens.rejected), tokens.segment_end, tokens.answers):
        if len(sequence) - tokens.prompt_length - end <= 0:
            return CUT if whole else NO_ANSWER
    if any(tokens.segment_end):
        pair.segment_weight = weights_of(*pair.segment_scores, args)
    else:  # no reasoning on either side
        pair.segment_weight = (0.0, float(args.segment_scale))
    return None

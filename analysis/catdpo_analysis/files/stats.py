"""Statistics of violation rates and accuracies: Wilson intervals, summaries over categories, a paired test."""

import math

import numpy as np

Z95 = 1.959963984540054


def wilson(successes, n, z=Z95):
    """Wilson's score interval (low, high) of a rate; successes may be fractional (ties one half). NaN if n = 0."""
    if n <= 0:
        return math.nan, math.nan
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def summarise(rates, weights, worst_is_high):
    """Over the categories with weight > 0: micro and macro mean, the worst rate and its index, the gap between best
    and worst, and the variance (population). `rates`, `weights`: arrays [K]. None if there is no such category."""
    index = np.flatnonzero((np.asarray(weights) > 0) & np.isfinite(rates))
    if not index.size:
        return None
    r, w = np.asarray(rates, dtype=float)[index], np.asarray(weights, dtype=float)[index]
    at = int(np.argmax(r) if worst_is_high else np.argmin(r))
    return {
        "micro": float((r * w).sum() / w.sum()),
        "macro": float(r.mean()),
        "worst": float(r[at]),
        "gap": float(r.max() - r.min()),
        "variance": float(r.var()),
        "worst_index": int(index[at]),
    }


def recent(values):
    """Mean of the last tenth: per-step values are noisy."""
    return values[-max(1, len(values) // 10) :].mean()


def mcnemar(better, worse):
    """Two-sided exact p-value of McNemar's test: that changes for the better and for the worse are equally likely."""
    n = better + worse
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**n)


def holm(p_values):
    """p-values of several tests after Holm's correction."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def interval_of_mean(rates, low, high):
    """(low, high) of the mean of independent rates from their own intervals: the squared distances to the limits add
    up (method of variance estimates recovery). Arrays [K]; NaN if one of them is."""
    rates, low, high = (np.asarray(values, dtype=float) for values in (rates, low, high))
    k, mean = len(rates), rates.mean()
    return (
        float(mean - math.sqrt(((rates - low) ** 2).sum()) / k),
        float(mean + math.sqrt(((high - rates) ** 2).sum()) / k),
    )


def smooth(values, weights, window):
    """A weighted mean along the first axis over about `window` rows around each row, fewer at the ends. Rows without
    a value or weight are passed over; NaN where there is none."""
    values, weights = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    use = np.isfinite(values) & (weights > 0)
    w = np.where(use, weights, 0.0)
    zero = np.zeros((1, *values.shape[1:]))
    total = np.concatenate([zero, np.cumsum(np.where(use, values, 0.0) * w, axis=0)])
    mass = np.concatenate([zero, np.cumsum(w, axis=0)])
    row = np.arange(len(values))
    first, last = np.maximum(row - window // 2, 0), np.minimum(row + (window + 1) // 2, len(values))
    weight = mass[last] - mass[first]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 1e-12, (total[last] - total[first]) / weight, np.nan)


def spread(wanted, gap):
    """Ascending places at least `gap` apart that are nearest to the ascending places `wanted` (least squares, by
    pooling neighbours)."""
    blocks = []  # [sum of wanted[i] - i * gap, count]
    for i, y in enumerate(wanted):
        blocks.append([y - i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    level = [total / count for total, count in blocks for _ in range(count)]
    return [y + i * gap for i, y in enumerate(level)]

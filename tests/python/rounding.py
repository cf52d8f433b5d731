"""How far apart one number may lie when it is computed twice in float32: by other processors' kernels, in other
groupings of the pairs, on other grids, or once in float64.

Standard errors are worked out here, from the arithmetic, and added as those of independent roundings are. `assert_near`
allows SIGMAS of them, twice the largest that were seen (OpenBLAS's Nehalem, Haswell, Zen and SkylakeX kernels, our own
loops with and without AVX-512, five layouts).

A float's rounding is uniform over one unit in the last place: a standard error of 0.2 EPS of its size on average. A
token's log-prob in the tiny models of two layers is the end of a chain of 25 of them (norms, products, rotation,
exponentials, residual sums): sqrt(25) x 0.2 EPS = 1 EPS of its size; measured: 0.9 to 1.2. It is a logit less a
log-sum-exp of about ln(vocabulary), and its error no smaller than that of these when it is near zero. Tokens are
rounded apart from each other: the sum over T of them has sqrt(T) times the error of one. Gradients have passed the same
chain forward and, with two products for each, backward.
"""

import numpy as np

EPS = float(np.finfo("f4").eps)
VOCABULARY = 97          # of the tiny models
SIGMAS = 6


def log_probs(sums, tokens):
    """Standard error of log-probs summed over `tokens` each."""
    return EPS * np.maximum(np.abs(sums), tokens * np.log(VOCABULARY)) / np.sqrt(tokens)


def total(*errors):
    """Of a sum or a difference."""
    return np.sqrt(sum(np.square(error) for error in errors))


def mean(errors):
    """Of the mean of numbers with these errors."""
    errors = np.asarray(errors, float)
    return np.sqrt(np.square(errors).sum()) / max(errors.size, 1)


def of_tokens(size, tokens):
    """Of a mean over tokens of something of this size (entropies, logits)."""
    return EPS * size / np.sqrt(tokens)


def gradient(pair_gradient):
    """Relative: the chain three times, and the coefficient of a pair's loss, beta sigmoid(offset - beta h), which is
    relatively as exact as beta h is absolutely."""
    return np.sqrt(3) * EPS + np.max(pair_gradient)


def assert_near(found, expected, error, what=""):
    """Two computations with this standard error may differ by as much; NaN only where expected."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    bound = SIGMAS * np.sqrt(2) * np.asarray(error) + 1e-12 * np.abs(expected)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), what)
    apart = np.nan_to_num(np.abs(found - expected))
    near = apart <= np.nan_to_num(bound)
    assert np.all(near), f"{what}: {found} instead of {expected}: further off than rounding explains, {bound}"


def assert_clear(values, thresholds, errors, what=""):
    """No value lies so near to a threshold that another processor could see it on the other side."""
    for threshold in thresholds:
        clear = np.abs(np.asarray(values) - threshold) > SIGMAS * np.sqrt(2) * np.asarray(errors)
        assert np.all(clear), f"{what} is too near to {threshold}"

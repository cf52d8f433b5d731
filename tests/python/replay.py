"""The rule of the margins once more, in numpy, from what a run recorded."""

import platform

import numpy as np

def power(base, n):
    """By squaring, as the program does it: the same bits."""
    result = 1.0
    while n:
        if n & 1:
            result *= base
        n, base = n >> 1, base * base
    return result


class Rate:
    """A running violation rate with its standard error: of a category, or of all of them together."""

    def __init__(self, settings):
        self.averaging, self.value = settings["margin.averaging"], settings["margin.initial_rate"]
        self.error = np.sqrt(self.value * (1 - self.value))

    def follow(self, n, violations, prior=0.0, centre=0.0):
        if n == 0:
            return
        weight = 1 - power(1 - self.averaging, n)
        keep = 1 - weight
        hits, count = violations + prior * centre, n + prior
        q = (hits + 0.5) / (count + 1)
        self.value += weight * (hits / count - self.value)
        self.error = np.sqrt(keep * keep * (self.error * self.error) + weight * weight * (q * (1 - q) / (count + 2)))


class Margins:
    """The update rule once more, for all categories, from what a run recorded: with the same operations in the same
    order, so that the margins come out equal to the last bit."""

    def __init__(self, settings, count=4):
        self.s, self.pooled = settings, Rate(settings)
        self.rates = [Rate(settings) for _ in range(count)]
        self.margin = np.full(count, settings["margin.initial"])
        self.n, self.violations, self.ever = np.zeros(count, int), np.zeros(count), np.zeros(count, bool)

    def excess(self, k):
        """Of category k's rate above what is accepted, and its standard error."""
        known = [i for i, ever in enumerate(self.ever) if ever]
        values, errors = [self.rates[i].value for i in known], [self.rates[i].error for i in known]
        form, own, target = self.s.get("margin.target_form"), self.rates[k], self.s["margin.target"]
        m, square = len(known), own.error * own.error
        if form == "mean":
            others = sum(error * error for error in errors) - square
            error = np.sqrt((1 - 1 / m) * (1 - 1 / m) * square + others / (m * m))
            return own.value - sum(values) / m - target, error
        if form == "best":
            best = self.rates[known[int(np.argmin(values))]]
            error = own.error if best is own else np.sqrt(square + best.error * best.error)
            return own.value - best.value - target, error
        return own.value - target, own.error

    def moved(self, margin, excess, error):
        if self.s.get("margin.deadband", 0) > 0 and abs(excess) <= self.s["margin.deadband"] * error:
            return margin
        return min(max(margin + self.s["margin.eta"] * excess, self.s["margin.min"]), self.s["margin.max"])

    def count(self, n, violations, step):
        self.n, self.violations, self.ever = self.n + n, self.violations + violations, self.ever | (n > 0)
        if step % self.s.get("margin.interval", 1):
            return
        all_n, all_violations = int(self.n.sum()), self.violations.sum()
        centre = all_violations / all_n if all_n else 0.0
        for rate, pairs, hits in zip(self.rates, self.n, self.violations):
            rate.follow(int(pairs), hits, self.s.get("margin.prior", 0.0), centre)
        self.pooled.follow(all_n, all_violations)
        scope = self.s.get("margin.scope", "category") if self.s["objective.type"] == "catdpo" else "fixed"
        if scope != "fixed" and step > self.s.get("margin.warmup_steps", 0):
            if scope == "global" and all_n:
                excess = self.pooled.value - self.s["margin.target"]
                self.margin[:] = self.moved(self.margin[0], excess, self.pooled.error)
            for k in np.flatnonzero(self.n) if scope == "category" else ():
                self.margin[k] = self.moved(self.margin[k], *self.excess(k))
        self.n, self.violations = self.n * 0, self.violations * 0


# a processor that fuses products and sums in its basic instructions may round otherwise than numpy
SAME = dict(rtol=0 if platform.machine() == "x86_64" else 1e-12)

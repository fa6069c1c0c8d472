"""What a design can find: its power, the least difference it would have detected, and how many seeds a question needs.

A two-sided t-test of a difference d with n pairs, a variance v of one pair's difference and f degrees of freedom, at
the level a, rejects with the probability that a noncentral t with f degrees of freedom and noncentrality d / sqrt(v /
n) lies beyond Student's quantile t(1 - a / 2, f). The paired test has v = the variance of the paired differences and
f = n - 1, exactly. The blocked test's variance is the larger of twice the pooled variance s^2 and the sum of two
variances of n values each (`studies.analysis.blocked`). Where all variants scatter alike, that sum has about f = 2 (n
- 1) degrees of freedom, and the larger of the two is on average v = 2 s^2 E[max(chi^2(f) / f, 1)]. These v and f
stand for the blocked test: an approximation. Where it says 80 %, `benchmarks/significance.py` finds 76 to 84 % of
five or more seeds, but 65 to 71 % of three, where the detectable effect is larger than it says.

The level is the strictest of Holm's: 0.05 over the number of tests.
"""

from __future__ import annotations

import math

import scipy.optimize
from scipy.special import chdtr, chdtrc, gammaincinv, nctdtr, stdtrit

from hpm.metrics import CONFIDENCE
from studies.analysis.statistics import FEWEST_PAIRS

USUAL_POWER = 0.8
MOST_SEEDS = 100_000


def power_of(difference: float, variance: float, pairs: int, freedom: float, level: float) -> float:
    """The probability that a two-sided t-test finds a true difference.

    Args:
        difference: the true one, at least 0.
        variance: of one pair's difference, more than 0.
        pairs: how many there are.
        freedom: degrees of freedom of the variance.
        level: the test's, e.g. 0.05.
    """
    critical = float(stdtrit(freedom, 1 - level / 2))
    noncentrality = difference / math.sqrt(variance / pairs)
    if noncentrality > critical + 40:  # where the distribution function is no longer accurate
        return 1.0
    beyond = 1 - float(nctdtr(freedom, noncentrality, critical))
    below = float(nctdtr(freedom, noncentrality, -critical))
    return beyond + (below if math.isfinite(below) else 0.0)


def least_detectable(variance: float, pairs: int, freedom: float, level: float, power: float = USUAL_POWER) -> float:
    """The true difference that a two-sided t-test finds with a given probability; its arguments are `power_of`'s."""
    unit = math.sqrt(variance / pairs)
    most = unit * (float(stdtrit(freedom, 1 - level / 2)) * (1 + 20 / freedom) + 20)

    def lacking(difference: float) -> float:
        return power_of(difference, variance, pairs, freedom, level) - power

    return float(scipy.optimize.brentq(lacking, 0.0, most))


def blocked_design(variance: float, pairs: int, variants: int) -> tuple[float, float]:
    """What a blocked contrast has to go by, on average: the variance of a pair's difference, and degrees of freedom.

    Args:
        variance: pooled, of the residuals.
        pairs: how many seeds both variants have.
        variants: how many there are with the baseline. Of two, the contrast is the paired t-test.
    """
    if variants <= 2:
        return 2 * variance, pairs - 1
    freedom = 2 * (pairs - 1)
    return 2 * variance * _mean_of_floored(freedom), freedom


def _mean_of_floored(freedom: int) -> float:
    """E[max(chi^2(f) / f, 1)]: by how much larger a variance of f degrees of freedom is if floored at the truth."""
    return float(chdtrc(freedom + 2, freedom) + chdtr(freedom, freedom))


def seeds_needed(
    difference: float, variance: float, *, variants: int, level: float, power: float, blocked: bool
) -> int | None:
    """The fewest seeds, at least `FEWEST_PAIRS`, with which a difference is found with a given probability.

    Args:
        difference: the true one, more than 0.
        variance: for the blocked test pooled, of the residuals; for the paired test of the paired differences.
        variants: how many there will be with the baseline.
        level: of each test.
        power: in (0, 1).
        blocked: which test.

    Returns:
        The number, or None where it is more than `MOST_SEEDS`.
    """

    def enough(pairs: int) -> bool:
        spread, freedom = blocked_design(variance, pairs, variants) if blocked else (variance, pairs - 1)
        return power_of(difference, spread, pairs, freedom, level) >= power

    high = FEWEST_PAIRS
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        high = min(2 * high, MOST_SEEDS)
    low = max(FEWEST_PAIRS - 1, high // 2)  # too few, or one less than the fewest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def interval_of_deviation(deviation: float, freedom: float) -> tuple[float, float]:
    """The 95 % interval of a standard deviation, from chi-squared: of normal numbers.

    Args:
        deviation: the estimate.
        freedom: its degrees of freedom, more than 0.
    """
    low, high = (2 * float(gammaincinv(freedom / 2, share)) for share in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return deviation * math.sqrt(freedom / high), deviation * math.sqrt(freedom / low)

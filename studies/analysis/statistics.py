"""What can be said of a few numbers: means with intervals, and paired differences with corrected p-values.

Runs of the same seed share data order, masks' noise and initialization, so variants are compared seed by seed. With
few seeds the paired t-test is the one that can find anything: Wilcoxon's signed-rank test cannot go below p = 0.0625
with five pairs.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import scipy.stats

from hpm.evaluation.intervals import CONFIDENCE, half_interval


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval.

    Args:
        mean: the mean of the values.
        half: half the width of its 95 % interval by Student's t; NaN for a single value, which has no interval.
        count: how many values there are.
    """

    mean: float
    half: float
    count: int

    @property
    def has_interval(self) -> bool:
        """Whether there are values enough for an interval."""
        return not math.isnan(self.half)

    @property
    def low(self) -> float:
        """The lower end of the interval; NaN where there is none."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end of the interval; NaN where there is none."""
        return self.mean + self.half


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of at least one value, with its 95 % interval."""
    return Estimate(statistics.fmean(values), half_interval(values), len(values))


@dataclass(frozen=True)
class Difference:
    """A variant minus the baseline, over the seeds that both have.

    Args:
        estimate: of the mean difference.
        p: of the two-sided paired t-test; None for fewer than two pairs.
        corrected: p after Holm's correction for all comparisons of the table; None without p.
        effect: mean over standard deviation of the differences (Cohen's d_z); None where that has no meaning.
    """

    estimate: Estimate
    p: float | None
    corrected: float | None
    effect: float | None

    @property
    def significant(self) -> bool:
        """Whether it is at the 5 % level, after correction."""
        return self.corrected is not None and self.corrected < 1 - CONFIDENCE


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The difference of two variants, by seed.

    Args:
        values: the variant's, by seed.
        baseline: the baseline's, by seed.

    Returns:
        The difference, not yet corrected for others; None where the two share no seed.
    """
    seeds = sorted(values.keys() & baseline.keys())
    differences = [values[seed] - baseline[seed] for seed in seeds]
    if not differences:
        return None
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Difference(estimate(differences), None, None, None)
    deviation = statistics.stdev(differences)
    if deviation == 0:  # runs that do not depend on the seed: either equal or different for certain
        return Difference(Estimate(mean, 0.0, len(differences)), 1.0 if mean == 0 else 0.0, None, None)
    with warnings.catch_warnings():
        # Differences that are equal up to rounding are as certain as they look.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = scipy.stats.ttest_rel([values[seed] for seed in seeds], [baseline[seed] for seed in seeds])
    interval = test.confidence_interval(CONFIDENCE)
    half = float(interval.high - interval.low) / 2
    return Difference(Estimate(mean, half, len(differences)), float(test.pvalue), None, mean / deviation)


def holm(differences: Mapping[str, Difference | None]) -> dict[str, Difference | None]:
    """Correct p-values for their number (Holm 1979), so that the chance of any false one stays at 5 %.

    Args:
        differences: all comparisons of a table, by variant.

    Returns:
        The same, with `corrected`.
    """
    corrected = dict(differences)
    tested = sorted((item.p, name) for name, item in differences.items() if item is not None and item.p is not None)
    highest = 0.0
    for place, (p, name) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - place) * p))
        difference = differences[name]
        assert difference is not None
        corrected[name] = replace(difference, corrected=highest)
    return corrected

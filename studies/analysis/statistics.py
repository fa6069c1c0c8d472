"""What can be said of a few numbers: means with intervals, paired differences, and p-values corrected for their number.

Runs of the same seed share data order, masks' noise and initialization, so variants are compared seed by seed. With
few seeds the paired t-test is the one that can find anything: Wilcoxon's signed-rank test cannot go below p = 0.0625
with five pairs. `studies.analysis.blocked` has the test that uses the spread of all variants of a table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from scipy.special import stdtr

from hpm.metrics import half_interval

FEWEST_PAIRS = 3
"""Pairs below which no p-value is given: one degree of freedom says next to nothing of the spread."""

LEVEL = 0.05
"""The chance of any false positive that all tests of a report share."""

_ROUNDING = 1e-5  # steps that are smaller come from no share of images


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval.

    Args:
        mean: the mean of the values.
        half: half the width of its 95 % interval by Student's t; NaN where there is none: for a single value, and
            where the values scatter by less than the metric can tell apart.
        count: how many values there are.
    """

    mean: float
    half: float
    count: int

    @property
    def has_interval(self) -> bool:
        """Whether the values allow an interval."""
        return not math.isnan(self.half)

    @property
    def low(self) -> float:
        """The lower end of the interval; NaN where there is none."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end of the interval; NaN where there is none."""
        return self.mean + self.half


def estimate(values: Sequence[float], grid: float = 0.0) -> Estimate:
    """The mean of at least one value, with its 95 % interval.

    Args:
        values: the numbers.
        grid: the steps in which they move; values that scatter by less have no interval, see `below_grid`.
    """
    half = math.nan if below_grid(values, grid) else half_interval(values)
    return Estimate(statistics.fmean(values), half, len(values))


def below_grid(values: Sequence[float], grid: float) -> bool:
    """Whether the standard deviation of two or more values is less than the steps in which they move.

    Three equal differences of accuracies over 200 images say that the true ones lie within half a hundredth of each
    other, not that they are equal. What scatters less than the steps has a spread that nobody has measured.
    """
    return len(values) > 1 and spread_below_grid(statistics.stdev(values), grid)


def spread_below_grid(deviation: float, grid: float) -> bool:
    """Whether a standard deviation is less than a grid, up to rounding; 0 is less than any."""
    return deviation == 0 or deviation < grid * (1 - 1e-4)


@dataclass(frozen=True)
class PValue:
    """The p-value of one test.

    Args:
        value: p, or None where the data allow none.
        corrected: p after Holm's correction for all tests of its kind in a report; None without p.
        missing: why there is none, in a few words; "" where there is one.
        counts: whether the test takes part in the correction. One that is withheld because of its spread does, as
            p = 1: its question was asked.
    """

    value: float | None
    corrected: float | None = None
    missing: str = ""
    counts: bool = True

    @property
    def significant(self) -> bool:
        """Whether it is below 0.05 after correction."""
        return self.corrected is not None and self.corrected < LEVEL


@dataclass(frozen=True)
class Difference:
    """A variant minus its baseline, over the seeds that both have.

    Args:
        estimate: of the mean difference.
        effect: mean over standard deviation of the differences (Cohen's d_z); None where that has no meaning.
        paired: of the two-sided paired t-test.
        blocked: of the two-sided contrast with the variances of all variants, see `studies.analysis.blocked`.
        equivalent: of two one-sided tests that the difference lies within a margin; None where no margin was given.
    """

    estimate: Estimate
    effect: float | None
    paired: PValue
    blocked: PValue = field(default=PValue(None, missing="not tested", counts=False))
    equivalent: PValue | None = None

    @property
    def significant(self) -> bool:
        """Whether there is a difference at the 5 % level, after correction: what the blocked test says."""
        return self.blocked.significant


def paired(values: Mapping[int, float], baseline: Mapping[int, float], grid: float = 0.0) -> Difference | None:
    """The difference of two variants, by seed.

    Args:
        values: the variant's, by seed.
        baseline: the baseline's, by seed.
        grid: the steps in which both move, e.g. 1 / 2000 for an accuracy over 2,000 images.

    Returns:
        The difference, not yet corrected for others; None where the two share no seed. p is missing for fewer than
        `FEWEST_PAIRS` pairs and where the differences scatter by less than the grid.
    """
    differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    if not differences:
        return None
    mean = estimate(differences, grid)
    if too_few := missing_for_pairs(len(differences)):
        return Difference(mean, None, too_few)
    deviation = statistics.stdev(differences)
    if spread_below_grid(deviation, grid):
        return Difference(mean, None, PValue(None, missing=f"sd < {describe_step(grid)}"))
    p = two_sided(mean.mean, deviation / math.sqrt(mean.count), mean.count - 1)
    return Difference(mean, mean.mean / deviation, PValue(p))


def missing_for_pairs(count: int) -> PValue | None:
    """The p-value of fewer than `FEWEST_PAIRS` pairs, which is none; None for more."""
    if count >= FEWEST_PAIRS:
        return None
    return PValue(None, missing="1 pair" if count == 1 else f"{count} pairs", counts=False)


def describe_step(grid: float) -> str:
    """A grid in a few characters: "1/2000" for a share of images, "rounding" for that of floating-point numbers."""
    if grid < _ROUNDING:
        return "rounding"
    denominator = round(1 / grid)
    return f"1/{denominator}" if denominator and abs(denominator * grid - 1) < 1e-6 else f"{grid:.1g}"


def two_sided(difference: float, error: float, freedom: float) -> float:
    """P of a two-sided t-test.

    Args:
        difference: the estimate.
        error: its standard error, more than 0.
        freedom: degrees of freedom.
    """
    return float(2 * stdtr(freedom, -abs(difference) / error))


def equivalence(difference: float, error: float, freedom: float, margin: float) -> float:
    """P of two one-sided t-tests (Schuirmann 1987) that the true difference lies within ± margin: the larger of both.

    Args:
        difference: the estimate.
        error: its standard error, more than 0.
        freedom: degrees of freedom.
        margin: more than 0, in the difference's unit.
    """
    return float(stdtr(freedom, (abs(difference) - margin) / error))


def holm(tests: Sequence[PValue]) -> list[PValue]:
    """Correct p-values for their number (Holm 1979), so that the chance of any false one stays at 5 %.

    Args:
        tests: all of one kind in all tables of a report.

    Returns:
        The same in their order, with `corrected`.
    """
    ordered = sorted(
        (number for number, test in enumerate(tests) if test.value is not None),
        key=lambda number: tests[number].value or 0.0,
    )
    total = count_tests(tests)
    corrected = list(tests)
    highest = 0.0
    for place, number in enumerate(ordered):
        p = tests[number].value
        assert p is not None
        highest = max(highest, min(1.0, (total - place) * p))
        corrected[number] = replace(tests[number], corrected=highest)
    return corrected


def count_tests(tests: Sequence[PValue]) -> int:
    """How many tests a correction is over: those with a p-value, and those whose p is withheld for their spread."""
    return sum(test.counts for test in tests)

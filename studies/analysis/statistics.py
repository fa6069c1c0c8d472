"""What can be said of a few numbers: means with intervals, and paired differences with corrected p-values.

Runs of the same seed share data order, masks' noise and initialization, so variants are compared seed by seed. With
few seeds the paired t-test is the one that can find anything: Wilcoxon's signed-rank test cannot go below p = 0.0625
with five pairs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and what surrounds it.

    Args:
        mean: of the values.
        half: half the width of its 95 % interval by Student's t; infinite for a single value.
        count: how many values.
    """

    mean: float
    half: float
    count: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of at least one value."""
    count = len(values)
    if count < 2:
        return Estimate(float(values[0]), math.inf, count)
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(count)
    return Estimate(statistics.fmean(values), half, count)


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
        """At the 5 % level, after correction."""
        return self.corrected is not None and self.corrected < 1 - CONFIDENCE


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The difference of two variants, by seed; None where they share no seed."""
    differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    if not differences:
        return None
    found = estimate(differences)
    if found.count < 2:
        return Difference(found, None, None, None)
    deviation = statistics.stdev(differences)
    if deviation == 0:  # runs that do not depend on the seed: either equal or different for certain
        return Difference(found, 1.0 if found.mean == 0 else 0.0, None, None)
    t = found.mean / (deviation / math.sqrt(found.count))
    return Difference(found, float(2 * stdtr(found.count - 1, -abs(t))), None, found.mean / deviation)


def holm(differences: Mapping[str, Difference | None]) -> dict[str, Difference | None]:
    """The same with p-values corrected for their number (Holm 1979): the chance of any false one stays at 5 %."""
    corrected = dict(differences)
    tested = sorted((found.p, name) for name, found in differences.items() if found is not None and found.p is not None)
    highest = 0.0
    for place, (p, name) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - place) * p))
        found = differences[name]
        assert found is not None
        corrected[name] = replace(found, corrected=highest)
    return corrected

"""How many seeds a question needs, from the spread of runs that are done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpm.errors import UserError
from studies.analysis.comparison import Comparison
from studies.analysis.groups import Group
from studies.analysis.power import interval_of_deviation, seeds_needed
from studies.analysis.statistics import FEWEST_PAIRS, LEVEL


@dataclass(frozen=True)
class Need:
    """The seeds that one test needs in one group.

    Args:
        test: "blocked" or "paired".
        baseline: the group's.
        deviation: standard deviation of the difference of two runs of one seed, in the metric's own unit.
        interval: its 95 % interval.
        seeds: what it takes; None for more than can be counted.
        seeds_of_interval: what it takes at both ends of the interval.
    """

    test: str
    baseline: str
    deviation: float
    interval: tuple[float, float]
    seeds: int | None
    seeds_of_interval: tuple[int | None, int | None]


@dataclass(frozen=True)
class SeedPlan:
    """How many seeds it takes to find an effect.

    Args:
        comparison: of the study that the spread is from.
        effect: the true difference, in the unit that the metric is shown in.
        power: the probability of finding it.
        variants: how many there will be, with the baselines.
        level: the strictest corrected level.
        needs: for each group and test.
    """

    comparison: Comparison
    effect: float
    power: float
    variants: int
    level: float
    needs: Sequence[Need]


def plan_seeds(comparison: Comparison, *, effect: float, power: float, variants: int | None) -> SeedPlan:
    """Tell how many seeds it takes.

    The blocked test's spread is the pooled residual variance, twice for a difference, with its degrees of freedom. The
    paired test's is the mean variance of the paired differences; its interval is that of the seeds of one variant,
    since the differences share a baseline and are not independent. The interval supposes normal errors, and says
    nothing of whether other variants will scatter as these did.

    Args:
        comparison: of a finished study.
        effect: the true difference to be found, more than 0, in the unit that the metric is shown in.
        power: with which probability, in (0, 1).
        variants: how many there will be, with the baseline; None for as many as the study has.

    Raises:
        UserError: if the study has too few seeds to tell its spread.
    """
    groups = [group for group in comparison.groups if group.has_spread]
    if not groups:
        raise UserError(
            f"{comparison.results[0].source} cannot tell how much {comparison.metric} scatters: no variant shares "
            f"{FEWEST_PAIRS} or more seeds with its baseline, with differences that scatter"
        )
    total = len(comparison.rows) if variants is None else variants
    tests = total - len(comparison.groups) if variants is None else variants - 1
    level = LEVEL / max(1, tests)
    difference = effect / comparison.unit.scale
    needs = [
        _need(group, test, difference, power=power, level=level, variants=variants)
        for group in groups
        for test in ("blocked", "paired")
    ]
    return SeedPlan(comparison, effect, power, total, level, needs)


def _need(group: Group, test: str, difference: float, *, power: float, level: float, variants: int | None) -> Need:
    blocked = test == "blocked"
    variance, freedom = (
        (2 * group.pooled_variance, group.freedom) if blocked else (group.paired_variance, group.pairs - 1)
    )
    deviation = math.sqrt(variance)
    interval = interval_of_deviation(deviation, freedom)

    def count(of: float) -> int | None:
        return seeds_needed(
            difference,
            of**2 / 2 if blocked else of**2,
            variants=variants or len(group.variants) + 1,
            level=level,
            power=power,
            blocked=blocked,
        )

    return Need(test, group.baseline, deviation, interval, count(deviation), (count(interval[0]), count(interval[1])))

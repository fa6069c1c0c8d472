"""How a metric is shown to people."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpm.metrics import unit_of
from studies.analysis.statistics import Estimate


@dataclass(frozen=True)
class DisplayUnit:
    """The unit of a metric in tables and figures.

    Args:
        scale: what its values are multiplied by.
        digits: how many decimals are shown.
        label: its name with its unit.
        bounds: the least and the largest value that there can be, as people read them.
    """

    scale: float
    digits: int
    label: str
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def interval(self, mean: Estimate) -> tuple[float, float]:
        """The ends of a mean's interval, no farther out than a value can lie."""
        least, most = self.bounds
        return max(mean.low, min(least, mean.mean)), min(mean.high, max(most, mean.mean))


def display_unit(metric: str) -> DisplayUnit:
    """The unit that a metric is shown in, as the evaluation that gives it declares: accuracies in percent."""
    unit = unit_of(metric)
    least, most = unit.bounds
    return DisplayUnit(
        scale=unit.scale,
        digits=unit.digits,
        label=f"{metric}, {unit.symbol}" if unit.symbol else metric,
        bounds=(unit.scale * least, unit.scale * most),
    )

"""The confidence interval of a mean, as results, studies and benchmarks give it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import scipy.special

CONFIDENCE = 0.95


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of the values' mean, by Student's t.

    Args:
        values: at least one number.

    Returns:
        The half width, in the values' unit. NaN for a single value: it says nothing about how much others would
        scatter, so there is no interval, neither an empty nor an infinite one.
    """
    count = len(values)
    if count < 2:
        return math.nan
    quantile = float(scipy.special.stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return quantile * statistics.stdev(values) / math.sqrt(count)

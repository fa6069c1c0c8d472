"""The steps in which a metric moves: an accuracy over n images is a multiple of 1 / n."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpm.metrics import Unit, unit_of
from studies.analysis.results import Result

_MOST_IMAGES = 100_000  # beyond this, single precision tells nothing from a multiple
_ROUNDING = 2.0**-23  # relative, of the single precision in which accuracies are computed


@dataclass(frozen=True)
class Grid:
    """The steps in which the values of a metric move.

    Args:
        step: their size, in the metric's own unit.
        source: where it is known from, in words.
    """

    step: float
    source: str


def grid_of(metric: str, results: Sequence[Result]) -> Grid:
    """The grid of a metric in some runs.

    Runs say over how many images an accuracy is; of several numbers the smallest counts. Where a run does not say
    (it was trained before runs did, or comes from MLflow), the grid is read off the values: 1 / n for the least n, up
    to 100,000, of which all of them are multiples, which is the true number of images or a divisor of it. Metrics that
    are no shares of images have no grid but that of their floating-point numbers.

    Args:
        metric: its name.
        results: runs that have it.
    """
    values = np.array([result.metrics[metric] for result in results])
    rounding = _ROUNDING * float(np.abs(values).max(initial=0.0))
    if unit_of(metric) not in (Unit.ACCURACY, Unit.POINTS):
        return Grid(rounding, "floating-point numbers")
    counts = [result.scored_images.get(metric) for result in results]
    known = [count for count in counts if count]
    if known and len(known) == len(counts):
        return Grid(1 / min(known), f"{min(known):,} scored images")
    inferred = _least_denominator(values)
    if inferred is None:
        return Grid(1 / min(known), f"{min(known):,} scored images") if known else Grid(rounding, "no common step")
    images = min([inferred, *known])
    return Grid(1 / images, f"multiples of 1/{images}, read off the values")


def _least_denominator(values: np.ndarray) -> int | None:
    """The least n of which all values are multiples of 1 / n, up to rounding; None where there is none."""
    candidates = np.arange(1, _MOST_IMAGES + 1, dtype=float)
    for value in np.unique(values):
        multiples = value * candidates
        close = np.abs(multiples - np.round(multiples)) <= _ROUNDING * np.maximum(np.abs(multiples), 1.0)
        candidates = candidates[close]
    return int(candidates[0]) if len(candidates) else None

"""Metrics: names, units, and what they are called on which images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

VALIDATION, TEST = HELD_OUT = ("validation", "test")
"""The splits that metrics are measured on: choices are made on validation images, and test images are scored once."""


class Unit(StrEnum):
    """What a metric's number is, and how people read it."""

    ACCURACY = "accuracy"
    """Share of right answers, in [0, 1]; read in percent."""
    POINTS = "points"
    """Difference of two accuracies, or the half width of an accuracy's interval; read in percentage points."""
    IOU = "IoU"
    """Intersection over union, in [0, 1], of one thing or the mean of several; read in percent."""
    AP = "average precision"
    """COCO's average precision of detections, in [0, 1]; read in percent."""
    SHARE = "share"
    """Share of anything else, in [0, 1]."""
    SCORE = "score"
    """How well a ranking separates two classes, in [0, 1]: AUROC or average precision."""
    CORRELATION = "correlation"
    """Rank correlation, in [-1, 1]."""
    LOSS = "loss"
    """In the unit of the loss that was trained."""
    RATIO = "ratio"
    """Relative to a reference value."""
    SETTING = "setting"
    """What something was trained with, such as a learning rate: no result, so nothing to average or compare."""
    NUMBER = "number"
    """Anything else, such as a metric that no evaluation declares."""

    @property
    def scale(self) -> float:
        """What a value is multiplied by before people read it."""
        return 100.0 if self in _IN_PERCENT else 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that there can be."""
        if self in (*_SHARES_IN_PERCENT, Unit.SCORE, Unit.SHARE):
            return 0.0, 1.0
        return (-1.0, 1.0) if self in (Unit.POINTS, Unit.CORRELATION) else (-math.inf, math.inf)

    @property
    def digits(self) -> int:
        """Decimals that people read: hundredths of a percent, and about as much of everything else."""
        return 2 if self in _IN_PERCENT else 4

    @property
    def symbol(self) -> str:
        """What stands behind the number, "" for nothing."""
        return "points" if self is Unit.POINTS else "%" if self in _SHARES_IN_PERCENT else ""

    def readable(self, value: float) -> str:
        """A value as people read it: "81.25 %", "0.7731"."""
        if self is Unit.SETTING:
            return f"{value:g}"
        rounded = round(self.scale * value, self.digits) + 0.0  # never -0.00
        return f"{rounded:.{self.digits}f} {self.symbol}".rstrip()


_SHARES_IN_PERCENT = (Unit.ACCURACY, Unit.IOU, Unit.AP)
_IN_PERCENT = (*_SHARES_IN_PERCENT, Unit.POINTS)


def metric_on(split: str, name: str) -> str:
    """What a metric is called that was measured on a split: "validation/knn/pretrained" on validation images.

    Args:
        split: "test", whose metrics have their own names, or "validation".
        name: the metric's own name, "knn/pretrained".
    """
    return name if split == TEST else f"{split}/{name}"


def split_of(name: str) -> str:
    """The split that a metric was measured on: "validation" or "test"."""
    return VALIDATION if name.startswith(f"{VALIDATION}/") else TEST


@dataclass(frozen=True)
class Metric:
    """One metric that an evaluation gives, or several that differ in a part of their names.

    It is measured on test images and, under a name that begins with "validation/", on validation images.

    Args:
        pattern: the name, `protocol/what`. A star stands for any text between two slashes: "low_shot/*/draw*".
        unit: what the number is.
        higher_is_better: whether a larger value is the better one; None where neither is.
        of_training_images: whether a run measures it on its training images, under the pattern's own name. It is
            measured on held-out ones, as above, where no run is at hand. Default False.
    """

    pattern: str
    unit: Unit
    higher_is_better: bool | None = True
    of_training_images: bool = False

    def matches(self, name: str) -> bool:
        """Whether a metric of this name is meant, on whichever images."""
        names, patterns = name.removeprefix(f"{VALIDATION}/").split("/"), self.pattern.split("/")
        return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))

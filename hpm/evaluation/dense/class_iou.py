"""Intersection over union of classes of pixels.

Shape suffixes: C classes; a star stands for any dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpm.data import IGNORED


class ConfusionMatrix:
    """How many pixels of each class were taken for which, over any number of images.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts_CC = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, true: Tensor, predicted: Tensor) -> None:
        """Count pixels.

        Args:
            true: int [*], their classes, `IGNORED` where none counts.
            predicted: int [*], what they were taken for, each a class.
        """
        counted = true != IGNORED
        pairs = true[counted].long() * self.num_classes + predicted[counted].long()
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self.counts_CC += counts.view(self.num_classes, self.num_classes).cpu()

    def iou(self) -> Tensor:
        """Of each class, float64 [C]: the pixels that are of it and were taken for it, over those that are or were.

        NaN for a class that no pixel is of or was taken for.
        """
        right_C = self.counts_CC.diagonal().double()
        return right_C / (self.counts_CC.sum(dim=0) + self.counts_CC.sum(dim=1) - right_C)

    def mean_iou(self) -> float:
        """The mean over the classes that some pixel is of or was taken for: scikit-learn's macro `jaccard_score`."""
        return float(self.iou().nanmean())


def mean_iou(true: Tensor, predicted: Tensor, num_classes: int) -> float:
    """The mean intersection over union of pixels; see `ConfusionMatrix`."""
    matrix = ConfusionMatrix(num_classes)
    matrix.add(true, predicted)
    return matrix.mean_iou()

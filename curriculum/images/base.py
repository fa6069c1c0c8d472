"""The interface of a difficulty of whole images.

Shape suffixes: I images of the training split, D values measured of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

Measured = Literal["features", "loss"]


class ImageDifficulty(ABC):
    """Scores every training image, higher = harder.

    There are two ways to know an image: by what training itself measured when the image was last shown (`remembers`),
    and by a pass over all training images before an epoch (`measures`), which costs that much more.

    Attributes:
        remembers: whether an image's mean reconstruction loss is kept whenever it is trained on.
        momentum: weight of the old score where a loss is kept, in [0, 1).
        measures: what a pass measures of every image, as evaluations see it: the "features" of the teacher, or of the
            student where there is none, or the student's "loss" under random masks; None where there is no pass.
        needs_labels: whether `score` takes labels, so that data without are refused before training starts.
        never_negative: whether scores are 0 or more, so that a threshold that grows by a factor makes sense of them.
    """

    remembers: bool = False
    momentum: float = 0.0
    measures: Measured | None = None
    needs_labels: bool = False
    never_negative: bool = False

    @abstractmethod
    def is_due(self, epoch: int) -> bool:
        """Say whether there is a pass before an epoch, counted from 0."""

    def check(self, num_images: int) -> None:  # noqa: B027, most can score any number
        """Find out before training whether so many images can be scored.

        Raises:
            ValueError: where they cannot.
        """

    def score(self, measured: Tensor, labels_I: Tensor | None, *, seed: int) -> Tensor:
        """Score all images by what a pass measured.

        Args:
            measured: float32 [I, D], features on the CPU, or [I], losses.
            labels_I: int64 [I]; None where `needs_labels` is False.
            seed: of anything random.

        Returns:
            Float32 [I].
        """
        return measured


class PassDifficulty(ImageDifficulty, ABC):
    """A difficulty that a pass over all images measures, once or now and then.

    Args:
        first_epoch: the epoch before which the first pass is, counted from 0: all images are shown alike until then.
        every: epochs between two passes; 0 for a single one.
    """

    def __init__(self, *, first_epoch: int, every: int) -> None:
        self.first_epoch = first_epoch
        self.every = every

    def is_due(self, epoch: int) -> bool:
        since = epoch - self.first_epoch
        return since == 0 or (since > 0 and self.every > 0 and since % self.every == 0)

    @abstractmethod
    def score(self, measured: Tensor, labels_I: Tensor | None, *, seed: int) -> Tensor: ...


def normalized(features_ID: Tensor) -> Tensor:
    """Return features of length 1, so that only their direction is compared."""
    return torch.nn.functional.normalize(features_ID.float(), dim=1)

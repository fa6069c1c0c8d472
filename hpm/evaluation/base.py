"""What is evaluated, and the interface of an evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from curriculum import Curriculum
from hpm.data import ImageSource, Split
from hpm.model import MaskedAutoencoder
from hpm.targets import Target
from hpm.teacher import MovingAverageTeacher


@dataclass(frozen=True)
class Subject:
    """A model and everything that is needed to judge it.

    Args:
        model: the student.
        initial: makes the same architecture at its random initialization, as it was before training.
        teacher: the student's moving average.
        curriculum: what it was trained under; gives the mask ratio.
        target: what it reconstructs.
        source: images and labels.
        device: where to compute.
        seed: of every draw.
    """

    model: MaskedAutoencoder
    initial: Callable[[], MaskedAutoencoder]
    teacher: MovingAverageTeacher
    curriculum: Curriculum
    target: Target
    source: ImageSource
    device: torch.device
    seed: int


class Evaluation(ABC):
    """Measures a model. Draws nothing from global generators, so that training is the same with or without it."""

    @abstractmethod
    def __call__(self, subject: Subject) -> dict[str, float]:
        """Metrics by name, `protocol/what`; accuracies in [0, 1]."""

    @abstractmethod
    def check(self, source: ImageSource) -> None:
        """Find out before training whether the data can serve.

        Raises:
            ValueError: where they cannot.
        """


def require_labels(evaluation: Evaluation, source: ImageSource) -> None:
    """For evaluations that need a class for every image.

    Raises:
        ValueError: where there are none, or one class only.
    """
    name = type(evaluation).__name__
    for split in (source.train(), source.test()):
        if split.labels is None:
            raise ValueError(f"{name} needs labels, and the images of {type(source).__name__} have none")
    if source.num_classes < 2:
        raise ValueError(f"{name} needs at least two classes, {type(source).__name__} has {source.num_classes}")


def labels_of(split: Split) -> Tensor:
    """Int64 [K], of a split that `require_labels` has let pass."""
    assert split.labels is not None
    return split.labels


def sample_indices(count: int, size: int) -> torch.Tensor:
    """Up to `count` of `size` indices, a random subset in ascending order, the same one for every run and seed."""
    if count >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count].sort().values

"""What is evaluated, and the interface of an evaluation."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import scipy.special
import torch
from torch import Tensor

from curriculum import Batch, Curriculum, Noise
from hpm.data import ImageSource, Split
from hpm.methods.teacher import ModelTeacher
from hpm.models.base import MaskedModel
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.precision import full_float32
from hpm.targets import Target

_BATCH = 128  # images


@dataclass(frozen=True)
class EvaluationContext:
    """A model and everything that is needed to judge it.

    Args:
        model: the student.
        initial: makes the same architecture at its random initialization, as it was before training.
        teacher: what the curriculum asks: the student's moving average, or the student itself.
        curriculum: what it was trained under; gives the mask ratio.
        target: what it reconstructs.
        source: images and labels.
        device: where to compute.
        seed: of every draw.
        folder: where long protocols keep what they need to go on after a kill; None for nowhere.
        report: takes a line about the progress of a long protocol; None for silence.
        processes: that evaluate together. Default this one alone.
    """

    model: MaskedModel
    initial: Callable[[], MaskedModel]
    teacher: ModelTeacher
    curriculum: Curriculum
    target: Target
    source: ImageSource
    device: torch.device
    seed: int
    folder: Path | None = None
    report: Callable[[str], None] | None = None
    processes: DistributedContext = field(default_factory=DistributedContext)


class Evaluation(ABC):
    """Measures a model. Draws nothing from global generators, so that training is the same with or without it.

    Attributes:
        seeded: whether the context's seed changes the metrics.
        shared: whether the context's processes share the work; where not, the main one measures alone. All processes
            then call, and the main one's metrics count.
    """

    seeded: bool = True
    shared: bool = False

    @abstractmethod
    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        """Metrics by name, `protocol/what`; accuracies in [0, 1]."""

    def measure(self, context: EvaluationContext) -> dict[str, float]:
        """The metrics, measured without TF32: how runs and `hpm evaluate` call an evaluation.

        What an evaluation computes under an autocast of its own keeps that precision.
        """
        with full_float32():
            return self(context)

    @abstractmethod
    def check(self, source: ImageSource, model: MaskedModel) -> None:
        """Find out before training whether data and model can serve.

        Raises:
            ValueError: where they cannot.
        """


def held_out_batches(context: EvaluationContext, count: int | None) -> Iterator[tuple[Tensor, Batch, Noise]]:
    """Up to `count` (None: all) test images in batches: their indices, the images, and each image's own noise."""
    split = context.source.test()
    for indices in sample_indices(count, len(split)).split(_BATCH):
        batch = Batch(context.source.load(split, indices).to(context.device), context.model.patch_size)
        yield indices, batch, Noise(context.seed, 0, indices.to(context.device))


def require_labels(evaluation: Evaluation, source: ImageSource) -> None:
    """For evaluations that need a class for every image.

    Raises:
        ValueError: where there are none, one class only, or test images of a class that no training image has.
    """
    name = type(evaluation).__name__
    for split in (source.train(), source.test()):
        if split.labels is None:
            raise ValueError(f"{name} needs labels, and the images of {type(source).__name__} have none")
    if source.num_classes < 2:
        raise ValueError(f"{name} needs at least two classes, {type(source).__name__} has {source.num_classes}")
    known, asked = (set(labels_of(split).unique().tolist()) for split in (source.train(), source.test()))
    if asked - known:
        classes = ", ".join(str(source.class_names[label]) for label in sorted(asked - known)[:5])
        raise ValueError(
            f"{name} cannot learn every class of the test images of {type(source).__name__}: {len(asked - known)} have "
            f"no training image, e.g. {classes}; training and test images must have the same classes"
        )
    if len(known) < 2:
        raise ValueError(f"{name} needs training images of two classes, {type(source).__name__} has them of one")


def labels_of(split: Split) -> Tensor:
    """Int64 [K], of a split that `require_labels` has let pass."""
    assert split.labels is not None
    return split.labels


def sample_indices(count: int | None, size: int) -> torch.Tensor:
    """Up to `count` (None: all) of `size` indices: a random subset in ascending order, the same for every seed."""
    if count is None or count >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count].sort().values


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of the mean, by Student's t; 0 for a single value."""
    count = len(values)
    if count < 2:
        return 0.0
    return float(scipy.special.stdtrit(count - 1, 0.975)) * statistics.stdev(values) / math.sqrt(count)


def require_counts(owner: str, **counts: int | None) -> None:
    """Refuse counts below 1; None is allowed where the signature allows it.

    Raises:
        ValueError: naming the binding.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{owner}.{name} = {count} must be at least 1")


def require_shares(owner: str, **shares: float) -> None:
    """Refuse numbers outside [0, 1).

    Raises:
        ValueError: naming the binding.
    """
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{owner}.{name} = {share} must lie in [0, 1)")

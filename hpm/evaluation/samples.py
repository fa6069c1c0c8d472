"""Which images and labels evaluations look at.

Shape suffixes: K images of a split.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from curriculum import Batch, Noise
from hpm.data import HELD_OUT, ImageSource, Split
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.runtime.progress import track

_BATCH = 128  # images


def held_out_batches(
    context: EvaluationContext, split: Split, count: int | None
) -> Iterator[tuple[Tensor, Batch, Noise]]:
    """Up to `count` (None: all) images of a split in batches: their indices, the images, and each one's own noise."""
    sample = sample_indices(count, len(split))
    for indices in track(sample.split(_BATCH), "looking at", len(sample), count=len):
        batch = Batch(context.source.load(split, indices).to(context.device), context.model.patch_size)
        yield indices, batch, Noise(context.seed, 0, indices.to(context.device))


def sample_indices(count: int | None, size: int) -> Tensor:
    """Up to `count` (None: all) of `size` indices: a random subset in ascending order, the same for every seed."""
    if count is None or count >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count].sort().values


def require_labels(evaluation: Evaluation, source: ImageSource) -> None:
    """For evaluations that need a class for every image.

    Raises:
        ValueError: where there are none, one class only, or held-out images of a class that no training image has.
    """
    name = type(evaluation).__name__
    held_out = source.existing(HELD_OUT)
    for split in (source.train(), *held_out.values()):
        if split.labels is None:
            raise ValueError(
                f"{name} needs labels, and the images of {type(source).__name__} have none; in a run, bind "
                "Monitoring.probes and Monitoring.evaluations to what needs none, e.g. [@RankMe()]"
            )
    if source.num_classes < 2:
        raise ValueError(f"{name} needs at least two classes, {type(source).__name__} has {source.num_classes}")
    train = set(labels_of(source.train()).unique().tolist())
    for split_name, split in held_out.items():
        if unknown := set(labels_of(split).unique().tolist()) - train:
            classes = ", ".join(str(source.class_names[label]) for label in sorted(unknown)[:5])
            raise ValueError(
                f"{name} cannot learn every class of the {split_name} images of {type(source).__name__}: "
                f"{len(unknown)} have no training image, e.g. {classes}; training and {split_name} images must have "
                "the same classes"
            )
    if len(train) < 2:
        raise ValueError(f"{name} needs training images of two classes, {type(source).__name__} has them of one")


def labels_of(split: Split) -> Tensor:
    """Int64 [K], of a split that `require_labels` has let pass."""
    assert split.labels is not None
    return split.labels

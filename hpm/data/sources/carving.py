"""Carving: which training images serve for validation, where the data have no validation split.

Shape suffixes: K images of the split, Y classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpm.data.sources.split import Split


def carve(split: Split, count: int) -> tuple[Split, Split]:
    """Divide a split in two by a fixed rule: the same images every time, whatever the seed of a run.

    The images are ordered at random, by a seed that never changes. Of unlabeled images the first `count` are taken. Of
    labeled ones every class gives the same share, as far as `count` allows, but never its last image.

    Args:
        split: of K images.
        count: how many are taken, `most_to_take` or less.

    Returns:
        What is left, and what is taken, each in the order of the split.
    """
    order_K = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    place_K = torch.empty(len(split), dtype=torch.float64)
    place_K[order_K] = torch.arange(len(split), dtype=torch.float64)
    if split.labels is not None:
        place_K = _place_in_class(place_K, split.labels.cpu())
    taken_K = torch.zeros(len(split), dtype=torch.bool)
    taken_K[place_K.argsort(stable=True)[:count]] = True
    return split.subset((~taken_K).nonzero().squeeze(1)), split.subset(taken_K.nonzero().squeeze(1))


def most_to_take(split: Split) -> int:
    """How many images can be taken from a split so that it keeps one, or one of every class that it has."""
    kept = 1 if split.labels is None else len(split.labels.unique())
    return len(split) - kept


def _place_in_class(place_K: Tensor, labels_K: Tensor) -> Tensor:
    """Each image's place among its class's, in (0, 1), the first of a hundred at 0.005; the last one's is above 1."""
    by_class_K = place_K.argsort()[labels_K[place_K.argsort()].argsort(stable=True)]
    size_Y = torch.bincount(labels_K)
    first_Y = size_Y.cumsum(0) - size_Y
    within_K = torch.empty_like(place_K)
    within_K[by_class_K] = torch.arange(len(labels_K), dtype=torch.float64) - first_Y[labels_K[by_class_K]]
    last_K = within_K + 1 == size_Y[labels_K]
    return (within_K + 0.5) / size_Y[labels_K] + last_K

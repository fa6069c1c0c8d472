"""Training images to look at while a run trains, beside those that it trains on.

They are read by this process alone, and what is read or cannot be read is not told to the run's loader.

Shape suffixes: N images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from curriculum import Batch, Stream
from curriculum.noise import hash_words
from hpm.data import UnreadableImages
from hpm.data.fetch import Fetcher
from hpm.errors import UserError

if TYPE_CHECKING:
    from hpm.training.trainer import Trainer

_BATCH = 128  # images


def read_crops(trainer: Trainer, indices_N: Tensor, *, seed: int, epoch: int = 0) -> Batch:
    """Read images, cropped as the run crops them and normalized, onto its device.

    For an image that cannot be read the next one stands in, under its own index.

    Args:
        trainer: whose source and crop are used.
        indices_N: int64 [N], of the training split.
        seed: of the crops.
        epoch: likewise. Default 0.

    Raises:
        UserError: if the images cannot be read.
        TrainingError: if too many of them cannot be read.
    """
    split = trainer.source.train()
    unreadable = UnreadableImages(trainer.loading.max_unreadable)
    fetch = Fetcher(
        split,
        trainer.crop,
        seed=seed,
        epoch=epoch,
        size=trainer.source.img_size,
        known_unreadable=unreadable.by_index,
        limit=unreadable.limit(split),
    )
    fetched = fetch(indices_N)
    if isinstance(fetched, UserError):
        raise fetched
    unreadable.add(fetched.newly_unreadable, split)
    images_NCHW = trainer.source.normalize(fetched.images_NCSS.to(trainer.device))
    batch = Batch(images_NCHW, trainer.method.student.patch_size, fetched.indices_N, fetched.boxes_N4, fetched.flips_N)
    return batch.to(trainer.device)


def evenly_spaced(count: int, size: int) -> Tensor:
    """Return `count` indices of `size`, at most that many, int64: the first of each of so many equal parts."""
    count = min(count, size)
    return torch.arange(count) * size // count


def batches_to_evaluate(trainer: Trainer, step: int, count: int) -> Iterator[Batch]:
    """Read the training images that evaluations look at: evenly spaced, at crops that the seed and the step decide.

    Args:
        trainer: whose images they are.
        step: taken so far.
        count: how many images, at most.
    """
    seed = hash_words(trainer.seed, Stream.EVALUATION_CROPS)
    for indices_N in evenly_spaced(count, len(trainer.source.train())).split(_BATCH):
        yield read_crops(trainer, indices_N, seed=seed, epoch=step)

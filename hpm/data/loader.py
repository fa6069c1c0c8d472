"""Batches of training images, the same ones whatever the number of workers and wherever an epoch is resumed.

Shape suffixes: N images, K images of the split, C channels, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from curriculum.batch import Batch
from curriculum.noise import Noise, hash_words
from hpm.data.augment import RandomResizedCrop
from hpm.data.source import ImageSource
from hpm.errors import UserError

_ORDER_STREAM, _CROP_STREAM = 1, 2

# Images, indices, boxes and flips, as they come from a worker. (Tensors, which PyTorch knows how to pin.)
_Fetched = tuple[Tensor, Tensor, Tensor, Tensor]


class Loader:
    """Shuffled, augmented and normalized training images.

    The order depends on (seed, epoch) alone, a crop on (seed, epoch, sample) alone.

    Args:
        source: where the images come from.
        batch_size: N. An epoch's incomplete last batch is dropped.
        patch_size: side of a square patch in pixels; divides the source's `img_size`.
        crop: the augmentation.
        seed: of the order and the crops.
        num_workers: processes that prepare batches; 0 for none but this one. Default 0.
    """

    def __init__(
        self,
        *,
        source: ImageSource,
        batch_size: int,
        patch_size: int,
        crop: RandomResizedCrop,
        seed: int,
        num_workers: int = 0,
    ) -> None:
        if patch_size < 1 or source.img_size % patch_size:
            raise ValueError(f"Loader.patch_size = {patch_size} must divide the image size, {source.img_size} pixels")
        if num_workers < 0:
            raise ValueError(f"Loader.num_workers = {num_workers} must be 0 or more")
        num_images = len(source.train())
        if not 1 <= batch_size <= num_images:
            raise ValueError(
                f"Loader.batch_size = {batch_size} must be 1 to {num_images}, the images of the training split"
            )
        self.source = source
        self.batch_size = batch_size
        self.patch_size = patch_size
        self.crop = crop
        self.seed = seed
        self.num_workers = num_workers

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch."""
        return len(self.source.train()) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """The samples of an epoch in the order in which they come, int64 [K]."""
        samples_K = torch.arange(len(self.source.train()))
        keys_K = Noise(hash_words(self.seed, _ORDER_STREAM), epoch, samples_K).bits(1).squeeze(1)
        return keys_K.argsort(stable=True)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from `first_step` on, on the CPU.

        Raises:
            UserError: if an image cannot be read.
        """
        steps = self.steps_per_epoch
        if not 0 <= first_step <= steps:
            raise ValueError(f"first_step = {first_step} must be 0 to {steps}, the steps of an epoch")
        return self._batches(epoch, first_step, steps)

    def _batches(self, epoch: int, first_step: int, last_step: int) -> Iterator[Batch]:
        order_K = self.order(epoch)[first_step * self.batch_size : last_step * self.batch_size]
        fetcher: DataLoader = DataLoader(
            _Crops(self.source, self.crop, Noise(hash_words(self.seed, _CROP_STREAM), epoch, torch.arange(0))),
            batch_sampler=order_K.view(-1, self.batch_size).tolist(),
            collate_fn=_as_fetched,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it would draw its workers' seeds from the global generator
        )
        for fetched in fetcher:
            if isinstance(fetched, UserError):
                raise fetched
            images_NCSS, indices_N, boxes_N4, flips_N = fetched
            yield Batch(images_NCSS, self.patch_size, indices_N, boxes_N4, flips_N)


class _Crops(Dataset):
    """Makes a whole batch at once. (`__getitems__` is how PyTorch's loader asks for one.)"""

    def __init__(self, source: ImageSource, crop: RandomResizedCrop, noise: Noise) -> None:
        self.source = source
        self.crop = crop
        self.noise = noise

    def __getitems__(self, indices: list[int]) -> _Fetched | UserError:
        split, indices_N = self.source.train(), torch.tensor(indices)
        try:
            boxes_N4, flips_N = self.crop.draw(
                split.sizes(indices_N), Noise(self.noise.seed, self.noise.step, indices_N)
            )
            images_NCSS = split.crop(indices_N, boxes_N4, flips_N, self.source.img_size)
        except UserError as error:
            # Returned, since an exception would reach the main process as a report of the worker's stack.
            return UserError(*error.args)
        return self.source.normalize(images_NCSS), indices_N, boxes_N4, flips_N


def _as_fetched(fetched: Any) -> Any:
    return fetched

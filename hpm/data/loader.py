"""Batches of training images, the same ones whatever the number of workers and wherever an epoch is resumed.

Shape suffixes: N images of a micro-batch, K images of the split, X micro-batches, C channels, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from curriculum.batch import Batch
from curriculum.noise import Noise, hash_words
from hpm.data.augment import RandomResizedCrop
from hpm.data.source import Crops, ImageSource, Split, Unreadable
from hpm.errors import TrainingError, UserError

_ORDER_STREAM, _CROP_STREAM = 1, 2
_CPU = torch.device("cpu")
_NAMED = 3  # unreadable images that an error message lists


class Loader:
    """Shuffled, augmented and normalized training images.

    The order depends on (seed, epoch) alone, a crop on (seed, epoch, sample) alone. An image that cannot be read is
    left out: the next sample of the data set stands in for it.

    Args:
        source: where the images come from.
        batch_size: images of an optimizer step, of all processes together. An epoch's incomplete last batch is dropped.
        patch_size: side of a square patch in pixels; divides the source's `img_size`.
        crop: the augmentation.
        seed: of the order and the crops.
        num_workers: processes that prepare batches; 0 for none but this one. Default 0.
        accumulate: micro-batches that this process's share of a batch is cut into. Default 1.
        rank: which of the processes this is. Default 0.
        world_size: processes that share a batch. Default 1.
        device: where batches are wanted. Images that lie in memory are kept and augmented there, unless there are
            workers. Default the CPU.
        max_unreadable: share of the images that may be unreadable before training ends. Default 0.01.

    Attributes:
        unreadable: the unreadable images that this process has met so far, and why each cannot be read.
    """

    def __init__(
        self, *, source: ImageSource, batch_size: int, patch_size: int, crop: RandomResizedCrop, seed: int,
        num_workers: int = 0, accumulate: int = 1, rank: int = 0, world_size: int = 1, device: torch.device = _CPU,
        max_unreadable: float = 0.01,
    ) -> None:  # fmt: skip
        if patch_size < 1 or source.img_size % patch_size:
            raise ValueError(f"Loader.patch_size = {patch_size} must divide the image size, {source.img_size} pixels")
        if num_workers < 0:
            raise ValueError(f"Trainer.num_workers = {num_workers} must be 0 or more")
        if not 0.0 <= max_unreadable < 1.0:
            raise ValueError(f"Trainer.max_unreadable = {max_unreadable} must be a share, at least 0 and less than 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"Loader.rank = {rank} must be 0 or more and less than Loader.world_size = {world_size}")
        split = source.train()
        if not 1 <= batch_size <= len(split):
            raise ValueError(
                f"Trainer.batch_size = {batch_size} must be 1 to {len(split)}, the images of the training split"
            )
        if accumulate < 1 or batch_size % (world_size * accumulate):
            raise ValueError(
                f"Trainer.batch_size = {batch_size} must be divisible by Trainer.accumulate = {accumulate} times the "
                f"number of processes, {world_size}"
            )
        self.source = source
        self.batch_size = batch_size
        self.micro_batch_size = batch_size // (world_size * accumulate)
        self.patch_size = patch_size
        self.crop = crop
        self.seed = seed
        self.num_workers = num_workers
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.max_unreadable = max_unreadable
        self.unreadable: dict[str, str] = {}
        self._split = split if num_workers else split.to(device)
        self._bad: dict[int, str] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch."""
        return len(self._split) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """The samples of an epoch in the order in which they come, int64 [K]."""
        samples_K = torch.arange(len(self._split))
        keys_K = Noise(hash_words(self.seed, _ORDER_STREAM), epoch, samples_K).bits(1).squeeze(1)
        return keys_K.argsort(stable=True)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Batch, ...]]:
        """This process's share of each batch of an epoch, from `first_step` on: `accumulate` micro-batches a step.

        Raises:
            TrainingError: if too many images cannot be read.
        """
        steps = self.steps_per_epoch
        if not 0 <= first_step <= steps:
            raise ValueError(f"first_step = {first_step} must be 0 to {steps}, the steps of an epoch")
        return self._steps(epoch, first_step)

    def _steps(self, epoch: int, first_step: int) -> Iterator[tuple[Batch, ...]]:
        self._require_readable()
        batches = map(self._batch, self._fetched(epoch, first_step))
        while micro_batches := tuple(islice(batches, self.accumulate)):
            yield micro_batches

    def _fetched(self, epoch: int, first_step: int) -> Iterator[_Fetched | UserError]:
        order = self.order(epoch)[first_step * self.batch_size : self.steps_per_epoch * self.batch_size]
        shape = (-1, self.world_size, self.accumulate, self.micro_batch_size)
        indices_XN = order.view(shape)[:, self.rank].flatten(0, 1)
        fetcher = _Fetcher(
            self._split, self.crop, seed=hash_words(self.seed, _CROP_STREAM), epoch=epoch, size=self.source.img_size,
            bad=self._bad, limit=self._limit,
        )  # fmt: skip
        if self.num_workers == 0:
            return map(fetcher, indices_XN.to(self._split.device))
        return iter(
            DataLoader(
                fetcher,
                batch_sampler=indices_XN.tolist(),
                collate_fn=_as_fetched,
                num_workers=self.num_workers,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # else it would draw its workers' seeds from the global generator
            )
        )

    def _batch(self, fetched: _Fetched | UserError) -> Batch:
        if isinstance(fetched, UserError):
            raise fetched
        if fetched.met:
            self._bad |= fetched.met
            self.unreadable |= {self._split.name(index): reason for index, reason in fetched.met.items()}
            self._require_readable()
        images_NCSS, indices_N, boxes_N4, flips_N = (self._move(x) for x in fetched[:4])
        return Batch(self.source.normalize(images_NCSS), self.patch_size, indices_N, boxes_N4, flips_N)

    def _move(self, x: Tensor) -> Tensor:
        if x.device.type == self.device.type:
            return x
        if self.device.type == "cuda" and not x.is_pinned():
            x = x.pin_memory()  # else the copy would wait for the device
        return x.to(self.device, non_blocking=True)

    @property
    def _limit(self) -> int:
        return int(self.max_unreadable * len(self._split))

    def _require_readable(self) -> None:
        if len(self._bad) > self._limit:
            names = [f"{name} ({reason})" for name, reason in islice(self.unreadable.items(), _NAMED)]
            more = f" and {len(self._bad) - len(names)} more" if len(self._bad) > len(names) else ""
            raise TrainingError(
                f"{len(self._bad)} of {len(self._split)} training images cannot be read, where Trainer.max_unreadable "
                f"= {self.max_unreadable} allows {self._limit}: {', '.join(names)}{more}. Mend or remove them, or "
                "raise Trainer.max_unreadable"
            )


class _Fetched(NamedTuple):
    """A micro-batch as it comes from a worker, before normalization. (A tuple, which PyTorch knows how to pin.)"""

    images_NCSS: Tensor
    indices_N: Tensor
    boxes_N4: Tensor
    flips_N: Tensor
    met: dict[int, str]  # unreadable images, by index, that were not known to be


class _Fetcher(Dataset):
    """Makes a whole micro-batch at once."""

    def __init__(
        self, split: Split, crop: RandomResizedCrop, *, seed: int, epoch: int, size: int, bad: dict[int, str],
        limit: int,
    ) -> None:  # fmt: skip
        self.split = split
        self.crop = crop
        self.seed = seed
        self.epoch = epoch
        self.size = size
        self.bad = bad
        self.limit = limit

    def __getitems__(self, indices: list[int]) -> _Fetched | UserError:
        """What PyTorch's loader calls in a worker."""
        return self(torch.tensor(indices))

    def __call__(self, indices_N: Tensor) -> _Fetched | UserError:
        try:
            return self._fetch(indices_N)
        except UserError as error:
            # Returned, since an exception would reach the main process as a report of the worker's stack.
            return UserError(*error.args)

    def _fetch(self, indices_N: Tensor) -> _Fetched:
        indices_N = self._readable(indices_N)
        crops, failed = self._view(indices_N)
        met: dict[int, str] = {}
        while failed:
            rows = sorted(failed)
            met |= {int(indices_N[row]): failed[row] for row in rows}
            self.bad |= met
            if len(self.bad) > self.limit:
                break  # the main process will say so
            indices_N[rows] = self._readable(indices_N[rows])
            again, failed = self._view(indices_N[rows])
            for whole, part in zip(crops, again, strict=True):
                whole[rows] = part
            failed = {rows[row]: reason for row, reason in failed.items()}
        return _Fetched(crops.images_NCSS, indices_N, crops.boxes_N4, crops.flips_N, met)

    def _readable(self, indices_N: Tensor) -> Tensor:
        """The samples themselves, or what stands in for those known to be unreadable."""
        if not self.bad:
            return indices_N
        indices = indices_N.tolist()
        for n, index in enumerate(indices):
            while index in self.bad:
                index = (index + 1) % len(self.split)
            indices[n] = index
        return torch.tensor(indices)

    def _view(self, indices_N: Tensor) -> tuple[Crops, dict[int, str]]:
        """Random crops; and where one could not be made, why."""

        def choose(rows: slice, sizes_N2: Tensor) -> tuple[Tensor, Tensor]:
            return self.crop.draw(sizes_N2, Noise(self.seed, self.epoch, indices_N[rows]))

        try:
            return self.split.view(indices_N, self.size, choose), {}
        except Unreadable as error:
            if error.crops is None:
                raise
            return error.crops, error.reasons


def _as_fetched(fetched: Any) -> Any:
    return fetched

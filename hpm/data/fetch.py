"""Micro-batches as loader processes make them: crops, and another sample in the place of one that cannot be read.

Shape suffixes: N images of a micro-batch, C channels, S S height and width in pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from curriculum.images.draw import TURN
from curriculum.noise import Noise
from curriculum.sizes import Size
from hpm.data.gpu_decode import Encoded, JpegSplit
from hpm.data.sources.split import Crops, Split, Unreadable
from hpm.data.unreadable import stand_ins
from hpm.errors import UserError


class Cropping(Protocol):
    """Chooses what is seen of images."""

    def draw(self, sizes_N2: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Boxes, float32 [N, 4], and whether to mirror, bool [N], of images of these sizes; as `RandomResizedCrop`."""


class Annotating(Protocol):
    """Gives what is annotated in crops."""

    def __call__(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor) -> Any:
        """Of these crops, which are on the CPU as it should be; as `annotated_views` takes them."""


class Fetched(NamedTuple):
    """A micro-batch. (A tuple, which PyTorch knows how to pin.)

    Args:
        images_NCSS: uint8 or float32 [N, C, S, S] in [0, 255]; without content where they are `encoded`.
        indices_N: int64 [N].
        boxes_N4: float32 [N, 4].
        flips_N: bool [N].
        turns_N: int64 [N], how often the image was asked for in this epoch before.
        newly_unreadable: unreadable images, by index, that were not known to be, and why each cannot be read.
        encoded: the images where JPEGs are not decoded yet. Default None.
        annotations: what is annotated in them, where somebody asked. Default None.
    """

    images_NCSS: Tensor
    indices_N: Tensor
    boxes_N4: Tensor
    flips_N: Tensor
    turns_N: Tensor
    newly_unreadable: dict[int, str]
    encoded: Encoded | None = None
    annotations: Any = None


class Fetcher(Dataset):
    """Makes a whole micro-batch at once.

    Args:
        split: the images; a `JpegSplit` leaves JPEGs encoded.
        crop: the augmentation; or what gives whole images.
        seed: of the crops.
        epoch: likewise.
        size: of the crops in pixels, S for squares or (height, width).
        known_unreadable: images known to be unreadable, by index, and why. Those met are added.
        limit: how many there may be.
        annotate: gives what is annotated in the crops. Default None, for nothing.
    """

    def __init__(
        self,
        split: Split,
        crop: Cropping,
        *,
        seed: int,
        epoch: int,
        size: Size,
        known_unreadable: dict[int, str],
        limit: int,
        annotate: Annotating | None = None,
    ) -> None:
        self.split = split
        self.crop = crop
        self.seed = seed
        self.epoch = epoch
        self.size = size
        self.unreadable = known_unreadable
        self.limit = limit
        self.annotate = annotate

    def __getitems__(self, indices: list[int]) -> Fetched | UserError:
        """What PyTorch's loader calls in a worker."""
        return self(torch.tensor(indices))

    def __call__(self, addresses_N: Tensor) -> Fetched | UserError:
        """The images at these indices; of an image's later turns in an epoch at other crops, see `TURN`."""
        try:
            return self._fetch(addresses_N)
        except UserError as error:
            # Returned, since an exception would reach the main process as a report of the worker's stack.
            return UserError(*error.args)

    def _fetch(self, addresses_N: Tensor) -> Fetched:
        turns_N = addresses_N // TURN
        # A copy, for others may be put into it, and the caller has asked for these.
        indices_N = stand_ins(addresses_N % TURN, self.unreadable, len(self.split)).clone()
        crops, failed = self._view(indices_N, turns_N)
        newly_unreadable: dict[int, str] = {}
        while failed:
            rows = sorted(failed)
            newly_unreadable |= {int(indices_N[row]): failed[row] for row in rows}
            self.unreadable |= newly_unreadable
            if len(self.unreadable) > self.limit:
                break  # the main process will say so
            indices_N[rows] = stand_ins(indices_N[rows], self.unreadable, len(self.split))
            again, failed = self._view(indices_N[rows], turns_N[rows])
            for whole, part in zip(crops, again, strict=True):
                whole[rows] = part
            failed = {rows[row]: reason for row, reason in failed.items()}
        encoded = self.split.take(indices_N, self.size) if isinstance(self.split, JpegSplit) else None
        annotations = None
        if self.annotate is not None and not failed:
            annotations = self.annotate(indices_N.cpu(), crops.boxes_N4.cpu(), crops.flips_N.cpu())
        seen = crops.boxes_N4, crops.flips_N
        return Fetched(crops.images_NCSS, indices_N, *seen, turns_N, newly_unreadable, encoded, annotations)

    def _view(self, indices_N: Tensor, turns_N: Tensor) -> tuple[Crops, dict[int, str]]:
        """Random crops; and where one could not be made, why."""
        addresses_N = indices_N + turns_N.to(indices_N.device) * TURN

        def choose(rows: slice, sizes_N2: Tensor) -> tuple[Tensor, Tensor]:
            return self.crop.draw(sizes_N2, Noise(self.seed, self.epoch, addresses_N[rows]))

        try:
            return self.split.view(indices_N, self.size, choose), {}
        except Unreadable as error:
            if error.crops is None:
                raise
            return error.crops, error.reasons


def as_fetched(fetched: Any) -> Any:
    """The micro-batch itself, where PyTorch's loader would collate one."""
    return fetched

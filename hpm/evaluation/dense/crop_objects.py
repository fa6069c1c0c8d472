"""The objects of a batch of crops, as they come from the processes that load it.

Shape suffixes: N crops, O objects of all crops, H W height and width of the crops in pixels, B bytes of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from curriculum.sizes import Size
from hpm.data import Objects, Split, annotated_views
from hpm.data.prefetch import move
from hpm.data.sources.annotations import boxes_of


class CropObjects(NamedTuple):
    """The objects of crops on their way from a loader process: few tensors, for each is an open file, and small ones.

    Args:
        labels_O: of the objects of all crops, one crop's behind the other's.
        boxes_O4: likewise.
        packed_OHB: their masks, eight pixels of a row a byte.
        crowd_O: likewise.
        counts: how many objects each crop shows.
        width: of the crops in pixels.
    """

    labels_O: Tensor
    boxes_O4: Tensor
    packed_OHB: Tensor
    crowd_O: Tensor
    counts: list[int]
    width: int

    @classmethod
    def of(cls, objects: list[Objects]) -> CropObjects:
        """Those of each crop, with the boxes of what the crop shows."""
        together = Objects(*map(torch.cat, zip(*objects, strict=True)))
        masks_OHW = together.masks_OHW
        packed_OHB = torch.from_numpy(np.packbits(masks_OHW.numpy(), axis=2))
        counts = [len(of_crop.labels_O) for of_crop in objects]
        return cls(together.labels_O, boxes_of(masks_OHW), packed_OHB, together.crowd_O, counts, masks_OHW.shape[2])

    def unpacked(self, device: torch.device) -> list[Objects]:
        """The objects of each crop, on a device."""
        moved = (move(values, device) for values in (self.labels_O, self.boxes_O4, self.packed_OHB, self.crowd_O))
        labels_O, boxes_O4, packed_OHB, crowd_O = moved
        bits_8 = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)
        masks_OHW = (packed_OHB.unsqueeze(3) & bits_8).bool().flatten(2)[:, :, : self.width]
        parts = (values.split(self.counts) for values in (labels_O, boxes_O4, masks_OHW, crowd_O))
        return [Objects(*of_crop) for of_crop in zip(*parts, strict=True)]


def crop_objects(split: Split, size: Size, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor) -> CropObjects:
    """What is annotated in crops, as `annotated_views.objects_in` takes them; with the boxes of what they show."""
    return CropObjects.of(annotated_views.objects_in(split, indices_N, boxes_N4, flips_N, size))

"""Annotations of images as `ImageSource.load` shows them: cropped and resized with the image, never interpolated.

Shape suffixes: N images, O objects of an image, H W stored pixels, S S height and width of what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from curriculum.sizes import Size, pair
from hpm.data.sources.annotations import Objects
from hpm.data.sources.base import ImageSource
from hpm.data.sources.split import Split


def class_maps(source: ImageSource, split: Split, indices_N: Tensor) -> Tensor:
    """The class of every pixel that is shown, int16 [N, S, S], `IGNORED` where none counts: that of the nearest stored.

    Args:
        source: with `pixel_classes`.
        split: one of the source's.
        indices_N: int64 [N], which images.

    Raises:
        UserError: if a class map cannot be read or does not fit its image; it names the file.
    """
    if not len(indices_N):
        return torch.zeros(0, *pair(source.img_size), dtype=torch.int16)
    boxes_N4 = source.evaluation_boxes(split.sizes(indices_N))
    maps = zip(split.class_maps(indices_N), boxes_N4.tolist(), strict=True)
    return torch.stack([_nearest(map_HW, box, source.img_size) for map_HW, box in maps])


def objects(source: ImageSource, split: Split, indices_N: Tensor) -> list[Objects]:
    """The objects that are shown, of each image; masks [O, S, S], boxes in pixels of what is shown.

    An object of which no pixel is shown is left out.

    Args:
        source: with `object_classes`.
        split: one of the source's.
        indices_N: int64 [N], which images.

    Raises:
        UserError: if annotations cannot be read or do not fit their image; it names the file.
    """
    if not len(indices_N):
        return []
    boxes_N4 = source.evaluation_boxes(split.sizes(indices_N))
    found = zip(split.objects(indices_N), boxes_N4.tolist(), strict=True)
    return [_shown(of_image, box, source.img_size) for of_image, box in found]


def _shown(of_image: Objects, box: Sequence[float], size: Size) -> Objects:
    height, width = pair(size)
    left, top, box_width, box_height = box
    masks_OSS = _nearest(of_image.masks_OHW, box, size)
    corner_4, factor_4 = torch.tensor([left, top] * 2), torch.tensor([width / box_width, height / box_height] * 2)
    boxes_O4 = (of_image.boxes_O4 - corner_4) * factor_4
    boxes_O4 = torch.minimum(boxes_O4.clamp(min=0), torch.tensor([width, height] * 2))
    seen_O = masks_OSS.flatten(1).any(dim=1)
    return Objects(of_image.labels_O[seen_O], boxes_O4[seen_O], masks_OSS[seen_O], of_image.crowd_O[seen_O])


def _nearest(map_HW: Tensor, box: Sequence[float], size: Size) -> Tensor:
    """A box of a map [..., H, W], as many pixels as are shown: for each the stored one that its middle lies in."""
    left, top, box_width, box_height = box
    rows, columns = pair(size)
    return map_HW[..., _middles(top, box_height, rows, map_HW.shape[-2]), :][
        ..., _middles(left, box_width, columns, map_HW.shape[-1])
    ]


def _middles(start: float, length: float, count: int, pixels: int) -> Tensor:
    middles = start + (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count)
    return middles.floor().long().clamp(0, pixels - 1)

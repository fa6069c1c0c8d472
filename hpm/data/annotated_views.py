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
    return class_maps_in(split, indices_N, *_shown_part(source, split, indices_N), source.img_size)


def objects(source: ImageSource, split: Split, indices_N: Tensor) -> list[Objects]:
    """The objects that are shown, of each image; masks [O, S, S], boxes in pixels of what is shown.

    An object beyond what is shown is left out. One so small that no shown pixel has its middle on it keeps one pixel,
    that at its box's middle: it is there to be found.

    Args:
        source: with `object_classes`.
        split: one of the source's.
        indices_N: int64 [N], which images.

    Raises:
        UserError: if annotations cannot be read or do not fit their image; it names the file.
    """
    boxes_N4, flips_N = _shown_part(source, split, indices_N)
    return objects_in(split, indices_N, boxes_N4, flips_N, source.img_size, keep_small=True)


def class_maps_in(split: Split, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size) -> Tensor:
    """The class of every pixel of crops, int16 [N, S, S], on the CPU.

    Args:
        split: the images.
        indices_N: int64 [N], which of them, on the CPU like all that follow.
        boxes_N4: float32 [N, 4], (left, top, width, height) in pixels of the stored image, as `Split.crop` takes them.
        flips_N: bool [N], whether the crop is mirrored left to right.
        size: of the crops in pixels, S for squares or (height, width).

    Raises:
        UserError: if a class map cannot be read or does not fit its image; it names the file.
    """
    if not len(indices_N):
        return torch.zeros(0, *pair(size), dtype=torch.int16)
    crops = zip(split.class_maps(indices_N), boxes_N4.tolist(), flips_N.tolist(), strict=True)
    return torch.stack([_nearest(map_HW, box, flip, size) for map_HW, box, flip in crops])


def objects_in(
    split: Split, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size, *, keep_small: bool = False
) -> list[Objects]:
    """The objects of crops, likewise; masks [O, S, S], boxes in pixels of the crop.

    The boxes are the annotated ones, as far as they lie within the crop; what of an object is shown may need less.

    Args:
        split: the images.
        indices_N: as in `class_maps_in`, as the next three.
        boxes_N4: likewise.
        flips_N: likewise.
        size: likewise.
        keep_small: whether an object within the crop of which no pixel is shown keeps one; otherwise it is left out.
            Default False.

    Raises:
        UserError: if annotations cannot be read or do not fit their image; it names the file.
    """
    if not len(indices_N):
        return []
    crops = zip(split.objects(indices_N), boxes_N4.tolist(), flips_N.tolist(), strict=True)
    return [_in_crop(of_image, box, flip, size, keep_small) for of_image, box, flip in crops]


def _shown_part(source: ImageSource, split: Split, indices_N: Tensor) -> tuple[Tensor, Tensor]:
    """The crops that evaluations see."""
    flips_N = torch.zeros(len(indices_N), dtype=torch.bool)
    return (source.evaluation_boxes(split.sizes(indices_N)) if len(indices_N) else torch.zeros(0, 4)), flips_N


def _in_crop(of_image: Objects, box: Sequence[float], flip: bool, size: Size, keep_small: bool) -> Objects:
    height, width = pair(size)
    left, top, box_width, box_height = box
    masks_OSS = _nearest(of_image.masks_OHW, box, flip, size)
    corner_4, factor_4 = torch.tensor([left, top] * 2), torch.tensor([width / box_width, height / box_height] * 2)
    boxes_O4 = (of_image.boxes_O4 - corner_4) * factor_4
    boxes_O4 = torch.minimum(boxes_O4.clamp(min=0), torch.tensor([width, height] * 2))
    if flip:
        boxes_O4 = torch.stack([width - boxes_O4[:, 2], boxes_O4[:, 1], width - boxes_O4[:, 0], boxes_O4[:, 3]], dim=1)
    seen_O = torch.from_numpy(masks_OSS.numpy().any(axis=(1, 2)))
    if keep_small:
        within_O = (boxes_O4[:, 2:] > boxes_O4[:, :2]).all(dim=1) & of_image.masks_OHW.flatten(1).any(dim=1)
        middles_O2 = ((boxes_O4[:, :2] + boxes_O4[:, 2:]) / 2).long()
        for number in torch.where(within_O & ~seen_O)[0].tolist():
            column, row = middles_O2[number].tolist()
            masks_OSS[number, min(row, height - 1), min(column, width - 1)] = True
        seen_O |= within_O
    return Objects(of_image.labels_O[seen_O], boxes_O4[seen_O], masks_OSS[seen_O], of_image.crowd_O[seen_O])


def _nearest(map_HW: Tensor, box: Sequence[float], flip: bool, size: Size) -> Tensor:
    """A crop of a map [..., H, W], as many pixels as are shown: for each the stored one that its middle lies in."""
    left, top, box_width, box_height = box
    height, width = pair(size)
    rows = _middles(top, box_height, height, map_HW.shape[-2])
    columns = _middles(left, box_width, width, map_HW.shape[-1])
    # By NumPy, in a sixteenth of the time of PyTorch's indexing; columns first, for rows are copied whole.
    taken = map_HW.numpy().take((columns.flip(0) if flip else columns).numpy(), axis=-1).take(rows.numpy(), axis=-2)
    return torch.from_numpy(taken)


def _middles(start: float, length: float, count: int, pixels: int) -> Tensor:
    middles = start + (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count)
    return middles.floor().long().clamp(0, pixels - 1)

"""Where the object is, for data that know it.

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpm.data import DigitScenes, ImageSource


def knows_objects(source: ImageSource) -> bool:
    """Whether the data can say which patches hold the object."""
    return isinstance(source, DigitScenes)


def object_map(source: ImageSource, indices_N: Tensor, *, patch_size: int) -> Tensor | None:
    """Which patches of test images, as `load` shows them, hold the object.

    Args:
        source: the data.
        indices_N: int64 [N], images of the test split.
        patch_size: side of a patch in pixels; divides the images'.

    Returns:
        Bool [N, L] in raster order, or None where the data do not know.
    """
    if not isinstance(source, DigitScenes):
        return None
    split = source.test()
    boxes_N4 = source.evaluation_boxes(split.sizes(indices_N))
    flips_N = torch.zeros(len(indices_N), dtype=torch.bool)
    return source.digit_patches(split, indices_N, patch_size=patch_size, boxes_N4=boxes_N4, flips_N=flips_N)

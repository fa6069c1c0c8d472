"""Scenes: images that are drawn, so that the object's pixels are known exactly.

Shape suffixes: N images, L patches, S S height and width in pixels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from curriculum.sizes import Size, divides
from hpm.data.crops import resample
from hpm.data.sources.base import ImageSource
from hpm.data.sources.scene_split import SceneSplit
from hpm.data.sources.split import Split


class Scenes(ImageSource):
    """A data set of scenes, each with an object. Subclasses read `SceneSplit`s, validation scenes among them.

    Attributes:
        min_object_share: the object's share of the pixels of a patch that holds it, at least.
    """

    min_object_share: ClassVar[float]

    @property
    def has_own_validation(self) -> bool:
        return True

    @property
    def knows_objects(self) -> bool:
        return True

    @property
    def object_classes(self) -> tuple[str, ...]:
        return self.class_names

    def object_masks(self, split: Split, indices_N: Tensor) -> Tensor:
        """Which pixels of whole scenes show the object, bool [N, S, S].

        Args:
            split: one of this source's.
            indices_N: int64 [N], the scenes.
        """
        assert isinstance(split, SceneSplit)
        return split.renderer.masks(indices_N)

    def object_map(self, split: Split, indices_N: Tensor, *, patch_size: Size) -> Tensor:
        """Which patches of scenes hold the object, bool [N, L]: where it has `min_object_share` of the pixels.

        Raises:
            ValueError: if `patch_size` does not divide the scenes.
        """
        if not divides(patch_size, self.img_size):
            name = type(self).__name__
            raise ValueError(f"patch_size = {patch_size} does not divide {name}.img_size = {self.img_size}")
        boxes_N4 = self.evaluation_boxes(split.sizes(indices_N))
        flips_N = torch.zeros(len(indices_N), dtype=torch.bool)
        masks_NSS = self.object_masks(split, indices_N)
        size = masks_NSS.shape[1], masks_NSS.shape[2]
        return shares_of(masks_NSS, boxes_N4, flips_N, patch_size, size) >= self.min_object_share


def shares_of(masks_NSS: Tensor, boxes_N4: Tensor, flips_N: Tensor, patch_size: Size, size: Size) -> Tensor:
    """The object's share of the pixels of every patch of crops, float32 [N, L], patches in raster order.

    Args:
        masks_NSS: bool, which pixels of the whole scenes show it.
        boxes_N4: float32, the crops, as in a batch.
        flips_N: bool, whether they are mirrored.
        patch_size: of a patch in pixels.
        size: that the crops are brought to in pixels, a multiple of the patches'.
    """
    masks_N1SS = masks_NSS.unsqueeze(1).to(torch.uint8) * 255
    shown_N1SS = (resample(masks_N1SS, boxes_N4, flips_N, size) >= 127.5).float()
    return torch.nn.functional.avg_pool2d(shown_N1SS, patch_size).flatten(1)

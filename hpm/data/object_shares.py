"""How much of the patches of crops is the object, where the data know it.

Shape suffixes: N images of a batch, K scenes of a split, L patches, S S height and width in pixels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from curriculum import Batch
from curriculum.sizes import Size, pair
from hpm.data.crops import whole_boxes
from hpm.data.sources import scene_split
from hpm.data.sources.base import ImageSource
from hpm.data.sources.scene_split import SceneSplit
from hpm.data.sources.scenes import Scenes, shares_of
from hpm.data.sources.split import Split


class ObjectShares:
    """The object's share of the pixels of each patch, of batches of a split's scenes.

    Args:
        split: the scenes.
        device: where to hold the masks of all scenes, a byte for each pixel, which are drawn now. Default None: those
            of a batch are drawn when it comes, which waits for its device. So are those of more scenes than
            `MEMORY_LIMIT` bytes hold the masks of.
    """

    def __init__(self, split: SceneSplit, device: torch.device | None = None) -> None:
        self._split = split
        self._masks_KSS: Tensor | None = None
        if device is not None and self.bytes_for(len(split), split.scene_size):
            self._masks_KSS = split.object_masks().to(device)

    @staticmethod
    def bytes_for(scenes: int, scene_size: Size) -> int:
        """How much memory the masks take on the device; 0 where they are drawn for each batch."""
        count = scenes * math.prod(pair(scene_size))
        return count if count <= scene_split.MEMORY_LIMIT else 0

    @classmethod
    def of(cls, source: ImageSource, split: Split, device: torch.device | None = None) -> ObjectShares | None:
        """The shares of a source's split; None where the data do not know which pixels are the object."""
        if not isinstance(source, Scenes):
            return None
        assert isinstance(split, SceneSplit)
        return cls(split, device)

    def __call__(self, batch: Batch) -> Tensor:
        """Return float32 [N, L], patches in raster order. The batch must say which scenes it shows."""
        assert batch.indices is not None
        if self._masks_KSS is None:
            masks_NSS = self._split.renderer.masks(batch.indices.cpu()).to(batch.images.device)
        else:
            masks_NSS = self._masks_KSS.index_select(0, batch.indices)
        boxes_N4 = whole_boxes(self._split.sizes(batch.indices)) if batch.boxes is None else batch.boxes
        flips_N = torch.zeros_like(batch.indices, dtype=torch.bool) if batch.flips is None else batch.flips
        size = batch.images.shape[2], batch.images.shape[3]
        return shares_of(masks_NSS, boxes_N4.to(masks_NSS.device), flips_N, batch.patch_size, size)

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectShares:
        """The same, for nothing in it changes: a copied curriculum needs no scenes of its own."""
        return self

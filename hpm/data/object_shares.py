"""How much of the patches of crops is the object, where the data know it.

Shape suffixes: N images of a batch, K scenes of a split, L patches, S side in pixels.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from curriculum import Batch
from hpm.data.crops import whole_boxes
from hpm.data.sources.base import ImageSource
from hpm.data.sources.scene_split import MEMORY_LIMIT, SceneSplit
from hpm.data.sources.scenes import shares_of
from hpm.data.sources.split import Split


class ObjectShares:
    """The object's share of the pixels of each patch, of batches of a split's scenes.

    Args:
        split: the scenes.
        device: where to hold the masks of all scenes, a byte for each pixel, once they were drawn for the first batch.
            Default None: those of a batch are drawn when it comes, which waits for its device. So are those of splits
            whose masks take more than `MEMORY_LIMIT` bytes.
    """

    def __init__(self, split: SceneSplit, device: torch.device | None = None) -> None:
        self._split = split
        self._device = device if len(split) * split.side**2 <= MEMORY_LIMIT else None

    @classmethod
    def of(cls, source: ImageSource, split: Split, device: torch.device | None = None) -> ObjectShares | None:
        """The shares of a source's split; None where the data do not know which pixels are the object."""
        return cls(split, device) if source.knows_objects and isinstance(split, SceneSplit) else None

    def __call__(self, batch: Batch) -> Tensor:
        """Return float32 [N, L], patches in raster order. The batch must say which scenes it shows."""
        assert batch.indices is not None
        if self._device is None:
            masks_NSS = self._split.renderer.masks(batch.indices.cpu()).to(batch.images.device)
        else:
            masks_NSS = self._masks_KSS.index_select(0, batch.indices)
        boxes_N4 = whole_boxes(self._split.sizes(batch.indices)) if batch.boxes is None else batch.boxes
        flips_N = batch.indices < 0 if batch.flips is None else batch.flips
        return shares_of(masks_NSS, boxes_N4.to(masks_NSS.device), flips_N, batch.patch_size)

    @cached_property
    def _masks_KSS(self) -> Tensor:
        return self._split.object_masks().to(self._device)

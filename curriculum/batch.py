"""Batch: what a curriculum may look at when it draws a mask."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from curriculum.sizes import Size, divides, pair


@dataclass(frozen=True)
class Batch:
    """A batch of images and where they come from.

    A difficulty estimator that keeps something per sample (a cache, say) needs to know which sample each image
    is and which part of it was cropped; one that looks at the images alone needs only the first two.

    Args:
        images: float [N, C, H, W], as the model sees them.
        patch_size: of a patch in pixels, the side of a square or (height, width); divides H and W.
        indices: int64 [N], each image's index in its data set. Default None, for images of no data set.
        boxes: float32 [N, 4], the crop as (left, top, width, height) in pixels of the stored image. Default None.
        flips: bool [N], whether the crop was mirrored left to right. Default None.
        masks_per_image: how many rows, one after the other, are the same crop of the same image, to be masked in as
            many ways. Default 1.
    """

    images: Tensor
    patch_size: Size
    indices: Tensor | None = None
    boxes: Tensor | None = None
    flips: Tensor | None = None
    masks_per_image: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if self.images.ndim != 4:
            raise ValueError(f"images must be [N, C, H, W], got shape {tuple(self.images.shape)}")
        height, width = self.images.shape[-2:]
        if not divides(self.patch_size, (height, width)):
            raise ValueError(f"patch_size = {self.patch_size} does not divide the image of {height} x {width} pixels")

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns of patches."""
        height, width = pair(self.patch_size)
        return self.images.shape[-2] // height, self.images.shape[-1] // width

    @property
    def num_patches(self) -> int:
        """L, the number of patches of an image."""
        return self.grid[0] * self.grid[1]

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the same batch on another device."""

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=non_blocking)

        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            indices=move(self.indices),
            boxes=move(self.boxes),
            flips=move(self.flips),
        )

"""Anchors of a feature pyramid, and the features of regions of it, whatever the strides.

torchvision's own round strides to whole pixels, scales to powers of two, and pool half a cell aside.

Shape suffixes: N images, R regions, A anchors, C channels, H W height and width of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

Stride = tuple[float, float]
"""Pixels of the image between two cells of a map: down and across."""

_MIDDLE = 2  # the level whose stride is the encoder's own
_CANONICAL = 14  # of its strides along a region of that level: 224 pixels at a stride of 16 (Lin et al. 2017, eq. 1)


class Anchors(AnchorGenerator):
    """Boxes at the corner of every cell of every level, of one size and several ratios.

    Args:
        strides: of the levels.
        scale: side of a level's anchors relative to its stride, the geometric mean of both.
        ratios: height over width.
    """

    def __init__(self, strides: Sequence[Stride], *, scale: float, ratios: Sequence[float]) -> None:
        sizes = tuple((scale * math.sqrt(down * across),) for down, across in strides)
        super().__init__(sizes, (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Float32 [A, 4] for each image, (left, top, right, bottom) in pixels."""
        levels = []
        for maps, (down, across), base_A4 in zip(feature_maps, self.strides, self.cell_anchors, strict=True):
            y_H = torch.arange(maps.shape[-2], device=maps.device) * down
            x_W = torch.arange(maps.shape[-1], device=maps.device) * across
            y_HW, x_HW = torch.meshgrid(y_H, x_W, indexing="ij")
            shifts = torch.stack([x_HW, y_HW, x_HW, y_HW], dim=-1).view(-1, 1, 4)
            levels.append((shifts + base_A4.to(maps)).view(-1, 4))
        return [torch.cat(levels)] * len(image_list.image_sizes)


class RegionPool(nn.Module):
    """Features of regions, each from the level of its size, aligned to the pixel (detectron2's ROIAlignV2).

    Args:
        strides: of the levels that are pooled from, by their names, the finest first.
        output_size: rows and columns that a region is made of.
    """

    def __init__(self, strides: dict[str, Stride], *, output_size: int) -> None:
        super().__init__()
        self.strides = strides
        self.output_size = (output_size, output_size)

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_shapes: object) -> Tensor:
        """[R, C, rows, columns], the regions of all images one after the other.

        Args:
            maps: [N, C, H, W], by the levels' names.
            boxes: of each image, float [regions, 4] in pixels.
            image_shapes: what torchvision gives beside; the strides say it all.
        """
        boxes_R4 = torch.cat(boxes)
        image_R1 = torch.cat([one.new_full((len(one), 1), number) for number, one in enumerate(boxes)])
        down, across = list(self.strides.values())[_MIDDLE]
        side_R = ((boxes_R4[:, 2:] - boxes_R4[:, :2]) / boxes_R4.new_tensor([across, down])).prod(dim=1).sqrt()
        level_R = (_MIDDLE + (side_R / _CANONICAL + 1e-8).log2()).floor().clamp(0, len(self.strides) - 1)
        first = next(iter(maps.values()))
        pooled = first.new_zeros(len(boxes_R4), first.shape[1], *self.output_size)
        for level, (name, (down, across)) in enumerate(self.strides.items()):
            (rows,) = torch.where(level_R == level)
            # Scaled here, for the rows' stride may be another than the columns'.
            scaled_R4 = boxes_R4[rows] / boxes_R4.new_tensor([across, down, across, down])
            regions = torch.cat([image_R1[rows], scaled_R4], dim=1).to(first.dtype)
            own = roi_align(maps[name], regions, self.output_size, spatial_scale=1.0, sampling_ratio=2, aligned=True)
            pooled[rows] = own
        return pooled

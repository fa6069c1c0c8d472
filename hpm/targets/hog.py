"""HOG: histograms of oriented gradients.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, P values of a patch, B orientations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from curriculum import Mask, Teacher
from curriculum.sizes import Size, divides, pair, spell_size
from curriculum.validation import require_at_least, require_in
from hpm.models.base import MaskedModel
from hpm.models.patches import patchify
from hpm.targets.base import Target

_EPSILON = 1e-5  # of the norm, as scikit-image's


class HOG(Target):
    """Histograms of oriented gradients, MaskFeat's target (Wei et al. 2022, arXiv 2112.09133).

    Gradients are central differences, 0 across the image's border. In each cell and channel the gradients' lengths
    are summed by orientation, without regard to sign and without interpolation, and each cell's histogram is divided
    by its length (block normalization over one cell, as in MaskFeat). A patch's target are the histograms of its
    cells and channels, B * C values for each cell of the patch: 108 for 16 pixels and color. The loss is the mean
    squared error.

    Args:
        cell: side of a cell in pixels; divides the patch's height and width.
        orientations: B, bins of 180 degrees.
    """

    def __init__(self, *, cell: int = 8, orientations: int = 9) -> None:
        require_at_least("HOG", 2, cell=cell)
        require_in("HOG", "[2, 360]", orientations=orientations)
        self.cell = cell
        self.orientations = orientations

    def outputs(self, model: MaskedModel) -> int:
        if not divides(self.cell, model.patch_size):
            size = spell_size(model.patch_size)
            raise ValueError(f"HOG.cell = {self.cell} does not divide the model's patches of {size} pixels")
        return math.prod(self._cells(model.patch_size)) * self.orientations * model.in_chans

    def _cells(self, patch_size: Size) -> tuple[int, int]:
        """Rows and columns of cells in a patch."""
        height, width = pair(patch_size)
        return height // self.cell, width // self.cell

    @torch.no_grad()
    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: Teacher | None = None) -> Tensor:
        return mask.gather_masked(patchify(self.histograms(images_NCHW), self._cells(patch_size)))

    def histograms(self, images_NCHW: Tensor) -> Tensor:
        """Float32 or better [N, B * C, H / cell, W / cell], the orientations of one channel after the other."""
        images = images_NCHW.to(torch.promote_types(images_NCHW.dtype, torch.float32))
        across, down = torch.zeros_like(images), torch.zeros_like(images)
        across[..., 1:-1] = images[..., 2:] - images[..., :-2]
        down[..., 1:-1, :] = images[..., 2:, :] - images[..., :-2, :]
        angle = torch.atan2(down, across) / math.pi * self.orientations
        # A tiny negative angle is one of just below 180 degrees, and rounds to it: the last bin, not one beyond.
        bin_NCHW = angle.remainder(self.orientations).long().clamp(max=self.orientations - 1)
        n, c, h, w = images.shape
        votes = torch.zeros(n, c, self.orientations, h, w, dtype=images.dtype, device=images.device)
        votes.scatter_(2, bin_NCHW.unsqueeze(2), torch.hypot(across, down).unsqueeze(2))
        cells = F.avg_pool2d(votes.flatten(1, 2), self.cell).unflatten(1, (c, self.orientations))
        return (cells / (cells.square().sum(dim=2, keepdim=True) + _EPSILON**2).sqrt()).flatten(1, 2)

"""Images as sequences of patches, and where each patch is.

Shape suffixes: N images, C channels, H and W pixels, L patches, P pixels of a patch (patch_size^2 * C), D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def patchify(images_NCHW: Tensor, patch_size: int) -> Tensor:
    """[N, C, H, W] -> [N, L, P]; patches in raster order, the pixels of one by row, column and channel (MAE)."""
    n, c, h, w = images_NCHW.shape
    rows, columns = h // patch_size, w // patch_size
    patches = images_NCHW.reshape(n, c, rows, patch_size, columns, patch_size).permute(0, 2, 4, 3, 5, 1)
    return patches.reshape(n, rows * columns, patch_size * patch_size * c)


def unpatchify(patches_NLP: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """[N, L, P] -> [N, C, H, W], the inverse of `patchify`; `grid` is rows and columns of patches."""
    n, (rows, columns) = patches_NLP.shape[0], grid
    patches = patches_NLP.reshape(n, rows, columns, patch_size, patch_size, -1).permute(0, 5, 1, 3, 2, 4)
    return patches.reshape(n, -1, rows * patch_size, columns * patch_size)


def sincos_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """Fixed 2-D sin-cos position embeddings, float32 [1 + L, width]; a zero row for the class token first.

    MAE's layout: the first half of the channels encodes the column, the second the row; in each half the sines
    come before the cosines, at frequencies 10000^(-4i / width).

    Raises:
        ValueError: if the width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"sin-cos positions need a width that is a multiple of 4, got {width}")
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row_L, column_L = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64), torch.arange(grid[1], dtype=torch.float64), indexing="ij"
    )
    angles = [axis_L.reshape(-1, 1) * frequency for axis_L in (column_L, row_L)]
    positions_LD = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([positions_LD.new_zeros(1, width), positions_LD]).float()

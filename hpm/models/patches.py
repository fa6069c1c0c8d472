"""Images as sequences of patches, and where each patch is.

Shape suffixes: N images, C channels, H and W pixels, L patches, P pixels of a patch (height * width * C), D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from curriculum.sizes import Size, pair


def patchify(images_NCHW: Tensor, patch_size: Size) -> Tensor:
    """[N, C, H, W] -> [N, L, P]; patches in raster order, the pixels of one by row, column and channel (MAE)."""
    n, c, h, w = images_NCHW.shape
    height, width = pair(patch_size)
    rows, columns = h // height, w // width
    patches = images_NCHW.reshape(n, c, rows, height, columns, width).permute(0, 2, 4, 3, 5, 1)
    return patches.reshape(n, rows * columns, height * width * c)


def unpatchify(patches_NLP: Tensor, patch_size: Size, grid: tuple[int, int]) -> Tensor:
    """[N, L, P] -> [N, C, H, W], the inverse of `patchify`; `grid` is rows and columns of patches."""
    n, (rows, columns), (height, width) = patches_NLP.shape[0], grid, pair(patch_size)
    patches = patches_NLP.reshape(n, rows, columns, height, width, -1).permute(0, 5, 1, 3, 2, 4)
    return patches.reshape(n, -1, rows * height, columns * width)


def sincos_positions(width: int, grid: tuple[int, int], *, num_prefix_tokens: int = 1) -> Tensor:
    """Fixed 2-D sin-cos position embeddings, float32 [prefix + L, width]; zero rows for the class tokens first.

    MAE's layout: the first half of the channels encodes the column, the second the row; in each half the sines
    come before the cosines, at frequencies 10000^(-4i / width).

    Args:
        width: of the tokens.
        grid: rows and columns of patches.
        num_prefix_tokens: tokens before those of the patches. Default 1, a class token.

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
    return torch.cat([positions_LD.new_zeros(num_prefix_tokens, width), positions_LD]).float()


def patch_grid(images_NCHW: Tensor, patch_size: Size) -> tuple[int, int]:
    """Rows and columns of patches of images."""
    (height, width), (rows, columns) = pair(patch_size), images_NCHW.shape[-2:]
    return rows // height, columns // width


def first_positions(
    positions_1TD: Tensor, grid: tuple[int, int], theirs: tuple[int, int], *, num_prefix_tokens: int = 1
) -> Tensor:
    """Sin-cos positions [1, prefix + L, D] of a grid that is no larger than theirs: of as many first rows and columns.

    A patch's position is the number of its row and of its column, so that this is what `sincos_positions` computes.

    Args:
        positions_1TD: those of the prefix tokens first, which stay.
        grid: rows and columns that are wanted.
        theirs: rows and columns that they are of.
        num_prefix_tokens: tokens before those of the patches.
    """
    if grid == theirs:
        return positions_1TD
    prefix, patches = positions_1TD.split([num_prefix_tokens, theirs[0] * theirs[1]], dim=1)
    patches = patches.unflatten(1, theirs)[:, : grid[0], : grid[1]]
    return torch.cat([prefix, patches.flatten(1, 2)], dim=1)


def resample_positions(
    positions_1TD: Tensor, grid: tuple[int, int], theirs: tuple[int, int], *, num_prefix_tokens: int = 1
) -> Tensor:
    """Positions [1, prefix + L, D] on another grid, as timm's `resample_abs_pos_embed` interpolates them.

    timm's leaves those of another grid of as many patches as they are where the new one is square.

    Args:
        positions_1TD: those of the prefix tokens first, which stay.
        grid: rows and columns that are wanted.
        theirs: rows and columns that they are of.
        num_prefix_tokens: tokens before those of the patches.
    """
    prefix, patches = positions_1TD.split([num_prefix_tokens, theirs[0] * theirs[1]], dim=1)
    map_1DRK = patches.float().reshape(1, *theirs, -1).permute(0, 3, 1, 2)
    map_1DRK = F.interpolate(map_1DRK, grid, mode="bicubic", antialias=True)
    resampled = map_1DRK.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1).to(positions_1TD.dtype)
    return torch.cat([prefix, resampled], dim=1)

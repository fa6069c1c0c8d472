"""A sampler that leaves one rectangle visible.

Shape suffixes: N images, R rows and K columns of patches, L = R K patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curriculum.keys import random_keys
from curriculum.noise import Noise
from curriculum.samplers.base import Sampler
from curriculum.samplers.windows import whole_ranks, window_sums
from curriculum.streams import Stream
from curriculum.validation import require_in


class InverseBlock(Sampler):
    """Leaves one block visible and masks all else: CAPI (arXiv 2502.08769).

    The block's aspect ratio is log-uniform, as far as the grid has room for its V patches; its sides are rounded up and
    its last row is filled from the left, so that exactly V are visible. It may reach over an edge of the grid and go on
    at the opposite one, so that every patch is visible equally often. A share alpha of the blocks lies where patches
    are easiest (the sum of their ranks), the others anywhere, as all of CAPI's do.

    Args:
        min_aspect: the smallest aspect ratio, height over width; the largest is its inverse. Default 0.5.
    """

    def __init__(self, *, min_aspect: float = 0.5) -> None:
        require_in("InverseBlock", "(0, 1]", min_aspect=min_aspect)
        self.min_aspect = float(min_aspect)

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return alpha > 0

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        visible_NRK = self.visible(scores_NL, alpha=alpha, num_masked=num_masked, grid=grid, noise=noise)
        return random_keys(noise.bits(grid[0] * grid[1])) | (~visible_NRK).flatten(1).long() << 62

    def visible(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        """Return bool [N, R, K], True at the L - M patches of each image's block."""
        (rows, columns), device = grid, noise.rows_N.device
        count = rows * columns - num_masked
        uniform_N4 = noise.fold(Stream.INVERSE_BLOCK).uniform(4).double()
        width_N = self._width(uniform_N4[:, 0], count, grid)
        top_N, left_N = (uniform_N4[:, 1] * rows).long(), (uniform_N4[:, 2] * columns).long()
        rank_NRK = whole_ranks(scores_NL, grid, noise)
        if rank_NRK is not None:
            easiest_N = _sums(rank_NRK, count, width_N).flatten(1).argmin(dim=1)
            follows_N = uniform_N4[:, 3] < alpha
            top_N = torch.where(follows_N, easiest_N // columns, top_N)
            left_N = torch.where(follows_N, easiest_N % columns, left_N)
        down_NR1 = ((torch.arange(rows, device=device) - top_N.unsqueeze(1)) % rows).unsqueeze(2)
        right_N1K = ((torch.arange(columns, device=device) - left_N.unsqueeze(1)) % columns).unsqueeze(1)
        width_N11 = width_N.view(-1, 1, 1)
        return (right_N1K < width_N11) & (down_NR1 * width_N11 + right_N1K < count)

    def _width(self, uniform_N: Tensor, count: int, grid: tuple[int, int]) -> Tensor:
        """Return the width of blocks of `count` patches, int64 [N].

        In float64, so that no device's rounding of a root moves a block by a patch.
        """
        rows, columns = grid
        high = min(-math.log(self.min_aspect), math.log(rows**2 / count))
        low = min(max(math.log(self.min_aspect), math.log(count / columns**2)), high)
        aspect_N = (low + (high - low) * uniform_N).exp()
        # A root that comes out a rounding error above a whole number must not be rounded up.
        return ((count / aspect_N).sqrt() - 1e-9).ceil().long().clamp(max=columns)


def _sums(rank_NRK: Tensor, count: int, width_N: Tensor) -> Tensor:
    """Return the sum of ranks in the block that has each patch as its upper left corner, float64 [N, R, K]."""
    rows, columns = rank_NRK.shape[1:]
    around_NRK = rank_NRK.repeat(1, 2, 2)  # so that blocks may reach over an edge
    full_N, rest_N = count // width_N, count % width_N
    whole_NRK = window_sums(around_NRK, full_N, width_N)[:, :rows, :columns]
    last_NRK = window_sums(around_NRK, (rest_N > 0).long(), rest_N)[:, :, :columns]
    row_NR = torch.arange(rows, device=rank_NRK.device) + full_N.unsqueeze(1)
    return whole_NRK + last_NRK.gather(1, row_NR.clamp(max=2 * rows - 1).unsqueeze(2).expand(-1, -1, columns))

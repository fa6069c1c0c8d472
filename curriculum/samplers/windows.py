"""Rectangles on the grid of patches, one for each image: sums over them, the patches in them, where they lie.

Shape suffixes: N images, R rows and K columns of patches, L = R K patches.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from curriculum.keys import ranks
from curriculum.noise import Noise
from curriculum.streams import Stream


@cache
def _windows(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return all windows along one side of the grid.

    Returns:
        Float64 [size, start, patch], 1 inside the window of that size and start, sizes and starts 0 to `length`; and
        float64 [size, start], 0 where it fits and -inf where not.
    """
    size, start, patch = (torch.arange(count, device=device) for count in (length + 1, length + 1, length))
    end = start + size.unsqueeze(1)
    inside = (patch >= start.view(1, -1, 1)) & (patch < end.unsqueeze(2))
    return inside.double(), torch.zeros_like(end, dtype=torch.float64).masked_fill(end > length, -math.inf)


def window_sums(values_NRK: Tensor, height_N: Tensor, width_N: Tensor) -> Tensor:
    """Return, for each patch, the sum over the window that has it as its upper left corner, float64 [N, R, K].

    Each image has a window of its own height and width, int64 [N] in patches. Where the window does not fit, the sum
    is -inf. Sums of integers are exact.
    """
    (rows, columns), device = values_NRK.shape[1:], values_NRK.device
    (inside_rows, row_fits), (inside_columns, column_fits) = _windows(rows, device), _windows(columns, device)
    sums_NRK = inside_rows[height_N, :-1] @ values_NRK.double() @ inside_columns[width_N, :-1].mT
    return sums_NRK.add_(row_fits[height_N, :-1, None]).add_(column_fits[width_N, None, :-1])


def rectangles(grid: tuple[int, int], top_N: Tensor, left_N: Tensor, height_N: Tensor, width_N: Tensor) -> Tensor:
    """Return float64 [N, R, K], 1 inside each image's rectangle and 0 elsewhere."""
    inside_rows, inside_columns = (_windows(length, top_N.device)[0] for length in grid)
    return inside_rows[height_N, top_N].unsqueeze(2) * inside_columns[width_N, left_N].unsqueeze(1)


def place(
    scores_NRK: Tensor | None,
    grid: tuple[int, int],
    height_N: Tensor,
    width_N: Tensor,
    uniform_N3: Tensor,
    alpha: float,
    *,
    last: bool = True,
) -> tuple[Tensor, Tensor]:
    """Place each image's window: with probability alpha over the hardest patches, else anywhere that it fits.

    Args:
        scores_NRK: at least 0; None for no difficulty.
        grid: rows and columns of patches.
        height_N: int64, in patches.
        width_N: int64, in patches.
        uniform_N3: in [0, 1).
        alpha: in [0, 1].
        last: whether a window may lie at the lower or the right border by chance. Default True.

    Returns:
        Top and left, int64 [N].
    """
    top_N = (uniform_N3[:, 0] * (grid[0] + last - height_N)).long()
    left_N = (uniform_N3[:, 1] * (grid[1] + last - width_N)).long()
    if scores_NRK is None:
        return top_N, left_N
    best_N = window_sums(scores_NRK, height_N, width_N).flatten(1).argmax(dim=1)
    follows_N = uniform_N3[:, 2] < alpha
    return torch.where(follows_N, best_N // grid[1], top_N), torch.where(follows_N, best_N % grid[1], left_N)


def whole_ranks(scores_NL: Tensor | None, grid: tuple[int, int], noise: Noise) -> Tensor | None:
    """Return scores as ranks from 0 to 2^24, float64 [N, R, K]; a patch that is not scored has a random rank.

    They are integers, which add up exactly, so that sums of windows are the same on every device.
    """
    if scores_NL is None:
        return None
    rank_NL = ranks(scores_NL, noise.bits(scores_NL.shape[1]))
    rank_NL = torch.where(rank_NL.isnan(), noise.fold(Stream.BLOCKS_UNSCORED).uniform(rank_NL.shape[1]), rank_NL)
    return (rank_NL * 2**24).floor().double().view(-1, *grid)

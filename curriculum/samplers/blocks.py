"""Samplers that mask rectangles of patches.

All images go through the same fixed number of attempts, as tensors; nothing loops over images or waits for the device.

Shape suffixes: N images, R rows and K columns of patches, L = R K patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curriculum.keys import random_keys, ranks
from curriculum.noise import Noise, hash_words
from curriculum.samplers.base import Sampler
from curriculum.streams import Stream
from curriculum.validation import require_at_least, require_in

_TRIES = 10  # of one block, before BEiT gives up


def window_sums(values_NRK: Tensor, height_N: Tensor, width_N: Tensor) -> Tensor:
    """Return, for each patch, the sum over the window that has it as its upper left corner, [N, R, K].

    Each image has a window of its own height and width, int64 [N] in patches. Where the window does not fit, the sum
    is -inf, or the smallest integer.
    """
    n, rows, columns = values_NRK.shape
    integral = values_NRK.new_zeros(n, rows + 1, columns + 1)
    integral[:, 1:, 1:] = values_NRK.cumsum(1).cumsum(2)
    top_R = torch.arange(rows, device=values_NRK.device).view(1, -1, 1)
    left_K = torch.arange(columns, device=values_NRK.device).view(1, 1, -1)
    bottom_NRK, right_NRK = top_R + height_N.view(-1, 1, 1), left_K + width_N.view(-1, 1, 1)
    fits_NRK = (bottom_NRK <= rows) & (right_NRK <= columns)
    flat = integral.flatten(1)

    def corner(row: Tensor, column: Tensor) -> Tensor:
        index = row.clamp(max=rows) * (columns + 1) + column.clamp(max=columns)
        return flat.gather(1, index.expand(n, rows, columns).flatten(1)).view(n, rows, columns)

    sums = corner(bottom_NRK, right_NRK) - corner(top_R, right_NRK) - corner(bottom_NRK, left_K) + corner(top_R, left_K)
    least = -math.inf if sums.is_floating_point() else torch.iinfo(sums.dtype).min
    return sums.masked_fill(~fits_NRK, least)


def rectangles(grid: tuple[int, int], top_N: Tensor, left_N: Tensor, height_N: Tensor, width_N: Tensor) -> Tensor:
    """Return bool [N, R, K], True inside each image's rectangle."""
    row_R = torch.arange(grid[0], device=top_N.device).view(1, -1, 1)
    column_K = torch.arange(grid[1], device=top_N.device).view(1, 1, -1)
    top, left, height, width = (x.view(-1, 1, 1) for x in (top_N, left_N, height_N, width_N))
    return (row_R >= top) & (row_R < top + height) & (column_K >= left) & (column_K < left + width)


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
    rows_N, columns_N = (length - side_N + last for length, side_N in zip(grid, (height_N, width_N), strict=True))
    top_N, left_N = (uniform_N3[:, 0] * rows_N).long(), (uniform_N3[:, 1] * columns_N).long()
    if scores_NRK is None:
        return top_N, left_N
    best_N = window_sums(scores_NRK, height_N, width_N).flatten(1).argmax(dim=1)
    follows_N = uniform_N3[:, 2] < alpha
    return torch.where(follows_N, best_N // grid[1], top_N), torch.where(follows_N, best_N % grid[1], left_N)


def _scores(scores_NL: Tensor | None, grid: tuple[int, int], noise: Noise) -> Tensor | None:
    """Return the scores as ranks from 0 to 2^24, int64 [N, R, K]; a patch that is not scored has a random rank.

    Integers add up exactly, so that sums of windows are the same on every device, and deterministic on CUDA.
    """
    if scores_NL is None:
        return None
    rank_NL = ranks(scores_NL, noise.bits(scores_NL.shape[1]))
    rank_NL = torch.where(rank_NL.isnan(), noise.fold(Stream.BLOCKS_UNSCORED).uniform(rank_NL.shape[1]), rank_NL)
    return (rank_NL * 2**24).long().view(-1, *grid)


class Blockwise(Sampler):
    """Masks blocks until enough patches are masked: BEiT (arXiv 2106.08254).

    A block's area is uniform between `min_patches` and what is left to mask, its aspect ratio log-uniform; one that
    would not fit, mask nothing new or too much is drawn again, up to ten times. BEiT, whose ratio is 0.4, may then
    stop short of the count; here the rest is drawn at random, so that every image masks M. A share alpha of the blocks
    is put where the patches that are not masked yet are hardest (the sum of their ranks), the others anywhere.

    Args:
        min_patches: the smallest area of a block, in patches. Default 16, published for 196 patches.
        min_aspect: the smallest aspect ratio; the largest is its inverse. Default 0.3.
        attempts: how many blocks are drawn, refused ones included; the same for every image. Default 60.
    """

    def __init__(self, *, min_patches: int = 16, min_aspect: float = 0.3, attempts: int = 60) -> None:
        require_at_least("Blockwise", 1, min_patches=min_patches, attempts=attempts)
        require_in("Blockwise", "(0, 1]", min_aspect=min_aspect)
        self.min_patches = min_patches
        self.min_aspect = float(min_aspect)
        self.attempts = attempts

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return alpha > 0

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        masked_NL = self.blocks(scores_NL, alpha=alpha, num_masked=num_masked, grid=grid, noise=noise).flatten(1)
        return random_keys(noise.bits(grid[0] * grid[1])) | masked_NL.long() << 62

    def blocks(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        """Return bool [N, R, K], True at the at most M patches that BEiT's rule masks."""
        scores_NRK = _scores(scores_NL, grid, noise)
        chance = noise.fold(Stream.BLOCKWISE_ATTEMPTS)
        uniform_NA5 = chance.uniform(self.attempts * 5).view(-1, self.attempts, 5)
        n, device = len(noise.rows_N), noise.rows_N.device
        masked_NRK = torch.zeros(n, *grid, dtype=torch.bool, device=device)
        count_N = torch.zeros(n, dtype=torch.int64, device=device)
        tries_N = torch.zeros_like(count_N)
        for attempt in range(self.attempts):
            uniform_N5 = uniform_NA5[:, attempt]
            left_over_N = num_masked - count_N
            height_N, width_N = self._shapes(left_over_N, uniform_N5[:, :2])
            fits_N = (height_N < grid[0]) & (width_N < grid[1]) & (height_N > 0) & (width_N > 0)
            height_N, width_N = height_N.clamp(1, grid[0]), width_N.clamp(1, grid[1])
            wanted_NRK = None if scores_NRK is None else scores_NRK.masked_fill(masked_NRK, 0)
            top_N, left_N = place(wanted_NRK, grid, height_N, width_N, uniform_N5[:, 2:], alpha)
            new_NRK = rectangles(grid, top_N, left_N, height_N, width_N) & ~masked_NRK
            gain_N = new_NRK.sum(dim=(1, 2))
            takes_N = fits_N & (gain_N > 0) & (gain_N <= left_over_N) & (tries_N < _TRIES)
            masked_NRK |= new_NRK & takes_N.view(-1, 1, 1)
            count_N += gain_N * takes_N
            # Ten refusals in a row end it for good.
            tries_N = torch.where(takes_N, 0, tries_N + 1)
        return masked_NRK

    def _shapes(self, left_over_N: Tensor, uniform_N2: Tensor) -> tuple[Tensor, Tensor]:
        """Return height and width in patches, int64 [N] each, as BEiT rounds them."""
        # In float64, so that no device's rounding of a root or an exponential moves a block by a patch.
        uniform_N2 = uniform_N2.double()
        area_N = self.min_patches + uniform_N2[:, 0] * (left_over_N - self.min_patches)
        log_aspect_N = math.log(self.min_aspect) * (1 - 2 * uniform_N2[:, 1])
        root_N = (log_aspect_N / 2).exp()
        side_N = area_N.clamp(min=0).sqrt()
        return (side_N * root_N).round().long(), (side_N / root_N).round().long()


class MultiBlock(Sampler):
    """Masks a few large target blocks and what lies outside one context block: I-JEPA (arXiv 2301.08243).

    Patches of the target blocks are masked first, then those outside the context block, then those of the context at
    random, so that every image masks M; of too many target patches random ones stay visible. A share alpha of the
    target blocks is put where the patches are hardest.

    As in the published code, sizes are drawn for a whole step and places for each image; one random number decides
    both scale and aspect ratio of the targets; no block is as long or as wide as the image, and none lies at the lower
    or the right border. So a context block of 14 x 14 patches always is the upper left 13 x 13. I-JEPA does not mask M
    patches: what is neither target nor context is not predicted there, and the encoder sees all of the context that no
    target covers, in as many patches as the batch's smallest has.

    Args:
        targets: how many target blocks. Default 4.
        scale: smallest and largest area of a target block, relative to the image. Default (0.15, 0.2).
        aspect: smallest and largest aspect ratio of a target block. Default (0.75, 1.5).
        context_scale: smallest and largest area of the square context block, relative to the image. Default (0.85, 1).
    """

    def __init__(
        self,
        *,
        targets: int = 4,
        scale: tuple[float, float] = (0.15, 0.2),
        aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
    ) -> None:
        require_at_least("MultiBlock", 1, targets=targets)
        for name, (low, high), top in (
            ("scale", scale, 1.0),
            ("aspect", aspect, math.inf),
            ("context_scale", context_scale, 1.0),
        ):
            if not 0 < low <= high <= top:
                raise ValueError(f"MultiBlock.{name} = {(low, high)} must be two numbers in (0, {top}], ascending")
        self.targets = targets
        self.scale = scale
        self.aspect = aspect
        self.context_scale = context_scale

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return alpha > 0

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        target_NRK, context_NRK = self.blocks(scores_NL, alpha=alpha, grid=grid, noise=noise)
        level_NL = (target_NRK.long() * 2 + (~context_NRK & ~target_NRK).long()).flatten(1)
        return (random_keys(noise.bits(grid[0] * grid[1])) >> 2) + (level_NL << 60)

    def blocks(
        self, scores_NL: Tensor | None, *, alpha: float, grid: tuple[int, int], noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Return two tensors, bool [N, R, K]: the union of the target blocks, and the context block with them in it."""
        scores_NRK = _scores(scores_NL, grid, noise)
        places = noise.fold(Stream.MULTI_BLOCK_PLACES)
        uniform_NA3 = places.uniform((self.targets + 1) * 3).view(-1, self.targets + 1, 3)
        size = [hash_words(noise.seed, Stream.MULTI_BLOCK_SIZES, noise.step, kind) / 2**64 for kind in range(2)]
        height_N, width_N = self._shape(grid, self.scale, self.aspect, size[0], noise)
        target_NRK = torch.zeros(len(noise.rows_N), *grid, dtype=torch.bool, device=noise.rows_N.device)
        for block in range(self.targets):
            wanted_NRK = None if scores_NRK is None else scores_NRK.masked_fill(target_NRK, 0)
            top_N, left_N = place(wanted_NRK, grid, height_N, width_N, uniform_NA3[:, block], alpha, last=False)
            target_NRK = target_NRK | rectangles(grid, top_N, left_N, height_N, width_N)
        height_N, width_N = self._shape(grid, self.context_scale, (1.0, 1.0), size[1], noise)
        top_N, left_N = place(None, grid, height_N, width_N, uniform_NA3[:, -1], 0.0, last=False)
        return target_NRK, rectangles(grid, top_N, left_N, height_N, width_N)

    def _shape(
        self,
        grid: tuple[int, int],
        scale: tuple[float, float],
        aspect: tuple[float, float],
        uniform: float,
        noise: Noise,
    ) -> tuple[Tensor, Tensor]:
        """Return height and width in patches, int64 [N] each, the same for every image."""
        area = int(grid[0] * grid[1] * (scale[0] + uniform * (scale[1] - scale[0])))
        ratio = aspect[0] + uniform * (aspect[1] - aspect[0])
        sides = (round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio)))
        height, width = (max(1, min(side, length - 1)) for side, length in zip(sides, grid, strict=True))
        return torch.full_like(noise.rows_N, height), torch.full_like(noise.rows_N, width)

"""Samplers that mask rectangles of patches.

All images go through the same fixed number of attempts, as tensors; nothing loops over images or waits for the device.

Shape suffixes: N images, R rows and K columns of patches, L = R K patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curriculum.keys import random_keys
from curriculum.noise import Noise, hash_words
from curriculum.samplers.base import Sampler
from curriculum.samplers.windows import place, rectangles, whole_ranks
from curriculum.streams import Stream
from curriculum.validation import require_at_least, require_in

_TRIES = 10  # of one block, before BEiT gives up
_PUBLISHED_MIN_SHARE = 16 / 196  # of the image that BEiT's smallest block takes


class Blockwise(Sampler):
    """Masks blocks until enough patches are masked: BEiT (arXiv 2106.08254).

    A block's area is uniform between `min_patches` and what is left to mask, its aspect ratio log-uniform; one that
    would not fit, mask nothing new or too much is drawn again, up to ten times. BEiT, whose ratio is 0.4, may then
    stop short of the count; here the rest is drawn at random, so that every image masks M. A share alpha of the blocks
    is put where the patches that are not masked yet are hardest (the sum of their ranks), the others anywhere.

    Args:
        min_patches: the smallest area of a block, in patches. Default None, the same share of the image as 16 of 196
            patches, as published, rounded, at least 1 and at most M: 5 of 64.
        max_patches: the largest area of a block, and the most that it masks anew. Default None, no other limit than
            what is left to mask; BootMAE (arXiv 2207.07116): 60 of 196.
        share: of the M masked patches, `int(M * share)` are in blocks, the others anywhere. Default 1; BootMAE: 120 of
            147.
        min_aspect: the smallest aspect ratio; the largest is its inverse. Default 0.3.
        attempts: how many blocks are drawn, refused ones included; the same for every image. Default 30: what more
            would mask is 0.001 M for 147 of 196 patches, 0.01 M for more of them or larger grids.
    """

    def __init__(
        self,
        *,
        min_patches: int | None = None,
        max_patches: int | None = None,
        share: float = 1.0,
        min_aspect: float = 0.3,
        attempts: int = 30,
    ) -> None:
        require_at_least("Blockwise", 1, min_patches=min_patches, max_patches=max_patches)
        require_in("Blockwise", "[1, 10000]", attempts=attempts)
        require_in("Blockwise", "(0, 1]", min_aspect=min_aspect, share=share)
        self.min_patches = min_patches
        self.max_patches = max_patches
        self.share = float(share)
        self.min_aspect = float(min_aspect)
        self.attempts = attempts

    def check(self, num_patches: int, num_masked: int) -> None:
        """Refuse a smallest block that is larger than the mask, or as large as no block can be.

        Where the grid is not known, it is one that has room for the largest blocks: a square.
        """
        if self.min_patches is not None:
            side = math.sqrt(num_patches)
            self._check(side, side, num_masked, f"{num_patches} patches")

    def check_grid(self, grid: tuple[int, int], num_masked: int) -> None:
        """Refuse a smallest block that is larger than the mask, or has no room on this grid: all would be random."""
        self._check(*grid, num_masked, f"{grid[0]} x {grid[1]} patches")

    def _check(self, rows: float, columns: float, num_masked: int, spelled: str) -> None:
        in_blocks = self._count(num_masked)
        if in_blocks < 1:
            raise ValueError(
                f"Blockwise.share = {self.share} of {num_masked} masked patches is none; raise it, or set "
                "Curriculum.sampler = @Random()"
            )
        least = self._least(round(rows * columns), in_blocks)
        if self.min_patches is not None and least > in_blocks:
            what = "that are masked" if self.share == 1 else "that are masked in blocks"
            raise ValueError(
                f"Blockwise.min_patches = {least} must be at most {in_blocks}, the patches {what} of {spelled}"
            )
        if self.max_patches is not None and self.max_patches < least:
            raise ValueError(
                f"Blockwise.max_patches = {self.max_patches} must be at least Blockwise.min_patches = "
                f"{self.min_patches}, of {spelled} {least}"
            )
        # A block ends before the grid does, in both directions, and its sides are rounded.
        height, width = rows - 0.5, columns - 0.5
        limit = min(height * width, height**2 / self.min_aspect, width**2 / self.min_aspect)
        if least >= limit:
            name = least if self.min_patches is not None else f"None, here {least},"
            raise ValueError(
                f"Blockwise.min_patches = {name} must be below {limit:g}: no block is as long or as wide as the grid "
                f"of {spelled}"
            )

    def _count(self, num_masked: int) -> int:
        """How many of M masked patches are in blocks."""
        return int(num_masked * self.share)

    def _least(self, num_patches: int, num_masked: int) -> int:
        """The smallest block's area, of L patches, M of them masked."""
        return self.min_patches or max(1, min(num_masked, round(_PUBLISHED_MIN_SHARE * num_patches)))

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
        """Return bool [N, R, K], True at the patches that BEiT's rule masks, at most as many as are to be in blocks."""
        # In float64 throughout, where counts and sums of ranks are exact and no device's rounding of a root or an
        # exponential moves a block by a patch. Hundreds of small operations a step: each that is saved counts.
        scores_NRK = whole_ranks(scores_NL, grid, noise)
        n, device = len(noise.rows_N), noise.rows_N.device
        uniform_AN5 = noise.fold(Stream.BLOCKWISE_ATTEMPTS).uniform(self.attempts * 5).double()
        uniform_AN5 = uniform_AN5.view(n, self.attempts, 5).transpose(0, 1).contiguous()
        root_AN = (math.log(self.min_aspect) / 2 * (1 - 2 * uniform_AN5[..., 1])).exp()
        root_AN2 = torch.stack((root_AN, 1 / root_AN), dim=-1)
        in_blocks = self._count(num_masked)
        least = self._least(grid[0] * grid[1], in_blocks)
        least_AN = least * (1 - uniform_AN5[..., 0])
        limit_2 = torch.stack([torch.full((), side, device=device) for side in grid])
        free_NRK = torch.ones(n, *grid, dtype=torch.float64, device=device)
        left_over_N = torch.full_like(free_NRK[:, 0, 0], in_blocks)
        refusals_N = torch.zeros_like(left_over_N)
        for uniform_N5, root_N2, least_N in zip(uniform_AN5, root_AN2, least_AN, strict=True):
            most_N = left_over_N if self.max_patches is None else left_over_N.clamp(max=self.max_patches)
            area_N = torch.addcmul(least_N, uniform_N5[:, 0], most_N)
            size_N2 = (area_N.sqrt().unsqueeze(1) * root_N2).round()
            # A block that would not fit has no patches, and so is refused.
            height_N, width_N = (size_N2 * (size_N2 < limit_2).all(dim=1, keepdim=True)).long().unbind(1)
            wanted_NRK = None if scores_NRK is None else scores_NRK * free_NRK
            top_N, left_N = place(wanted_NRK, grid, height_N, width_N, uniform_N5[:, 2:], alpha)
            new_NRK = rectangles(grid, top_N, left_N, height_N, width_N).mul_(free_NRK)
            gain_N = new_NRK.sum(dim=(1, 2))
            takes_N = ((gain_N > 0) & (gain_N <= most_N)).double()
            free_NRK.addcmul_(new_NRK, takes_N.view(-1, 1, 1), value=-1)
            left_over_N.addcmul_(gain_N, takes_N, value=-1)
            # Ten refusals in a row end it for good.
            refusals_N = (refusals_N + 1) * (1 - takes_N)
            left_over_N *= refusals_N < _TRIES
        return free_NRK == 0


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
        require_in("MultiBlock", "[1, 1000]", targets=targets)
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
        scores_NRK = whole_ranks(scores_NL, grid, noise)
        places = noise.fold(Stream.MULTI_BLOCK_PLACES)
        uniform_NA3 = places.uniform((self.targets + 1) * 3).view(-1, self.targets + 1, 3)
        size = [hash_words(noise.seed, Stream.MULTI_BLOCK_SIZES, noise.step, kind) / 2**64 for kind in range(2)]
        height_N, width_N = self._shape(grid, self.scale, self.aspect, size[0], noise)
        target_NRK = torch.zeros(len(noise.rows_N), *grid, dtype=torch.bool, device=noise.rows_N.device)
        for block in range(self.targets):
            wanted_NRK = None if scores_NRK is None else scores_NRK.masked_fill(target_NRK, 0)
            top_N, left_N = place(wanted_NRK, grid, height_N, width_N, uniform_NA3[:, block], alpha, last=False)
            target_NRK |= rectangles(grid, top_N, left_N, height_N, width_N) > 0
        height_N, width_N = self._shape(grid, self.context_scale, (1.0, 1.0), size[1], noise)
        top_N, left_N = place(None, grid, height_N, width_N, uniform_NA3[:, -1], 0.0, last=False)
        return target_NRK, rectangles(grid, top_N, left_N, height_N, width_N) > 0

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

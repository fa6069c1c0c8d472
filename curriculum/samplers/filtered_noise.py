"""FilteredNoise: masks whose structure does not depend on the image.

Shape suffixes: N images, B maps of a bank, R rows and K columns of patches, L = R K patches.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from curriculum.keys import BONUS, hardest_by_bits, order_keys
from curriculum.noise import Noise
from curriculum.samplers.base import Sampler, count_hard
from curriculum.streams import Stream
from curriculum.validation import require_choice, require_in

COLORS = ("red", "green", "blue", "purple")


def blur(values_NRK: Tensor, sigma: float) -> Tensor:
    """Blur maps [N, R, K] by a Gaussian with a standard deviation in patches.

    Opposite borders are joined, so that no position is preferred. It is computed in double precision: a mask must not
    depend on how a device multiplies matrices.
    """

    def kernel(length: int) -> Tensor:
        turns = math.ceil(4 * sigma / length) + 1
        place = torch.arange(-turns * length, (turns + 1) * length, device=values_NRK.device, dtype=torch.float64)
        weights = (-(place**2) / (2 * sigma**2)).exp().view(-1, length).sum(0)
        weights = weights / weights.sum()
        row = torch.arange(length, device=values_NRK.device)
        return weights[(row.unsqueeze(0) - row.unsqueeze(1)) % length]

    _, rows, columns = values_NRK.shape
    return (kernel(rows) @ values_NRK.double() @ kernel(columns)).to(values_NRK.dtype)


_WIDEST = 1000  # patches, of a Gaussian's standard deviation


class FilteredNoise(Sampler):
    """Masks the peaks of colored noise: ColorMAE (arXiv 2407.13036). Its best color is green, a band of frequencies.

    White noise is drawn for each image and filtered by Gaussians: red keeps low frequencies (large spots), blue high
    ones (scattered patches), green those between two, purple all but these. ColorMAE published the noise, not the
    filters: the widths of the Gaussians are our guess. It leaves the peaks visible; the noise is symmetric, so that
    both give the same masks as often. The `int(M * alpha)` hardest patches are masked before the highest noise.

    ColorMAE does not draw noise for each image: it crops and mirrors a stored bank of it, the whole bank alike for a
    batch. So does `bank`, for each image anew: a number of maps is made once, from the noise's seed, and each image
    has a random one, shifted over its joined borders and mirrored. There are then `4 bank L` masks at most. The bank
    is no part of a checkpoint: it is made again.

    Args:
        color: "red", "green", "blue" or "purple". Default "green".
        sigma: standard deviations of the narrow and the wide Gaussian, in patches; red and blue use the narrow one.
            Default (1, 2), a guess.
        bank: B, the number of maps; 0 draws noise anew for each image. Published: 3072, each larger than the grid.
            Default 0.
    """

    def __init__(self, *, color: str = "green", sigma: tuple[float, float] = (1.0, 2.0), bank: int = 0) -> None:
        require_choice("FilteredNoise", COLORS, color=color)
        require_in("FilteredNoise", "[0, 1000000]", bank=bank)
        if not 0 < sigma[0] < sigma[1] <= _WIDEST:
            raise ValueError(
                f"FilteredNoise.sigma = {sigma} must be two positive numbers, ascending, of at most {_WIDEST:,} patches"
            )
        self.color = color
        self.sigma = sigma
        self.bank = bank
        # The last bank that was asked for, by what it depends on.
        self._banks: dict[tuple[int, tuple[int, int], torch.device], Tensor] = {}

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return count_hard(alpha, num_masked) > 0

    def field(self, grid: tuple[int, int], noise: Noise) -> Tensor:
        """Draw the filtered noise of each image, float32 [N, R, K]."""
        uniform_NL = noise.uniform(grid[0] * grid[1])
        white = torch.special.ndtri((uniform_NL + 2.0**-25).double()).float().view(-1, *grid)
        narrow = blur(white, self.sigma[0])
        if self.color in ("red", "blue"):
            return narrow if self.color == "red" else white - narrow
        green = narrow - blur(white, self.sigma[1])
        return green if self.color == "green" else white - green

    def maps(self, grid: tuple[int, int], noise: Noise) -> Tensor:
        """Return the bank, float32 [B, R, K], which is made once; the noise's seed alone decides it."""
        device = noise.rows_N.device
        key = (noise.seed, grid, device)
        if key not in self._banks:
            rows_B = torch.arange(self.bank, device=device)
            made = self.field(grid, replace(noise.fold(Stream.FILTERED_NOISE_BANK), step=0, rows_N=rows_B))
            self._banks.clear()
            self._banks[key] = made
        return self._banks[key]

    def crops(self, grid: tuple[int, int], noise: Noise) -> Tensor:
        """Draw a map of the bank for each image, shifted and mirrored at random; float32 [N, R, K]."""
        uniform_N5 = noise.fold(Stream.FILTERED_NOISE_CHOICE).uniform(5)
        map_N = (uniform_N5[:, 0] * self.bank).long()

        def places(length: int, shift_N: Tensor, mirror_N: Tensor) -> Tensor:
            row = torch.arange(length, device=shift_N.device)
            first_N1 = (shift_N * length).long().unsqueeze(1)
            return (first_N1 + torch.where(mirror_N.unsqueeze(1) < 0.5, row, -row)) % length

        row_NR = places(grid[0], uniform_N5[:, 1], uniform_N5[:, 2])
        column_NK = places(grid[1], uniform_N5[:, 3], uniform_N5[:, 4])
        return self.maps(grid, noise)[map_N.view(-1, 1, 1), row_NR.unsqueeze(2), column_NK.unsqueeze(1)]

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        bits_NL = noise.bits(grid[0] * grid[1])
        field_NRK = self.crops(grid, noise) if self.bank else self.field(grid, noise)
        keys_NL = order_keys(field_NRK.flatten(1), bits_NL) >> 2
        if scores_NL is None:
            return keys_NL
        return keys_NL.add_(hardest_by_bits(scores_NL, count_hard(alpha, num_masked), bits_NL), alpha=BONUS)

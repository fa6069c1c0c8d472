"""FilteredNoise: masks of a structure that no image decides.

Shape suffixes: N images, R rows and K columns of patches, L = R K patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curriculum.noise import Noise
from curriculum.samplers.base import BONUS, Sampler, count_hard, hardest_by_bits, order_keys

COLORS = ("red", "green", "blue", "purple")


def blur(values_NRK: Tensor, sigma: float) -> Tensor:
    """Gaussian, with a standard deviation in patches; the borders are joined, so that no position is preferred.

    In double precision: a mask must not depend on how a device multiplies matrices.
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


class FilteredNoise(Sampler):
    """The peaks of colored noise: ColorMAE (arXiv 2407.13036). Green, a band of frequencies, is its best.

    White noise is drawn for each image and filtered by Gaussians: red keeps low frequencies (large spots), blue high
    ones (scattered patches), green those between two, purple all but these. ColorMAE leaves the peaks visible; the
    noise is symmetric, so that both give the same masks as often. It crops a stored bank of such noise; on a grid of
    patches drawing it anew costs less than reading it. The `int(M * alpha)` hardest patches are masked before the
    highest noise.

    Args:
        color: "red", "green", "blue" or "purple".
        sigma: standard deviations of the narrow and the wide Gaussian, in patches; red and blue use the narrow one.
    """

    def __init__(self, *, color: str = "green", sigma: tuple[float, float] = (1.0, 2.0)) -> None:
        if color not in COLORS:
            raise ValueError(f"FilteredNoise.color = {color!r} is unknown; choose {', '.join(COLORS)}")
        if not 0 < sigma[0] < sigma[1]:
            raise ValueError(f"FilteredNoise.sigma = {sigma} must be two positive numbers, ascending")
        self.color, self.sigma = color, sigma

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return count_hard(alpha, num_masked) > 0

    def field(self, grid: tuple[int, int], noise: Noise) -> Tensor:
        """Float32 [N, R, K]: the noise."""
        uniform_NL = noise.uniform(grid[0] * grid[1])
        white = torch.special.ndtri((uniform_NL + 2.0**-25).double()).float().view(-1, *grid)
        narrow = blur(white, self.sigma[0])
        if self.color in ("red", "blue"):
            return narrow if self.color == "red" else white - narrow
        green = narrow - blur(white, self.sigma[1])
        return green if self.color == "green" else white - green

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        bits_NL = noise.bits(grid[0] * grid[1])
        keys_NL = order_keys(self.field(grid, noise).flatten(1), bits_NL) >> 2
        if scores_NL is None:
            return keys_NL
        return keys_NL.add_(hardest_by_bits(scores_NL, count_hard(alpha, num_masked), bits_NL), alpha=BONUS)

"""Random masks, and HPM's split of a mask into hard patches and random ones.

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

from torch import Tensor

from curriculum.keys import BONUS, hardest_by_bits, random_keys
from curriculum.noise import Noise
from curriculum.samplers.base import Sampler, count_hard


class Random(Sampler):
    """Draws uniformly random masks: MAE (He et al. 2022). Ignores alpha and the difficulty."""

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return False

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        return random_keys(noise.bits(grid[0] * grid[1]))


class HardestFirst(Sampler):
    """Splits the mask as HPM does: the `int(M * alpha)` hardest patches, and the rest uniform over all others."""

    alpha_is_share = True

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return count_hard(alpha, num_masked) > 0

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        bits_NL = noise.bits(grid[0] * grid[1])
        keys_NL = random_keys(bits_NL)
        if scores_NL is None:
            return keys_NL
        # Ties among scores are broken by the low bits, the rest is drawn by the high ones: independent.
        hard_NL = hardest_by_bits(scores_NL, count_hard(alpha, num_masked), bits_NL)
        return keys_NL.add_(hard_NL, alpha=BONUS)

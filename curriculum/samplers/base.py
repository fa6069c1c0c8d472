"""Samplers: scores and alpha -> Mask.

Every policy is "give each patch a key, mask the M patches with the largest keys": uniform noise is MAE; noise plus
a bonus on the hardest patches is HPM. So a sampler is one batched expression: no loop over images, and since alpha
enters as a number that keys are compared with, it moves without changing a shape.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from curriculum.mask import Mask
from curriculum.noise import Noise

_INT32_MIN = -(2**31)


class Sampler(ABC):
    """Draws masks. A policy of one's own implements `keys`, and `needs_scores` where it can do without them."""

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        """Whether the keys depend on the difficulty at this alpha; where not, the teacher is not run."""
        return True

    @abstractmethod
    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        """Give each patch a key; the `num_masked` largest of an image are masked.

        Args:
            scores_NL: difficulty, higher = harder, NaN = not scored; None where `needs_scores` said no.
            alpha: how much of the mask follows the difficulty, in [0, 1].
            num_masked: M.
            grid: rows and columns of patches; L is their product.
            noise: this batch's randomness; its rows are the N images.

        Returns:
            [N, L], any type that sorts, on the device of `noise`.
        """

    def __call__(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Mask:
        """Draw a mask; see `keys`."""
        keys_NL = self.keys(scores_NL, alpha=alpha, num_masked=num_masked, grid=grid, noise=noise)
        return Mask.from_keys(keys_NL, num_masked)


def count_hard(alpha: float, num_masked: int) -> int:
    """`int(M * alpha)`: how many masked patches follow the difficulty (HPM)."""
    return int(num_masked * alpha)


def hardest(scores_NL: Tensor, count: int, noise: Noise) -> Tensor:
    """Boolean [N, L]: the `count` patches of each image with the highest scores.

    Ties are broken at random by `noise`, so that a constant score prefers no position; under equal noise the set
    for a smaller count lies inside the set for a larger one. NaN is never chosen: an image with fewer scored
    patches than `count` has fewer hard ones.
    """
    return _hardest(scores_NL, count, noise.bits(scores_NL.shape[1]))


def _hardest(scores_NL: Tensor, count: int, bits_NL: Tensor) -> Tensor:
    if count == 0:
        return torch.zeros_like(scores_NL, dtype=torch.bool)
    num_patches = scores_NL.shape[1]
    unscored_NL = scores_NL.isnan()
    # Distinct int64 keys: the score's bits, reordered to compare as integers do; random bits; the position.
    score_NL = (scores_NL.float() + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal 0.0
    score_NL = (score_NL ^ ((score_NL >> 31) & 0x7FFFFFFF)).masked_fill_(unscored_NL, _INT32_MIN)
    index_bits = (num_patches - 1).bit_length()
    tie_NL = (bits_NL & (2**32 - 2**index_bits)) | torch.arange(num_patches, device=scores_NL.device)
    key_NL = score_NL.long().mul_(2**32).add_(tie_NL)
    threshold_N1 = key_NL.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    return (key_NL >= threshold_N1).logical_and_(~unscored_NL)


def _random_keys(bits_NL: Tensor) -> Tensor:
    """The upper 62 of 64 random bits, so that a bonus of 2**62 outranks them."""
    return (bits_NL >> 2).bitwise_and_(2**62 - 1)


class Random(Sampler):
    """Uniformly random masks: MAE (He et al. 2022). Ignores alpha and the difficulty."""

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return False

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        return _random_keys(noise.bits(grid[0] * grid[1]))


class HardestFirst(Sampler):
    """HPM's split: the `int(M * alpha)` hardest patches, and the rest of the mask uniform over all others."""

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return count_hard(alpha, num_masked) > 0

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        bits_NL = noise.bits(grid[0] * grid[1])
        keys_NL = _random_keys(bits_NL)
        if scores_NL is None:
            return keys_NL
        # Ties among scores are broken by the low bits, the rest is drawn by the high ones: independent.
        hard_NL = _hardest(self.priority(scores_NL), count_hard(alpha, num_masked), bits_NL)
        return keys_NL.add_(hard_NL, alpha=2**62)

    def priority(self, scores_NL: Tensor) -> Tensor:
        """What is highest where the difficulty wants a patch masked."""
        return scores_NL


class EasiestFirst(HardestFirst):
    """HPM's split turned round: the `int(M * alpha)` easiest patches, and the rest uniform over all others."""

    def priority(self, scores_NL: Tensor) -> Tensor:
        return -scores_NL

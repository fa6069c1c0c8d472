"""Quotas: a sampler that goes from some patches of every part of the image to whole parts.

Shape suffixes: N images, L patches, G parts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from curriculum.difficulty.base import DifficultyEstimator
from curriculum.keys import BONUS, random_keys
from curriculum.noise import Noise
from curriculum.samplers.base import Sampler
from curriculum.streams import Stream
from curriculum.validation import require_in


class Quotas(Sampler):
    """Masks within parts of the image at first and whole parts at last: SemMAE (arXiv 2206.10207).

    Its scores are not difficulties but the numbers of the parts that patches belong to, as `Parts` gives them. A part
    of n patches has the quota `round((1 - alpha) * within + alpha * whole)`: `within = round(n * M / L)` is its share
    of the mask, and `whole` what it has where whole parts are masked, one after the other in a random order, until
    there are M: n, a rest, or 0. Halves are rounded to the even number, as published. Which patches fill a quota is
    random. A patch that is not scored belongs to no part.

    Rounded quotas may add up to a few more or less than M. Then as many patches, drawn uniformly from all that quotas
    mask, stay visible, or are masked of all others, so that every image masks M.

    SemMAE's lambda = 1 - ((e + 1) / T)^2 is 1 - alpha: use `Ramp(shape='quadratic', end=1.0)`, once an epoch.

    Args:
        parts: G, the largest number of parts; at least as many as `Parts` finds. Default 6.
    """

    reversible = False

    def __init__(self, *, parts: int = 6) -> None:
        require_in("Quotas", "[1, 10000]", parts=parts)
        self.parts = parts

    def check_difficulty(self, difficulty: DifficultyEstimator) -> None:
        """Refuse scores that number no parts, or more than there are quotas for."""
        found, name = difficulty.num_parts, type(difficulty).__name__
        if found is None:
            raise ValueError(
                f"Quotas takes the numbers of parts, and the scores of {name} are difficulties; choose "
                "Curriculum.difficulty = @Parts(), or another that has num_parts, or another sampler"
            )
        if found > self.parts:
            raise ValueError(f"Quotas.parts = {self.parts} must be at least {found}, the parts that {name} numbers")

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        assert scores_NL is not None
        num_patches = grid[0] * grid[1]
        part_NL = scores_NL.nan_to_num(0.0).clamp(0, self.parts - 1).long()
        part_NL = part_NL.masked_fill(scores_NL.isnan(), self.parts)  # a place behind all parts, which has no quota
        size_NG = part_NL.new_zeros(len(part_NL), self.parts + 1).scatter_add_(1, part_NL, torch.ones_like(part_NL))
        quota_NG = F.pad(self.quotas(size_NG[:, :-1], alpha=alpha, num_masked=num_masked, noise=noise), (0, 1))
        # A patch's place in a random order of its part: patches sorted by part, less those of the parts before it.
        order_NL = noise.fold(Stream.QUOTAS_WITHIN).bits(num_patches).argsort(dim=1).argsort(dim=1)
        place_NL = (part_NL * num_patches + order_NL).argsort(dim=1).argsort(dim=1)
        within_NL = place_NL - (size_NG.cumsum(1) - size_NG).gather(1, part_NL)
        fills_NL = within_NL < quota_NG.gather(1, part_NL)
        return random_keys(noise.bits(num_patches)).add_(fills_NL, alpha=BONUS)

    def quotas(self, size_NG: Tensor, *, alpha: float, num_masked: int, noise: Noise) -> Tensor:
        """Return how many patches of each part are masked, int64 [N, G], before they are made to add up to M.

        Args:
            size_NG: int64, the number of patches of each part.
            alpha: in [0, 1]; 0 masks within parts, 1 whole parts.
            num_masked: M.
            noise: this batch's randomness.
        """
        num_patches = size_NG.sum(dim=1, keepdim=True).clamp(min=1)
        within_NG = (size_NG * num_masked / num_patches.double()).round()
        turn_NG = noise.fold(Stream.QUOTAS_TURN).bits(self.parts).argsort(dim=1)
        sorted_NG = size_NG.gather(1, turn_NG)
        left_NG = num_masked - (sorted_NG.cumsum(1) - sorted_NG)
        whole_NG = torch.empty_like(size_NG).scatter_(1, turn_NG, torch.minimum(sorted_NG, left_NG.clamp(min=0)))
        return ((1 - alpha) * within_NG + alpha * whole_NG).round().long()

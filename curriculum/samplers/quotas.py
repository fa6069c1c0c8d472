"""Quotas: a sampler that goes from some patches of every part of the image to whole parts.

Shape suffixes: N images, L patches, G parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.difficulty.base import DifficultyEstimator
from curriculum.keys import BONUS, largest, random_keys
from curriculum.noise import Noise
from curriculum.samplers.base import Sampler, count_hard
from curriculum.streams import Stream
from curriculum.validation import require_at_least


class Quotas(Sampler):
    """Masks within parts of the image at first and whole parts at last: SemMAE (arXiv 2206.10207).

    Its scores are not difficulties but the numbers of the parts that patches belong to, as `Parts` gives them.
    `int(M * alpha)` patches are masked part by part, the parts in a random order; the rest of the mask takes the same
    share of every part. SemMAE's lambda = 1 - ((e + 1) / T)^2 is 1 - alpha: use
    `Ramp(shape='quadratic', end=1.0)`, once an epoch.

    Args:
        parts: G, the largest number of parts; at least as many as `Parts` finds. Default 6.
    """

    reversible = False

    def __init__(self, *, parts: int = 6) -> None:
        require_at_least("Quotas", 1, parts=parts)
        self.parts = parts

    def check_difficulty(self, difficulty: DifficultyEstimator) -> None:
        """Refuse a difficulty that numbers more parts than there are quotas for."""
        found = difficulty.num_parts
        if found is not None and found > self.parts:
            name = type(difficulty).__name__
            raise ValueError(f"Quotas.parts = {self.parts} must be at least {name}.parts = {found}")

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        assert scores_NL is not None
        num_patches = grid[0] * grid[1]
        part_NL = scores_NL.nan_to_num(0.0).clamp(0, self.parts - 1).long()
        chance_NL = random_keys(noise.bits(num_patches))
        whole_NL = self._whole(part_NL, chance_NL, count_hard(alpha, num_masked), noise)
        # A patch's random place among its part's, relative to the part's size: the same share of each is masked first.
        size_NG = (
            torch.zeros_like(part_NL[:, :1]).repeat(1, self.parts).scatter_add_(1, part_NL, torch.ones_like(part_NL))
        )
        rank_NL = chance_NL.argsort(dim=1).argsort(dim=1)
        place_NL = (part_NL * num_patches + rank_NL).argsort(dim=1).argsort(dim=1)
        within_NL = place_NL - (size_NG.cumsum(1) - size_NG).gather(1, part_NL)
        jitter_NL = noise.fold(Stream.QUOTAS_JITTER).uniform(num_patches)
        share_NL = (within_NL + jitter_NL.double()) / size_NG.gather(1, part_NL)
        return ((1 - share_NL) * 2**50).long().add_(whole_NL, alpha=BONUS)

    def _whole(self, part_NL: Tensor, chance_NL: Tensor, count: int, noise: Noise) -> Tensor:
        """Return bool [N, L], True at `count` patches, which are chosen part by part."""
        turn_NG = noise.fold(Stream.QUOTAS_TURN).bits(self.parts).argsort(dim=1).argsort(dim=1)
        rank_NL = chance_NL.argsort(dim=1).argsort(dim=1)
        return largest(turn_NG.gather(1, part_NL) * part_NL.shape[1] + rank_NL, count)

"""Complementary: several masks of one image, of which each shows other patches.

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from curriculum.keys import random_keys
from curriculum.noise import Noise
from curriculum.samplers.base import Sampler
from curriculum.validation import require_in


class Complementary(Sampler):
    """Gives an image a random mask and its complement: CoMA (arXiv 2511.05929). Ignores alpha and the difficulty.

    The rows of the batch from a multiple of `masks` up to the next are one image's, and share one random order of its
    L patches. The first sees the first V of them, the next the V that follow, and so on, from the beginning again where
    the order ends. So no patch is seen in two of the masks where they see L patches or fewer together, and each is seen
    in one where they see L: at a mask ratio of 1 - 1 / masks. Patches that are thrown away count as seen. Each single
    mask is uniformly random. Where every row is another image, as in evaluations, neighbors have the order in common.
    As the sampler of a `PartialReconstruction` it completes nothing: masks hide other patches in each row.

    Args:
        masks: how many masks an image is given; a run's `Schedule.masks_per_image` must be the same. Default 2.
    """

    def __init__(self, *, masks: int = 2) -> None:
        require_in("Complementary", "[1, 1000]", masks=masks)
        self.masks = masks

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return False

    def check_masks_per_image(self, masks_per_image: int) -> None:
        """Refuse another number of masks, of which some would complete those of another image."""
        if masks_per_image != self.masks:
            raise ValueError(
                f"Complementary.masks = {self.masks} masks complete each other, and Schedule.masks_per_image = "
                f"{masks_per_image} is how many an image is given; set both to the same number"
            )

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        num_patches, rows_N = grid[0] * grid[1], noise.rows_N
        shared = replace(noise, rows_N=rows_N.div(self.masks, rounding_mode="floor"))
        place_NL = random_keys(shared.bits(num_patches)).argsort(dim=1).argsort(dim=1)
        # What is masked has the largest keys, so that the V patches with the smallest are seen.
        seen_before_N1 = ((rows_N % self.masks) * (num_patches - num_masked)).unsqueeze(1)
        return torch.remainder(place_NL - seen_before_N1, num_patches)

"""Samplers that follow the order of the difficulty otherwise than by HPM's split.

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curriculum.keys import BONUS, hardest_by_bits, largest, order_keys, random_keys
from curriculum.noise import Noise, hash_words
from curriculum.samplers.base import Sampler, count_hard
from curriculum.schedulers import Scalar, values_of
from curriculum.streams import Stream
from curriculum.validation import require_choice, require_in, require_positive

WEIGHTS = ("softmax", "proportional")
DRAWS = ("masked", "visible")


class Pool(Sampler):
    """Draws the mask uniformly from a pool of the hardest patches, which shrinks as alpha rises.

    The pool holds all L patches at alpha 0 and the M hardest at alpha 1: `L - int((L - M) * alpha)`. After SMA
    (Xie et al. 2024, arXiv 2402.14789), whose pool shrinks by a cosine: use it with `Ramp(shape='cosine', end=1.0)`.
    """

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return alpha > 0

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        num_patches = grid[0] * grid[1]
        bits_NL = noise.bits(num_patches)
        keys_NL = random_keys(bits_NL)
        pool = num_patches - int((num_patches - num_masked) * alpha)
        if scores_NL is None or pool == num_patches:
            return keys_NL
        # What is not scored is not easy: it stays in the pool.
        easy_NL = hardest_by_bits(-scores_NL, num_patches - pool, bits_NL)
        return keys_NL.add_(~easy_NL, alpha=BONUS)


class Bonus(Sampler):
    """Adds a bonus to the noise of the hardest patches, of which there are ever more: StructMAE (arXiv 2404.15806).

    The noise is uniform in [0, 1); the `ceil(M * alpha)` hardest patches have the bonus, and the M highest sums are
    masked. So these patches are masked more often than others, but none of them for certain unless the bonus is 1.
    StructMAE's set grows with the root of time: use `Ramp(shape='root', end=1.0)`.

    Args:
        bonus: what is added to the noise, in (0, 1]; 1 masks all of the set. Default 0.5; published 0.25 to 0.85.
    """

    def __init__(self, *, bonus: float = 0.5) -> None:
        require_in("Bonus", "(0, 1]", bonus=bonus)
        self.bonus = float(bonus)

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return alpha > 0

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        bits_NL = noise.bits(grid[0] * grid[1])
        keys_NL = random_keys(bits_NL)
        if scores_NL is None:
            return keys_NL
        favored_NL = hardest_by_bits(scores_NL, math.ceil(num_masked * alpha), bits_NL)
        return keys_NL.add_(favored_NL, alpha=int(self.bonus * BONUS))


class Weighted(Sampler):
    """Draws patches without replacement, by weights that the difficulty gives.

    As in AMT (arXiv 2211.15362) and AdaMAE (arXiv 2211.09120), patches are masked one after the other, each with a
    probability proportional to its weight among those that are left. They are drawn at once, by Gumbel noise on the
    logarithms (Kool et al. 2019, arXiv 1903.06059). Patches that are not scored have their image's mean logarithm.

    Args:
        weights: "softmax" of the scores, or "proportional" to scores that are never negative, such as attention.
            Default "softmax".
        temperature: a positive number, or a scheduler of it, that divides the logarithms of the weights. Alpha
            multiplies them: at 0 the mask is random. Default 1.
        draw: "masked" draws the patches that are masked, one after the other; "visible" those that stay visible, with
            the inverse weights, so that with `Curriculum.polarity = 'easiest'` the weights are the scores' own.
            Default "masked".
    """

    def __init__(self, *, weights: str = "softmax", temperature: Scalar = 1.0, draw: str = "masked") -> None:
        require_choice("Weighted", WEIGHTS, weights=weights)
        require_choice("Weighted", DRAWS, draw=draw)
        for value in values_of(temperature):
            require_positive("Weighted", temperature=value)
        self.weights = weights
        self.temperature = temperature
        self.draw = draw
        self.reversible = weights == "softmax"

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return alpha > 0

    def logarithms(self, scores_NL: Tensor) -> Tensor:
        """Return the logarithms of the weights, [N, L] and finite."""
        tiny = torch.finfo(torch.float32).tiny
        scores_NL = scores_NL.float()
        logs_NL = scores_NL if self.weights == "softmax" else scores_NL.clamp(min=tiny).log()
        logs_NL = logs_NL.clamp(-1e6, 1e6)
        return torch.where(logs_NL.isnan(), logs_NL.nanmean(dim=1, keepdim=True).nan_to_num(0.0), logs_NL)

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        num_patches = grid[0] * grid[1]
        bits_NL = noise.bits(num_patches)
        if scores_NL is None:
            return random_keys(bits_NL)
        assert isinstance(self.temperature, float | int)  # `at` has put the scheduler's value here
        # Uniform in (0, 1), 2**-53 fine: the smallest numbers decide where few patches remain visible.
        uniform_NL = ((bits_NL >> 11).bitwise_and_(2**53 - 1).double() + 0.5) * 2.0**-53
        gumbel_NL = -(-uniform_NL.log()).log()
        if self.draw == "visible":
            gumbel_NL = -gumbel_NL
        return gumbel_NL + self.logarithms(scores_NL).double() * (alpha / self.temperature)


class Hint(Sampler):
    """Masks the hardest patches but a few of the very hardest, which stay visible: AttMask-Hint (arXiv 2203.12719).

    Of the `int(L * among)` hardest patches `int(L * among * share)`, drawn at random, are revealed; of the others the
    `int(M * alpha)` hardest are masked, and the rest of the mask is uniform. The share is drawn anew in each step,
    uniformly, the same for all images in every process: a hash of (seed, step). AttMask masks fewer patches by what
    it reveals; here the next hardest take their place, so that every image masks M.

    Args:
        reveal: smallest and largest share of the very hardest that is revealed. Default (0.1, 0.5), as published: 5.4
            of 196 patches in the mean.
        among: share of all patches that counts as the very hardest, in (0, 1]. Default 0.1, as published.
    """

    def __init__(self, *, reveal: tuple[float, float] = (0.1, 0.5), among: float = 0.1) -> None:
        if not 0 <= reveal[0] <= reveal[1] <= 1:
            raise ValueError(f"Hint.reveal = {reveal} must be two numbers in [0, 1], ascending")
        if not 0 < among <= 1:
            raise ValueError(
                f"Hint.among = {among} must lie in (0, 1], the share of patches that counts as the very hardest; to "
                "reveal none of them, set Curriculum.sampler = @HardestFirst()"
            )
        self.reveal = reveal
        self.among = float(among)

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return count_hard(alpha, num_masked) > 0

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        num_patches = grid[0] * grid[1]
        bits_NL = noise.bits(num_patches)
        keys_NL = random_keys(bits_NL)
        if scores_NL is None or not self.needs_scores(alpha, num_masked):
            return keys_NL
        revealed_NL = self._revealed(scores_NL, noise, bits_NL)
        order_NL = order_keys(scores_NL, bits_NL).masked_fill_(revealed_NL, -(2**63))
        hard_NL = largest(order_NL, count_hard(alpha, num_masked)) & ~scores_NL.isnan() & ~revealed_NL
        # The revealed are masked last of all: only where nothing else is left.
        return keys_NL.add_(hard_NL, alpha=BONUS).sub_(revealed_NL.long(), alpha=BONUS)

    def count_revealed(self, num_patches: int, noise: Noise) -> int:
        """Return how many of L patches are revealed in the step of this noise."""
        low, high = self.reveal
        share = low + (high - low) * hash_words(noise.seed, Stream.HINT_SHARE, noise.step) / 2**64
        return int(self.among * share * num_patches)

    def _revealed(self, scores_NL: Tensor, noise: Noise, bits_NL: Tensor) -> Tensor:
        """Return bool [N, L], True at the patches that are revealed."""
        num_patches = scores_NL.shape[1]
        top_NL = hardest_by_bits(scores_NL, int(num_patches * self.among), bits_NL)
        chance_NL = random_keys(noise.fold(Stream.HINT_REVEALED).bits(num_patches)).add_(top_NL, alpha=BONUS)
        return largest(chance_NL, self.count_revealed(num_patches, noise)) & top_NL

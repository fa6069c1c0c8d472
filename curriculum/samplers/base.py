"""The interface of a sampler, and what every sampler is made of.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from curriculum.mask import Mask
from curriculum.noise import Noise
from curriculum.schedulers.scheduled import Scheduled

_INT32_MIN = -(2**31)
BONUS = 2**62
"""Added to a key of `random_keys`, outranks every key without it."""


class Sampler(Scheduled, ABC):
    """Draws masks. A policy of one's own implements `keys`, and `needs_scores` where it can do without them.

    Attributes:
        reversible: whether negated scores mean what they should, for `Curriculum.polarity`.
        alpha_is_share: whether alpha is the share of the mask that the hardest patches make up.
    """

    reversible: bool = True
    alpha_is_share: bool = False

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
        self,
        scores_NL: Tensor | None,
        *,
        alpha: float,
        num_masked: int,
        grid: tuple[int, int],
        noise: Noise,
        num_thrown: int = 0,
    ) -> Mask:
        """Draw a mask; see `keys`. The `num_thrown` patches with the next largest keys are thrown away."""
        keys_NL = self.keys(scores_NL, alpha=alpha, num_masked=num_masked, grid=grid, noise=noise)
        return Mask.from_keys(keys_NL, num_masked, num_thrown)


def count_hard(alpha: float, num_masked: int) -> int:
    """`int(M * alpha)`: how many masked patches follow the difficulty (HPM)."""
    return int(num_masked * alpha)


def random_keys(bits_NL: Tensor) -> Tensor:
    """The upper 62 of 64 random bits, so that `BONUS` outranks them."""
    return (bits_NL >> 2).bitwise_and_(BONUS - 1)


def order_keys(values_NL: Tensor, bits_NL: Tensor) -> Tensor:
    """Int64 keys that are all different and in the order of the values; ties are broken at random, NaN is last.

    A constant score prefers no position.
    """
    num_patches = values_NL.shape[1]
    # The score's bits, reordered to compare as integers do; random bits; the position.
    value_NL = (values_NL.float() + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal 0.0
    value_NL = (value_NL ^ ((value_NL >> 31) & 0x7FFFFFFF)).masked_fill_(values_NL.isnan(), _INT32_MIN)
    index_bits = (num_patches - 1).bit_length()
    tie_NL = (bits_NL & (2**32 - 2**index_bits)) | torch.arange(num_patches, device=values_NL.device)
    return value_NL.long().mul_(2**32).add_(tie_NL)


def largest(keys_NL: Tensor, count: int) -> Tensor:
    """Boolean [N, L]: the `count` largest of keys that are all different."""
    if count == 0:
        return torch.zeros_like(keys_NL, dtype=torch.bool)
    return keys_NL >= keys_NL.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)


def hardest(scores_NL: Tensor, count: int, noise: Noise) -> Tensor:
    """Boolean [N, L]: the `count` patches of each image with the highest scores.

    Ties are broken at random by `noise`, so that a constant score prefers no position; under equal noise the set
    for a smaller count lies inside the set for a larger one. NaN is never chosen: an image with fewer scored
    patches than `count` has fewer hard ones.
    """
    return hardest_by_bits(scores_NL, count, noise.bits(scores_NL.shape[1]))


def hardest_by_bits(scores_NL: Tensor, count: int, bits_NL: Tensor) -> Tensor:
    """`hardest`, with random bits [N, L] that were drawn already; their low half breaks ties."""
    return largest(order_keys(scores_NL, bits_NL), count).logical_and_(~scores_NL.isnan())


def ranks(scores_NL: Tensor, bits_NL: Tensor) -> Tensor:
    """Float32 [N, L] in [0, 1]: each patch's rank among the scored patches of its image, NaN where not scored.

    0 is the easiest, 1 the hardest; ties are broken at random. An image with one scored patch gives it 0.5.
    """
    unscored_NL = scores_NL.isnan()
    count_N1 = (~unscored_NL).sum(dim=1, keepdim=True)
    place_NL = order_keys(scores_NL, bits_NL).argsort(dim=1).argsort(dim=1) - (scores_NL.shape[1] - count_N1)
    rank_NL = torch.where(count_N1 > 1, place_NL / (count_N1 - 1).clamp(min=1), 0.5)
    return rank_NL.float().masked_fill_(unscored_NL, float("nan"))

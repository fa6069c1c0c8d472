"""Keys: the numbers by which samplers and difficulty estimators order patches.

A mask holds the patches with the largest keys. Random keys make it uniform; keys in the order of the scores make it
follow the difficulty; a bonus on some random keys puts these patches first.

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.noise import Noise

_INT32_MIN = -(2**31)
BONUS = 2**62
"""What is added to a key of `random_keys` to make it larger than every key without it."""


def random_keys(bits_NL: Tensor) -> Tensor:
    """Return the upper 62 of 64 random bits, so that `BONUS` exceeds them; int64 [N, L]."""
    return (bits_NL >> 2).bitwise_and_(BONUS - 1)


def order_keys(values_NL: Tensor, bits_NL: Tensor) -> Tensor:
    """Return int64 keys [N, L] that are all different and in the order of the values.

    Ties are broken by the lower half of the random bits, so that a constant value prefers no position. NaN is last.
    """
    num_patches = values_NL.shape[1]
    # The score's bits, reordered to compare as integers do; random bits; the position.
    value_NL = (values_NL.float() + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal 0.0
    value_NL = (value_NL ^ ((value_NL >> 31) & 0x7FFFFFFF)).masked_fill_(values_NL.isnan(), _INT32_MIN)
    index_bits = (num_patches - 1).bit_length()
    tie_NL = (bits_NL & (2**32 - 2**index_bits)) | torch.arange(num_patches, device=values_NL.device)
    return value_NL.long().mul_(2**32).add_(tie_NL)


def largest(keys_NL: Tensor, count: int) -> Tensor:
    """Return bool [N, L], True at the `count` largest of keys that are all different."""
    if count == 0:
        return torch.zeros_like(keys_NL, dtype=torch.bool)
    return keys_NL >= keys_NL.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)


def hardest(scores_NL: Tensor, count: int, noise: Noise) -> Tensor:
    """Return bool [N, L], True at the `count` patches of each image with the highest scores.

    Ties are broken at random by `noise`, so that a constant score prefers no position; under equal noise the set
    for a smaller count lies inside the set for a larger one. NaN is never chosen: an image with fewer scored
    patches than `count` has fewer hard ones.
    """
    return hardest_by_bits(scores_NL, count, noise.bits(scores_NL.shape[1]))


def hardest_by_bits(scores_NL: Tensor, count: int, bits_NL: Tensor) -> Tensor:
    """Return what `hardest` does, from random bits [N, L] that were drawn before; their lower half breaks ties."""
    return largest(order_keys(scores_NL, bits_NL), count).logical_and_(~scores_NL.isnan())


def ranks(scores_NL: Tensor, bits_NL: Tensor) -> Tensor:
    """Return float32 [N, L] in [0, 1]: each patch's rank among the scored patches of its image.

    0 is the easiest patch and 1 the hardest; ties are broken at random. A patch without a score has the rank NaN. An
    image with one scored patch gives it 0.5.
    """
    unscored_NL = scores_NL.isnan()
    count_N1 = (~unscored_NL).sum(dim=1, keepdim=True)
    place_NL = order_keys(scores_NL, bits_NL).argsort(dim=1).argsort(dim=1) - (scores_NL.shape[1] - count_N1)
    rank_NL = torch.where(count_N1 > 1, place_NL / (count_N1 - 1).clamp(min=1), 0.5)
    return rank_NL.float().masked_fill_(unscored_NL, float("nan"))

"""Hierarchy: parts of the image that are nodes of a tree over its patches, and grow or shrink with a schedule.

Shape suffixes: N images, L patches, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.difficulty.features import directions
from curriculum.noise import Noise
from curriculum.schedulers import Scalar, values_of
from curriculum.teacher import Teacher
from curriculum.validation import require_in


class Hierarchy(DifficultyEstimator):
    """Gives the number of the part that each patch belongs to, not a difficulty; for the sampler `Quotas`.

    Parts are nodes of a binary tree over the patches of an image: the two that are closest are joined first, until one
    is left. How close two nodes are is the mean cosine between the patches of the one and those of the other, of the
    teacher's features less the image's mean. The tree is cut where it has 2 ** depth parts, so that the parts at one
    depth are unions of those at a greater one. They are numbered in the order of their first patches.

    Evolved hierarchical masking (Feng and Zhang 2025, arXiv 2504.09155) builds its tree from the model's attention
    between patches, and masks the nodes at one distance from the root. Both the features and the cut by number are
    this project's: every image has as many parts.

    Args:
        depth: the logarithm to base 2 of the number of parts, in [0, 13], or a scheduler of it. The number is rounded,
            and an image of fewer patches has one part for each. Default 3, eight parts.
    """

    needs = ("features",)
    reversible = False

    def __init__(self, *, depth: Scalar = 3.0) -> None:
        depths = values_of(depth)
        for value in depths:
            require_in("Hierarchy", "[0, 13]", depth=value)
        self.depth = depth
        self.num_parts: int = _count(max(depths))

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert isinstance(self.depth, float | int)  # `at` has put the scheduler's value here
        unit_NLD = directions(batch, teacher)
        return joined(unit_NLD @ unit_NLD.mT, _count(self.depth)).float()


def _count(depth: float) -> int:
    return round(2**depth)


def joined(close_NLL: Tensor, parts: int) -> Tensor:
    """Return the part of each patch, int64 [N, L], where the closest two are joined until so many are left.

    How close parts are is the mean over their patches. What is not a number counts as 0. Of equals the first are
    joined.

    Args:
        close_NLL: how close patches are, float and symmetric.
        parts: how many parts are left; one for each patch where there are no more patches.
    """
    n, num_patches, _ = close_NLL.shape
    close_NLL = close_NLL.nan_to_num(0.0)
    close_NLL.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    patch_L = torch.arange(num_patches, device=close_NLL.device)
    image_N1 = torch.arange(n, device=close_NLL.device).unsqueeze(1)
    part_NL = patch_L.repeat(n, 1)  # the first patch of each patch's part
    if close_NLL.is_meta:  # where operations are counted: a join has none that count, and there are many joins
        return part_NL
    size_NL = torch.ones_like(close_NLL[:, 0])
    gone_NL = torch.full_like(size_NL, -torch.inf)
    for _ in range(num_patches - parts):
        one_N1 = close_NLL.amax(dim=2).argmax(dim=1, keepdim=True)
        other_N1 = close_NLL[image_N1, one_N1].argmax(dim=2)
        kept_N1, gone_N1 = torch.minimum(one_N1, other_N1), torch.maximum(one_N1, other_N1)
        pair_N2 = torch.cat((kept_N1, gone_N1), dim=1)
        size_N2 = size_NL.gather(1, pair_N2)
        sum_N1 = size_N2.sum(dim=1, keepdim=True)
        mean_NL = (size_N2.unsqueeze(2) * close_NLL[image_N1, pair_N2]).sum(dim=1) / sum_N1
        both_N2L = torch.stack((mean_NL, gone_NL), dim=1)
        close_NLL[image_N1, pair_N2] = both_N2L
        close_NLL[image_N1, :, pair_N2] = both_N2L
        size_NL.scatter_(1, kept_N1, sum_N1)
        part_NL = torch.where(part_NL == gone_N1, kept_N1, part_NL)
    return ((part_NL == patch_L).cumsum(dim=1) - 1).gather(1, part_NL)

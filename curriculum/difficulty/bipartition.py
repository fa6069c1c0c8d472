"""MainCluster: a difficulty that cuts the patches of an image in two and follows the side of the object.

Shape suffixes: N images, L patches, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.difficulty.features import directions
from curriculum.noise import Noise
from curriculum.teacher import Teacher

_SQUARINGS, _PRODUCTS = 4, 8  # 2**4 * (8 + 1) steps of power iteration
_EVEN = 1e-3  # a difference between the ends of an eigenvector that is none


class MainCluster(DifficultyEstimator):
    """Scores each patch by how much it belongs to the object: Self-guided MAE (Shin et al. 2024, arXiv 2507.19773).

    All patches of an image are joined in a graph, whose weights are (1 + cosine) / 2 of the teacher's features less
    the image's mean. A normalized cut (Shi and Malik 2000) parts them in two: at the mean of the second smallest
    generalized eigenvector of the graph's Laplacian. The main cluster is the side of that vector's largest value, by
    amount; where both ends are the same, to a thousandth, the side that does not hold the first patch. The score is a
    patch's mean cosine with the patches of the main cluster, in [-1, 1].

    The eigenvector comes from 144 steps of power iteration, which makes no host wait for a device as `eigh` does; where
    the second and the third eigenvalue are closer than that tells apart, it is a mixture of both vectors. Patches that
    are all the same score the same.

    Self-guided MAE asks the model itself. How cosines become weights, and that the mean is taken out, is our choice.
    """

    needs = ("features",)

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        unit_NLD = directions(batch, teacher)
        main_NL1 = main_cluster(unit_NLD).unsqueeze(2)
        toward_ND1 = unit_NLD.mT @ (main_NL1.float() / main_NL1.sum(dim=1, keepdim=True).clamp(min=1))
        return (unit_NLD @ toward_ND1).squeeze(2)


def main_cluster(unit_NLD: Tensor) -> Tensor:
    """Return which patches a normalized cut counts to the object, bool [N, L]; see `MainCluster`.

    Args:
        unit_NLD: what the cosines are taken of, float32, of length 1.
    """
    vector_NL = second_eigenvector((1 + unit_NLD @ unit_NLD.mT) / 2)
    high_N1, low_N1 = vector_NL.amax(dim=1, keepdim=True), -vector_NL.amin(dim=1, keepdim=True)
    upper_NL = vector_NL >= vector_NL.mean(dim=1, keepdim=True)
    even_N1 = (high_N1 - low_N1).abs() <= _EVEN * torch.maximum(high_N1, low_N1)
    lower_is_main_N1 = torch.where(even_N1, upper_NL[:, :1], low_N1 > high_N1)
    return upper_NL ^ lower_is_main_N1


def second_eigenvector(weights_NLL: Tensor) -> Tensor:
    """Return the second smallest generalized eigenvector of a graph's Laplacian, float32 [N, L], of either sign.

    It is the largest of the normalized weights, once what belongs to the eigenvalue 1 is taken out.

    Args:
        weights_NLL: the weights between patches, symmetric, positive semidefinite and of positive sums.
    """
    root_NL1 = weights_NLL.sum(dim=2, keepdim=True).sqrt()
    first_NL1 = root_NL1 / root_NL1.norm(dim=1, keepdim=True)
    power_NLL = weights_NLL / root_NL1 / root_NL1.mT - first_NL1 * first_NL1.mT
    for _ in range(_SQUARINGS):
        power_NLL = power_NLL @ power_NLL
        # So that no power becomes too small a number.
        power_NLL /= power_NLL.diagonal(dim1=1, dim2=2).sum(dim=1).clamp(min=1e-30).view(-1, 1, 1)
    longest_N11 = power_NLL.diagonal(dim1=1, dim2=2).argmax(dim=1).view(-1, 1, 1)
    vector_NL1 = power_NLL.gather(2, longest_N11.expand(-1, power_NLL.shape[1], 1))
    for _ in range(_PRODUCTS):
        vector_NL1 = power_NLL @ vector_NL1
        vector_NL1 /= vector_NL1.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return (vector_NL1 / root_NL1).squeeze(2)

"""RankMe: how many directions the features fill, without labels.

Shape suffixes: N images, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.chosen_images import ChosenImages, features_of
from hpm.evaluation.feature_rank import FeatureRank, effective_number
from hpm.metrics import DECLARED
from hpm.models.base import MaskedModel


def effective_rank(features_ND: Tensor) -> float:
    """The exponential of the entropy of the singular values' shares (Garrido et al. 2023, arXiv 2210.02885, eq. 1).

    Args:
        features_ND: features, not all of them 0.

    Returns:
        1 where all lie on a line through 0, min(N, D) where they fill all directions alike.
    """
    return effective_number(torch.linalg.svdvals(features_ND.double()))


class RankMe(FeatureRank):
    """The effective rank of the student's features of un-augmented training images: a curve that needs no labels.

    Published as a criterion for choosing among trainings of one method; a rank says nothing of features of another
    width, and a higher one need not be better between methods. The paper takes 25,600 images.

    Metrics: `rankme/pretrained` and, with `baselines`, `rankme/initialization`.

    Args:
        images: training images, at most, the same for every seed. Default 2048.
        pool: "mean" of the patch tokens, or the class "token". Default "mean".
        baselines: whether to measure the random initialization too. Default False.
        num_workers: processes that load images; 0 for none but this one. Default 0.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "rankme"
    metrics = DECLARED[protocol]

    def __init__(
        self, *, images: int = 2048, pool: str = "mean", baselines: bool = False, num_workers: int = 0
    ) -> None:
        super().__init__(images=images, pool=pool, baselines=baselines, num_workers=num_workers)

    def features(self, context: EvaluationContext, model: MaskedModel, images: ChosenImages) -> Tensor:
        """Float32 [N, D], of the whole images."""
        return features_of(context, model, images, pool=self.pool, num_workers=self.num_workers)

    def rank(self, features: Tensor) -> float:
        """`effective_rank`."""
        return effective_rank(features)

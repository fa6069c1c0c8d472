"""Features of the moving average as targets.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, P values of a patch, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from curriculum import Teacher
from hpm.models.base import MaskedModel
from hpm.runtime.precision import full_precision
from hpm.targets.features import FeatureTarget


class TeacherFeatures(FeatureTarget):
    """The features of the moving average itself: the patch tokens of its encoder, of the full image.

    A difficulty that asks the teacher for its features too shares the forward pass.

    Args:
        standardized: subtract the mean of both sides' values, divide them by their standard deviation (BootMAE's layer
            norm, arXiv 2207.07116), and average the squared differences, which makes 2 - 2 times the correlation.
            Default False: 2 - 2 times the cosine. BootMAE's features come before the encoder's last norm; these behind
            it, with the norm's own weights.
    """

    needs = ("features",)
    standardized = False  # also of a class of somebody's own, whose `__init__` does not call ours

    def __init__(self, *, standardized: bool = False) -> None:
        self.standardized = standardized

    def outputs(self, model: MaskedModel) -> int:
        return model.encoder.num_features

    def features(self, images_NCHW: Tensor, teacher: Teacher | None) -> Tensor:
        """[N, L, D] of the full image."""
        assert teacher is not None
        return teacher.features(images_NCHW)

    def loss(self, prediction_NMP: Tensor, target_NMP: Tensor) -> Tensor:
        if not self.standardized:
            return super().loss(prediction_NMP, target_NMP)
        predicted, wanted = (
            F.layer_norm(full_precision(side), side.shape[-1:], eps=1e-6) for side in (prediction_NMP, target_NMP)
        )
        return (predicted - wanted).square().mean(dim=-1)

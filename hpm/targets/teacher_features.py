"""Features of the moving average as targets.

Shape suffixes: N images, C channels, H and W pixels, L patches, D width.
"""

from __future__ import annotations

from torch import Tensor

from curriculum import Teacher
from hpm.models.base import MaskedModel
from hpm.targets.features import FeatureTarget


class TeacherFeatures(FeatureTarget):
    """The features of the moving average itself: the patch tokens of its encoder, of the full image.

    A difficulty that asks the teacher for its features too shares the forward pass.
    """

    needs = ("features",)

    def outputs(self, model: MaskedModel) -> int:
        return model.encoder.num_features

    def features(self, images_NCHW: Tensor, teacher: Teacher | None) -> Tensor:
        """[N, L, D] of the full image."""
        assert teacher is not None
        return teacher.features(images_NCHW)

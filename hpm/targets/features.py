"""The base of targets that are features: vectors of which the direction counts.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, P values of a patch, D width.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from curriculum import Mask, Teacher
from curriculum.sizes import Size
from hpm.runtime.precision import full_precision
from hpm.targets.base import Target


class FeatureTarget(Target):
    """Base of the feature targets: a vector for each patch of the full image, of which the direction counts."""

    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: Teacher | None = None) -> Tensor:
        with torch.no_grad():
            return mask.gather_masked(self.features(images_NCHW, teacher))

    @abstractmethod
    def features(self, images_NCHW: Tensor, teacher: Teacher | None) -> Tensor:
        """[N, L, D] of the full image."""

    def loss(self, prediction_NMP: Tensor, target_NMP: Tensor) -> Tensor:
        """[N, M]: both sides L2-normalized, squared distance summed over the channels: 2 - 2 times the cosine."""
        prediction_NMP = F.normalize(full_precision(prediction_NMP), dim=-1)
        target_NMP = F.normalize(full_precision(target_NMP), dim=-1)
        return (prediction_NMP - target_NMP).square().sum(dim=-1)

"""Targets: what is reconstructed, and what an error in it costs.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, P pixels of a patch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from curriculum import Mask
from hpm.losses import full_precision
from hpm.patches import patchify


class Target(ABC):
    """What the reconstructor is asked for."""

    @abstractmethod
    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: int) -> Tensor:
        """[N, M, P]: the target of each masked patch."""

    def loss(self, prediction_NMP: Tensor, target_NMP: Tensor) -> Tensor:
        """[N, M]: the loss of each masked patch, the mean squared error over its values, in float32 or better."""
        return (full_precision(prediction_NMP) - full_precision(target_NMP)).square().mean(dim=-1)

    def restore(self, prediction_NMP: Tensor, images_NCHW: Tensor, mask: Mask, patch_size: int) -> Tensor:
        """[N, M, P]: the prediction as pixels of the (data-normalized) image, to look at."""
        return prediction_NMP


class Pixels(Target):
    """The pixels themselves (HPM's published commands)."""

    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: int) -> Tensor:
        return mask.gather_masked(patchify(images_NCHW, patch_size))


class NormalizedPixels(Target):
    """Pixels standardized in each patch, MAE's `norm_pix_loss`.

    Mean and unbiased variance over the patch's values, with 1e-6 added to the variance.
    """

    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: int) -> Tensor:
        pixels_NMP = Pixels()(images_NCHW, mask, patch_size)
        mean, variance = _statistics(pixels_NMP)
        return (pixels_NMP - mean) / (variance + 1e-6).sqrt()

    def restore(self, prediction_NMP: Tensor, images_NCHW: Tensor, mask: Mask, patch_size: int) -> Tensor:
        """The prediction with each patch's own, true mean and contrast given back, as is customary."""
        mean, variance = _statistics(Pixels()(images_NCHW, mask, patch_size))
        return prediction_NMP * (variance + 1e-6).sqrt() + mean


def _statistics(pixels_NMP: Tensor) -> tuple[Tensor, Tensor]:
    return pixels_NMP.mean(dim=-1, keepdim=True), pixels_NMP.var(dim=-1, keepdim=True)

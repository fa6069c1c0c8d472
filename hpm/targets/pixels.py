"""Pixels as targets.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, P pixels of a patch.
"""

from __future__ import annotations

from torch import Tensor

from curriculum import Mask, Teacher
from curriculum.sizes import Size
from curriculum.validation import require_choice
from hpm.models.patches import patchify
from hpm.runtime.precision import full_precision
from hpm.targets.base import Target

ERRORS = ("squared", "absolute")
PIXELS = "pixels"
"""The kind of all targets that are pixels, as `Target.kind` says it, published weights' among them."""


class Pixels(Target):
    """The pixels themselves (HPM's published commands, SimMIM).

    Args:
        error: "squared", or "absolute" as in SimMIM; the mean over a patch's pixels.
    """

    in_pass = True
    error = "squared"  # also of a class of somebody's own, whose `__init__` does not call ours

    def __init__(self, *, error: str = "squared") -> None:
        require_choice(type(self).__name__, ERRORS, error=error)
        self.error = error

    @property
    def kind(self) -> str:
        return PIXELS

    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: Teacher | None = None) -> Tensor:
        return _masked_pixels(images_NCHW, mask, patch_size)

    def loss(self, prediction_NMP: Tensor, target_NMP: Tensor) -> Tensor:
        if self.error == "squared":
            return super().loss(prediction_NMP, target_NMP)
        return (full_precision(prediction_NMP) - full_precision(target_NMP)).abs().mean(dim=-1)

    def restore(self, prediction_NMP: Tensor, images_NCHW: Tensor, mask: Mask, patch_size: Size) -> Tensor:
        return prediction_NMP


class NormalizedPixels(Pixels):
    """Pixels standardized in each patch, MAE's `norm_pix_loss`.

    Mean and unbiased variance over the patch's values, with 1e-6 added to the variance.

    Args:
        error: "squared" as in MAE, or "absolute"; the mean over a patch's values.
    """

    in_pass = True

    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: Teacher | None = None) -> Tensor:
        centered_NMP, _, deviation_NM1 = _standardized(_masked_pixels(images_NCHW, mask, patch_size))
        return centered_NMP / deviation_NM1

    def restore(self, prediction_NMP: Tensor, images_NCHW: Tensor, mask: Mask, patch_size: Size) -> Tensor:
        """The prediction with each patch's own, true mean and contrast given back, as is customary."""
        _, mean_NM1, deviation_NM1 = _standardized(_masked_pixels(images_NCHW, mask, patch_size))
        return prediction_NMP * deviation_NM1 + mean_NM1


def _masked_pixels(images_NCHW: Tensor, mask: Mask, patch_size: Size) -> Tensor:
    return mask.gather_masked(patchify(images_NCHW, patch_size))


def _standardized(pixels_NMP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels less each patch's mean, that mean, and by what they are divided."""
    mean_NM1 = pixels_NMP.mean(dim=-1, keepdim=True)
    centered_NMP = pixels_NMP - mean_NM1
    # Not `var`, which takes eight times as long on a CPU: its kernel is not vectorized.
    variance_NM1 = centered_NMP.square().sum(dim=-1, keepdim=True) / (pixels_NMP.shape[-1] - 1)
    return centered_NMP, mean_NM1, (variance_NM1 + 1e-6).sqrt()

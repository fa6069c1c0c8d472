"""Pixels as targets.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, P pixels of a patch.
"""

from __future__ import annotations

from torch import Tensor

from curriculum import Mask, Teacher
from curriculum.sizes import Size
from curriculum.validation import require_choice
from hpm.models.base import MaskedModel
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
        each_channel: standardize each channel of a patch for itself, as BootMAE does (arXiv 2207.07116; there with the
            biased variance, and 1e-5). Default False. Needs patches of more than one pixel.
    """

    in_pass = True
    each_channel = False

    def __init__(self, *, error: str = "squared", each_channel: bool = False) -> None:
        super().__init__(error=error)
        self.each_channel = each_channel

    def outputs(self, model: MaskedModel) -> int:
        if self.each_channel and model.patch_pixels == model.in_chans:
            raise ValueError(
                "NormalizedPixels.each_channel = True standardizes over a patch's pixels, and a patch has one; set it "
                "to False"
            )
        return super().outputs(model)

    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: Teacher | None = None) -> Tensor:
        pixels = self._by_unit(_masked_pixels(images_NCHW, mask, patch_size), images_NCHW.shape[1])
        centered, _, deviation = _standardized(pixels)
        return self._by_patch(centered / deviation)

    def restore(self, prediction_NMP: Tensor, images_NCHW: Tensor, mask: Mask, patch_size: Size) -> Tensor:
        """The prediction with each patch's own, true mean and contrast given back, as is customary."""
        channels = images_NCHW.shape[1]
        _, mean, deviation = _standardized(self._by_unit(_masked_pixels(images_NCHW, mask, patch_size), channels))
        return self._by_patch(self._by_unit(prediction_NMP, channels) * deviation + mean)

    def _by_unit(self, values_NMP: Tensor, channels: int) -> Tensor:
        """The values of each patch, or of each of its channels, [N, M, C, pixels], as the last axis."""
        return values_NMP.unflatten(-1, (-1, channels)).mT if self.each_channel else values_NMP

    def _by_patch(self, values: Tensor) -> Tensor:
        """[N, M, P]: back again."""
        return values.mT.flatten(2) if self.each_channel else values


def _masked_pixels(images_NCHW: Tensor, mask: Mask, patch_size: Size) -> Tensor:
    return mask.gather_masked(patchify(images_NCHW, patch_size))


def _standardized(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels less their mean over the last axis, that mean, and by what they are divided."""
    mean = pixels.mean(dim=-1, keepdim=True)
    centered = pixels - mean
    # Not `var`, which takes eight times as long on a CPU: its kernel is not vectorized.
    variance = centered.square().sum(dim=-1, keepdim=True) / (pixels.shape[-1] - 1)
    return centered, mean, (variance + 1e-6).sqrt()

"""What a difficulty estimator may ask of a teacher.

A protocol: `hpm.methods.teacher.EMATeacher` implements it, and so may anything else. Each method is one forward
pass of just the parts it needs, without gradients, so that a teacher computes only what somebody asks for.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, D width.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from curriculum.mask import Mask


@runtime_checkable
class Teacher(Protocol):
    """A frozen model that looks at images for the curriculum."""

    def unsupported_reason(self, capability: str) -> str | None:
        """Why this teacher has no `capability` (the name of a method below), or None where it has it."""

    def predicted_loss(self, images_NCHW: Tensor) -> Tensor:
        """[N, L] the loss predictor's score of every patch of the full, unmasked image."""

    def reconstruction_loss(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """[N, M] the reconstruction loss of the masked patches."""

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, L] the last block's attention from the class token to each patch, mean over heads."""

    def features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D] the encoder's patch tokens of the full image."""

    def student_features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D] the same of the student that this teacher follows."""

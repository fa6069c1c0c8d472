"""Teacher: what a difficulty estimator may ask of a model.

It is a protocol, which `hpm.methods.teacher.EMATeacher` implements and any other class may. Each method is one
forward pass of the parts it needs, without gradients, so that a teacher computes only what an estimator asks for.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, Q queries, D width. Attention is [N, heads,
L].
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from curriculum.mask import Mask


@runtime_checkable
class Teacher(Protocol):
    """A frozen model that looks at images for the curriculum."""

    def unsupported_reason(self, capability: str) -> str | None:
        """Say why this teacher lacks `capability`, the name of a method below; None where it has it."""

    def predicted_loss(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        """Return the loss predictor's scores of patches.

        Args:
            images_NCHW: the images.
            mask: what of them is masked. Default None, nothing.

        Returns:
            [N, L], of every patch of the full image; with a mask [N, M], of the masked patches.
        """

    def reconstruction_loss(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """Return the reconstruction loss of the masked patches, [N, M]."""

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """Return each head's attention from the class token to each patch in the last block, [N, heads, L]."""

    def sampled_attention(self, images_NCHW: Tensor, queries_NQ: Tensor) -> Tensor:
        """Return the first block's attention from the given patches to each patch, summed over them, [N, L].

        It is the mean over heads. No block is run.

        Args:
            images_NCHW: the images.
            queries_NQ: int64, the patches of each image whose attention it is, in raster order from 0.
        """

    def features(self, images_NCHW: Tensor) -> Tensor:
        """Return the encoder's patch tokens of the full image, [N, L, D]."""

    def student_features(self, images_NCHW: Tensor) -> Tensor:
        """Return the patch tokens of the student that this teacher follows, of the full image, [N, L, D]."""

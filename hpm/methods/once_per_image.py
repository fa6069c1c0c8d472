"""A teacher that looks at an image once, however many masks the image is given.

Shape suffixes: N rows, C channels, H and W pixels, L patches, M masked, Q queries, D width,
P outputs of the head, Y classes.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from curriculum import Batch, Mask
from hpm.targets.base import TargetTeacher


class StepTeacher(TargetTeacher, Protocol):
    """What a training step asks: for the curriculum, the target and the supervision."""

    def class_logits(self, images_NCHW: Tensor) -> Tensor:
        """[N, Y]: the classifier on the full image."""


def once_per_image(teacher: StepTeacher, batch: Batch) -> StepTeacher:
    """The teacher, for a batch in which it need not look at every row.

    Args:
        teacher: what answers.
        batch: what it will be asked about; of other images every row is looked at.
    """
    return teacher if batch.masks_per_image == 1 else _OncePerImage(teacher, batch)


class _OncePerImage:
    """Asks another of the first row of each image, and repeats what it says of that, where this depends on the image
    alone. What depends on a mask or on queries as well differs from row to row, and is asked of each.

    Args:
        teacher: the other.
        batch: see `once_per_image`.
    """

    def __init__(self, teacher: StepTeacher, batch: Batch) -> None:
        self._teacher = teacher
        self._rows = batch.masks_per_image
        self._all_NCHW = batch.images
        self._first_NCHW = batch.images[:: self._rows].contiguous()  # one tensor, which the teacher knows again

    def unsupported_reason(self, capability: str) -> str | None:
        """See `curriculum.Teacher`."""
        return self._teacher.unsupported_reason(capability)

    def predicted_loss(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        """[N, L]; with a mask [N, M], of every row."""
        if mask is not None:
            return self._teacher.predicted_loss(images_NCHW, mask)
        return self._repeated(self._teacher.predicted_loss(self._few(images_NCHW)), images_NCHW)

    def reconstruction_loss(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """[N, M], of every row."""
        return self._teacher.reconstruction_loss(images_NCHW, mask)

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, heads, L]."""
        return self._repeated(self._teacher.attention(self._few(images_NCHW)), images_NCHW)

    def sampled_attention(self, images_NCHW: Tensor, queries_NQ: Tensor) -> Tensor:
        """[N, L], of every row."""
        return self._teacher.sampled_attention(images_NCHW, queries_NQ)

    def features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D]."""
        return self._repeated(self._teacher.features(self._few(images_NCHW)), images_NCHW)

    def student_features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D]."""
        return self._repeated(self._teacher.student_features(self._few(images_NCHW)), images_NCHW)

    def head_outputs(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, P]."""
        return self._repeated(self._teacher.head_outputs(self._few(images_NCHW)), images_NCHW)

    def class_logits(self, images_NCHW: Tensor) -> Tensor:
        """[N, Y]."""
        return self._repeated(self._teacher.class_logits(self._few(images_NCHW)), images_NCHW)

    def _few(self, images_NCHW: Tensor) -> Tensor:
        return self._first_NCHW if images_NCHW is self._all_NCHW else images_NCHW

    def _repeated(self, answer: Tensor, images_NCHW: Tensor) -> Tensor:
        return answer.repeat_interleave(self._rows, dim=0) if images_NCHW is self._all_NCHW else answer

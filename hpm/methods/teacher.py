"""Teachers: what a difficulty estimator and a target may ask of a model without gradients.

`StudentTeacher` is the student itself; `EMATeacher` an exponential moving average of it.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, Q queries, D width, Y classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from curriculum import Mask
from curriculum.validation import require_choice
from hpm.models.base import MaskedModel
from hpm.models.low_precision import LowPrecisionCopy
from hpm.runtime.cuda_graphs import GraphedScores
from hpm.runtime.distributed import local_tensor
from hpm.runtime.last_call_cache import LastCallCache
from hpm.runtime.settings import TEACHER_PRECISIONS
from hpm.targets import Target


class ModelTeacher:
    """A model that answers as `curriculum.Teacher` asks, each question by one forward pass of just the parts it needs.

    Args:
        model: what answers.
        target: what the reconstruction's loss is measured against.
        student: the model that learns.
        autocast: dtype of low-precision forward passes, None for the weights' own.
        reference: the teacher whose features a target may ask for; None for this one.

    Attributes:
        averaged_model: the moving average that training updates and checkpoints hold; None where there is none.
    """

    averaged_model: MaskedModel | None = None

    def __init__(
        self,
        model: MaskedModel,
        target: Target,
        *,
        student: MaskedModel,
        autocast: torch.dtype | None = None,
        reference: ModelTeacher | None = None,
    ) -> None:
        self.model = model
        self.target = target
        self.autocast = autocast
        self._student = student
        self._reference = reference
        self._features = LastCallCache()
        self._compiled: Callable[..., Tensor] | None = None

    def compile(self, **options: Any) -> None:
        """Compile the pass that predicts losses, which a curriculum asks for at every step; shapes are static.

        Args:
            options: `torch.compile`'s.
        """
        self._compiled = torch.compile(self._scoring_model.predict_loss, dynamic=False, **options)

    def compile_blocks(self, **options: Any) -> None:
        """Compile the transformer blocks instead, one for all of the same shape.

        Args:
            options: `torch.compile`'s.
        """

    def record(self, sample_NCHW: Tensor) -> None:
        """Record the pass that predicts losses of full images like these; see `hpm.runtime.cuda_graphs`."""

    def update(self, student: MaskedModel, decay: float) -> None:
        """Follow the student by one step."""

    def unsupported_reason(self, capability: str) -> str | None:
        """See `curriculum.Teacher`."""
        if not callable(getattr(self, capability, None)):
            return "this teacher has none"
        return self.model.unsupported_reason(capability)

    @torch.no_grad()
    def predicted_loss(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        """[N, L] float32: the loss predictor on the full image; [N, M] at the masked patches. Reconstructs nothing."""
        return self._predict_loss(images_NCHW, mask)

    @torch.no_grad()
    def reconstruction_loss(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """[N, M] float32: the loss of reconstructing the masked patches."""
        with self._inference():
            prediction_NMP = self.model.reconstruct(images_NCHW, mask)
        target_NMP = self.target(images_NCHW, mask, self.model.patch_size, self._reference or self)
        return self.target.loss(prediction_NMP, target_NMP)

    @torch.no_grad()
    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, heads, L] float32: the last block's class-token attention."""
        with self._inference():
            return self.model.attention(images_NCHW)

    @torch.no_grad()
    def sampled_attention(self, images_NCHW: Tensor, queries_NQ: Tensor) -> Tensor:
        """[N, L] float32: the first block's attention from the given patches, summed; no block is run."""
        with self._inference():
            return self.model.sampled_attention(images_NCHW, queries_NQ)

    @torch.no_grad()
    def features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D] float32: the encoder's patch tokens; computed once where several ask for the same images'."""
        return self._features(images_NCHW, self._compute_features, state=self._state_of_weights())

    @torch.no_grad()
    def head_outputs(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, P] float32: what the reconstruction's head makes of the same features."""
        features_NLD = self.features(images_NCHW)
        with self._inference():
            return self.model.head_outputs(features_NLD).float()

    @torch.no_grad()
    def class_logits(self, images_NCHW: Tensor) -> Tensor:
        """[N, Y] float32: the classifier on the full image."""
        with self._inference():
            return self.model.class_logits(images_NCHW).float()

    @torch.no_grad()
    def student_features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D] float32: the student's patch tokens."""
        with self._inference():
            return self._student.features(images_NCHW).float()

    @property
    def _scoring_model(self) -> MaskedModel:
        """The model that predicts losses."""
        return self.model

    def _predict_loss(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        with self._inference():
            return (self._compiled or self.model.predict_loss)(images_NCHW, mask).float()

    def _compute_features(self, images_NCHW: Tensor) -> Tensor:
        with self._inference():
            return self.model.features(images_NCHW).float()

    def _state_of_weights(self) -> object:
        """Another one after every change of the weights."""
        return local_tensor(self.model.mask_token)._version

    def _inference(self) -> torch.autocast:
        device = self.model.mask_token.device.type
        return torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None)


class StudentTeacher(ModelTeacher):
    """The student itself, where a method keeps no moving average: no memory, no updates.

    Args:
        student: what answers.
        target: what the reconstruction's loss is measured against.
        autocast: dtype of low-precision forward passes, None for the weights' own.
        reference: the teacher whose features a target may ask for; None for this one.
    """

    def __init__(
        self,
        student: MaskedModel,
        target: Target,
        *,
        autocast: torch.dtype | None = None,
        reference: ModelTeacher | None = None,
    ) -> None:
        super().__init__(student, target, student=student, autocast=autocast, reference=reference)


class EMATeacher(ModelTeacher):
    """An exponential moving average (EMA) of the whole student.

    Args:
        student: copied, weights and device.
        target: what the reconstruction's loss is measured against.
        autocast: dtype of low-precision forward passes, None for the weights' own.
        precision: what the losses are predicted in: "same" as the student, by autocast; "bf16", by a `LowPrecisionCopy`
            that follows the average. Only the order of the losses matters to a curriculum.
        averaged: the average's weights at its start; None for a copy of the student's.
    """

    averaged_model: MaskedModel

    def __init__(
        self,
        student: MaskedModel,
        target: Target,
        *,
        autocast: torch.dtype | None = None,
        precision: str = "same",
        averaged: MaskedModel | None = None,
    ) -> None:
        require_choice("EMATeacher", TEACHER_PRECISIONS, precision=precision)
        model = copy.deepcopy(student) if averaged is None else averaged
        super().__init__(model.requires_grad_(False).eval(), target, student=student, autocast=autocast)
        self.averaged_model = self.model
        self._updates = 0
        self._copy: LowPrecisionCopy | None = None
        if precision != "same" and student.loss_predictor is not None:
            self._copy = LowPrecisionCopy(self.model)
        self._recorded: GraphedScores | None = None

    def compile_blocks(self, **options: Any) -> None:
        copied = [] if self._copy is None else self._copy.model.blocks()
        for block in [*self.model.blocks(), *copied]:
            block.compile(dynamic=False, **options)

    def record(self, sample_NCHW: Tensor) -> None:
        if self.unsupported_reason("predicted_loss") is None:
            self._recorded = GraphedScores(self._predict_loss, sample_NCHW)

    @torch.no_grad()
    def update(self, student: MaskedModel, decay: float) -> None:
        """One step of the average, all parameters at once."""
        self._updates += 1
        averages = [local_tensor(parameter) for parameter in self.model.parameters()]
        torch._foreach_lerp_(averages, [local_tensor(parameter) for parameter in student.parameters()], 1 - decay)

    @torch.no_grad()
    def predicted_loss(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        if self._copy is not None:
            self._copy.follow(self._state_of_weights())
        if mask is None and self._recorded is not None:
            return self._recorded(images_NCHW)
        return self._predict_loss(images_NCHW, mask)

    @property
    def _scoring_model(self) -> MaskedModel:
        return self.model if self._copy is None else self._copy.model

    def _predict_loss(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        if self._copy is None:
            return super()._predict_loss(images_NCHW, mask)
        return (self._compiled or self._copy.model.predict_loss)(images_NCHW.to(torch.bfloat16), mask).float()

    def _state_of_weights(self) -> tuple[int, object]:
        """Another one after every step of the average, and after every checkpoint that is read into it.

        The version that torch counts does not tell the steps: on CUDA, `torch._foreach_lerp_` leaves it as it was.
        """
        return self._updates, super()._state_of_weights()

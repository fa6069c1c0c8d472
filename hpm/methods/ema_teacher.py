"""The moving average of the student: what a difficulty estimator may ask of it, and how fast it forgets.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, D width.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from curriculum import Mask
from hpm.models.base import MaskedModel
from hpm.models.low_precision import LowPrecisionCopy
from hpm.optim.clock import Clock
from hpm.runtime.cuda_graphs import GraphedScores
from hpm.runtime.distributed import local_tensor
from hpm.runtime.last_call_cache import LastCallCache
from hpm.targets import Target


class Decay(ABC):
    """How much of the teacher stays at each step."""

    @abstractmethod
    def __call__(self, clock: Clock) -> float:
        """Decay in [0, 1): the teacher becomes decay * teacher + (1 - decay) * student."""


class HorizonDecay(Decay):
    """A constant decay that suits the run's length: the average reaches back over `fraction` of its steps.

    Args:
        fraction: averaging horizon, 1 / (1 - decay) steps, as a share of all steps; in (0, 1].
    """

    def __init__(self, *, fraction: float = 0.05) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"HorizonDecay.fraction = {fraction} must lie in (0, 1]")
        self.fraction = float(fraction)

    def __call__(self, clock: Clock) -> float:
        return 1 - 1 / max(1.0, self.fraction * clock.total_steps)


class RampDecay(Decay):
    """`start + min(epoch, epochs) / epochs * (end - start)`, in absolute epochs: HPM's published ramp.

    Made for ImageNet's 5,000 steps an epoch. On a run of a few hundred steps the teacher would keep most of its
    random start.

    Args:
        start: decay in the first epoch.
        end: decay from epoch `epochs` on.
        epochs: length of the ramp.
    """

    def __init__(self, *, start: float = 0.999, end: float = 0.9999, epochs: int = 100) -> None:
        if not (0 <= start < 1 and 0 <= end < 1):
            raise ValueError(f"RampDecay.start = {start} and RampDecay.end = {end} must lie in [0, 1)")
        if epochs < 1:
            raise ValueError(f"RampDecay.epochs = {epochs} must be at least 1")
        self.start = float(start)
        self.end = float(end)
        self.epochs = epochs

    def __call__(self, clock: Clock) -> float:
        return self.start + min(clock.epoch, self.epochs) / self.epochs * (self.end - self.start)


class EMATeacher:
    """An exponential moving average of the whole student; implements `curriculum.Teacher`.

    Each question is one forward pass, without gradients, of just the parts it needs.

    Args:
        student: copied, weights and device.
        target: what the reconstruction's loss is measured against.
        autocast: dtype of low-precision forward passes, None for the weights' own.
        average: False to be the student itself rather than an average of it: no memory, no updates.
        precision: what the losses are predicted in: "same" as the student, by autocast; "bf16" or "fp8", by a
            `LowPrecisionCopy` that follows the average. Only the order of the losses matters to a curriculum.
        reference: the teacher whose features a target may ask for; None for this one.
    """

    def __init__(
        self,
        student: MaskedModel,
        target: Target,
        *,
        autocast: torch.dtype | None = None,
        average: bool = True,
        precision: str = "same",
        reference: EMATeacher | None = None,
    ) -> None:
        self.model = copy.deepcopy(student).requires_grad_(False).eval() if average else student
        self._student = student
        self.target = target
        self.autocast = autocast
        self.average = average
        self._updates = 0
        self._copy: LowPrecisionCopy | None = None
        if precision != "same" and average and student.loss_predictor is not None:
            self._copy = LowPrecisionCopy(self.model, precision)
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._recorded: GraphedScores | None = None
        self._features = LastCallCache()
        self._reference = reference

    def compile(self, *, blocks: bool = False, backend: str = "inductor", mode: str = "default") -> None:
        """Compile the pass that a loss-predicting curriculum asks for at every step; shapes are static.

        Args:
            blocks: compile the transformer blocks instead, one for all of the same shape; see `Method.compile`.
            backend: torch.compile's.
            mode: torch.compile's.
        """
        scoring = self.model if self._copy is None else self._copy.model
        if not blocks:
            self._compiled = torch.compile(scoring.predict_loss, dynamic=False, backend=backend, mode=mode)
        elif self.average:  # else the student's blocks are compiled already
            for block in [*self.model.blocks(), *([] if self._copy is None else scoring.blocks())]:
                block.compile(dynamic=False, backend=backend, mode=mode)

    def record(self, sample_NCHW: Tensor) -> None:
        """Record the pass that predicts losses of images like these as a CUDA graph; see `hpm.runtime.cuda_graphs`."""
        if self.average and self.unsupported_reason("predicted_loss") is None:
            self._recorded = GraphedScores(self._predict_loss, sample_NCHW)

    @torch.no_grad()
    def update(self, student: MaskedModel, decay: float) -> None:
        """One step of the average, all parameters at once."""
        if self.average:
            self._updates += 1
            mine, theirs = list(self.model.parameters()), list(student.parameters())
            torch._foreach_lerp_([local_tensor(p) for p in mine], [local_tensor(p) for p in theirs], 1 - decay)

    def _state_of_weights(self) -> tuple[int, int]:
        """Another one after every step of the average, and after every checkpoint that is read into it.

        The version that torch counts does not tell the steps: on CUDA, `torch._foreach_lerp_` leaves it as it was.
        """
        return self._updates, local_tensor(self.model.mask_token)._version

    def unsupported_reason(self, capability: str) -> str | None:
        """See `curriculum.Teacher`."""
        if not callable(getattr(self, capability, None)):
            return "this teacher has none"
        return self.model.unsupported_reason(capability)

    def _inference(self) -> torch.autocast:
        device = self.model.mask_token.device.type
        return torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None)

    @torch.no_grad()
    def predicted_loss(self, images_NCHW: Tensor) -> Tensor:
        """[N, L] float32: the loss predictor on the full image. Reconstructs nothing."""
        if self._copy is not None:
            self._copy.follow(self._state_of_weights())
        return (self._recorded or self._predict_loss)(images_NCHW)

    def _predict_loss(self, images_NCHW: Tensor) -> Tensor:
        if self._copy is not None:
            return (self._compiled or self._copy.model.predict_loss)(images_NCHW.to(torch.bfloat16)).float()
        with self._inference():
            return (self._compiled or self.model.predict_loss)(images_NCHW).float()

    @torch.no_grad()
    def reconstruction_loss(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """[N, M] float32: the loss of reconstructing the masked patches."""
        with self._inference():
            prediction_NMP = self.model.reconstruct(images_NCHW, mask)
        target_NMP = self.target(images_NCHW, mask, self.model.patch_size, self._reference or self)
        return self.target.loss(prediction_NMP, target_NMP)

    @torch.no_grad()
    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, L] float32: the last block's class-token attention, mean over heads."""
        with self._inference():
            return self.model.attention(images_NCHW)

    @torch.no_grad()
    def features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D] float32: the encoder's patch tokens; computed once where several ask for the same images'."""
        return self._features(images_NCHW, self._compute_features, state=self._state_of_weights())

    def _compute_features(self, images_NCHW: Tensor) -> Tensor:
        with self._inference():
            return self.model.features(images_NCHW).float()

    @torch.no_grad()
    def student_features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D] float32: the student's patch tokens."""
        with self._inference():
            return self._student.features(images_NCHW).float()

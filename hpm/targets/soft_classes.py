"""The base of targets that are distributions over prototypes.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, P prototypes.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from curriculum import Mask, Scheduler
from curriculum.schedulers import Scalar, require_time_alone, values_of
from curriculum.sizes import Size
from curriculum.validation import require_at_least, require_in
from hpm.models.base import MaskedModel
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.precision import full_precision
from hpm.targets.assignments import Assignment
from hpm.targets.base import Target, TargetTeacher

_LOWEST = 0.001  # temperature


class SoftClasses(Target):
    """Base of the targets that assign each patch of the full image to P prototypes, softly.

    The loss of a patch is the cross-entropy of what is predicted, a softmax of the head's outputs over
    `student_temperature`, to what was assigned.

    Args:
        prototypes: P.
        teacher_temperature: of what is assigned, a number or a scheduler of time.
        student_temperature: of what is predicted.
    """

    stateful = True
    prototypes_name = "prototypes"  # what configs call their number
    assignment: Assignment
    autocast: torch.dtype | None = None

    def __init__(self, *, prototypes: int, teacher_temperature: Scalar, student_temperature: float) -> None:
        owner = type(self).__name__
        require_in(owner, "[2, 131072]", **{self.prototypes_name: prototypes})
        require_at_least(owner, _LOWEST, student_temperature=student_temperature)
        require_time_alone(f"{owner}.teacher_temperature", teacher_temperature)
        for value in values_of(teacher_temperature):
            require_at_least(owner, _LOWEST, teacher_temperature=value)
        self.prototypes = prototypes
        self.teacher_temperature = teacher_temperature
        self.student_temperature = float(student_temperature)
        self.advance(1.0)  # what a finished model is judged by

    @property
    def kind(self) -> str:
        return f"{type(self).__name__} of {self.prototypes}"

    def outputs(self, model: MaskedModel) -> int:
        return self.prototypes

    def advance(self, progress: float) -> None:
        temperature = self.teacher_temperature
        self.temperature = float(temperature(progress) if isinstance(temperature, Scheduler) else temperature)

    def prepare(self, device: torch.device, *, autocast: torch.dtype | None = None, **known: object) -> None:
        assert self.module is not None  # by `outputs`
        self.module.to(device)
        self.autocast = autocast

    @abstractmethod
    def logits(self, images_NCHW: Tensor, teacher: TargetTeacher) -> Tensor:
        """[N, L, P] of the full image, by which patches are assigned."""

    def __call__(
        self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: TargetTeacher | None = None
    ) -> Tensor:
        assert teacher is not None
        with torch.no_grad():
            return mask.gather_masked(self.assignment(self.logits(images_NCHW, teacher), self.temperature))

    def learn(
        self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: TargetTeacher, processes: DistributedContext
    ) -> Tensor:
        with torch.enable_grad():
            logits_NLP = self.logits(images_NCHW, teacher)
        assigned_NLP = self.assignment.learn(logits_NLP.detach(), self.temperature, processes)
        if self.trained:
            self.own_loss(logits_NLP, assigned_NLP).backward()
        return mask.gather_masked(assigned_NLP)

    def own_loss(self, logits_NLP: Tensor, assigned_NLP: Tensor) -> Tensor:
        """What the network behind the logits minimizes: their mean cross-entropy to the assignments of all patches."""
        with torch.enable_grad():
            return cross_entropy(full_precision(logits_NLP) / self.student_temperature, assigned_NLP).mean()

    def loss(self, prediction_NMP: Tensor, target_NMP: Tensor) -> Tensor:
        """[N, M]: the cross-entropy, in float32 or better."""
        return cross_entropy(full_precision(prediction_NMP) / self.student_temperature, full_precision(target_NMP))

    def kept_values(self, num_patches: int) -> int:
        # Logits, their scores, these balanced, and the assignments.
        return 4 * num_patches * self.prototypes


def cross_entropy(logits_NMP: Tensor, assigned_NMP: Tensor) -> Tensor:
    """[N, M]: of a softmax of logits to distributions; minus the sum of p log q, where the p sum to 1."""
    return logits_NMP.logsumexp(dim=-1) - (assigned_NMP * logits_NMP).sum(dim=-1)

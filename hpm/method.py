"""Method: the mathematics of one training step.

    batch -> Curriculum.draw -> Mask -> student -> target -> losses -> (backward, optimizer) -> teacher update

Shape suffixes: N images, M masked patches, P values of a patch's target.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from curriculum import Batch, Curriculum, Mask, Noise
from hpm.losses import PredictionLoss, RelativeLoss, ranking_accuracy
from hpm.model import MaskedAutoencoder
from hpm.targets import Target
from hpm.teacher import Decay, HorizonDecay, MovingAverageTeacher


@dataclass(frozen=True)
class Losses:
    """A step's losses, on the device.

    Args:
        total: what is minimized; carries the gradient.
        reconstruction: mean loss of the masked patches.
        prediction: loss of the loss predictor, 0 where there is none.
        predicted_NM: predicted losses, or None.
        true_NM: the reconstruction's loss of each masked patch.
        mask: what was masked.
    """

    total: Tensor
    reconstruction: Tensor
    prediction: Tensor
    predicted_NM: Tensor | None
    true_NM: Tensor
    mask: Mask

    def ranking_accuracy(self) -> Tensor:
        """Share of pairs of masked patches that the student's prediction orders rightly; NaN without predictor."""
        if self.predicted_NM is None:
            return self.true_NM.new_full((), float("nan"))
        return ranking_accuracy(self.predicted_NM, self.true_NM)


class Method:
    """Masked image modelling under a curriculum: student, teacher, target and losses.

    Args:
        model: the student.
        curriculum: draws the masks.
        target: what is reconstructed.
        prediction_loss: how the loss predictor learns; unused where the model has none.
        prediction_weight: its weight beside the reconstruction's loss (HPM: 1).
        teacher_decay: how fast the moving average forgets.
    """

    def __init__(
        self,
        *,
        model: MaskedAutoencoder,
        curriculum: Curriculum,
        target: Target,
        prediction_loss: PredictionLoss | None = None,
        prediction_weight: float = 1.0,
        teacher_decay: Decay | None = None,
    ) -> None:
        for name, value, kind in (
            ("model", model, MaskedAutoencoder),
            ("curriculum", curriculum, Curriculum),
            ("target", target, Target),
            ("prediction_loss", prediction_loss, PredictionLoss | None),
            ("teacher_decay", teacher_decay, Decay | None),
        ):
            if not isinstance(value, kind):
                expected = getattr(kind, "__name__", str(kind))
                raise ValueError(f"Method.{name} must be a {expected}, got {value!r}")
        if prediction_weight < 0:
            raise ValueError(f"Method.prediction_weight = {prediction_weight} must not be negative")
        self.student, self.curriculum, self.target = model, curriculum, target
        self.prediction_loss = RelativeLoss() if prediction_loss is None else prediction_loss
        self.prediction_weight = float(prediction_weight)
        self.teacher_decay = HorizonDecay() if teacher_decay is None else teacher_decay
        self.autocast: torch.dtype | None = None
        self.teacher = MovingAverageTeacher(model, target)
        curriculum.check(self.teacher, model.num_patches)
        for metric in curriculum.scheduler.watches:
            if metric not in self.feedback:
                name = type(curriculum.scheduler).__name__
                raise ValueError(f"{name} watches the metric {metric!r}; this run measures {', '.join(self.feedback)}")

    def prepare(self, device: torch.device, *, autocast: torch.dtype | None, seed: int) -> None:
        """Initialize the weights from the seed, move to the device, and start the teacher as the student's copy."""
        self.student.cpu().init_weights(torch.Generator().manual_seed(seed))
        self.student.to(device)
        self.autocast = autocast
        self.copy_teacher()

    def copy_teacher(self) -> None:
        """Start the moving average anew from the student's present weights."""
        self.teacher = MovingAverageTeacher(self.student, self.target, autocast=self.autocast)

    @property
    def feedback(self) -> tuple[str, ...]:
        """The metrics that the curriculum is told of at the end of each interval."""
        prediction = () if self.student.loss_predictor is None else ("prediction_loss", "prediction_accuracy")
        return ("loss", "reconstruction_loss", *prediction)

    def initial_copy(self, seed: int) -> MaskedAutoencoder:
        """A model as it was before training: the same architecture at the initialization that `seed` gives."""
        initial = copy.deepcopy(self.teacher.model)
        initial.to("cpu").init_weights(torch.Generator().manual_seed(seed))
        return initial.to(self.student.mask_token.device)

    def losses(self, batch: Batch, progress: float, noise: Noise) -> Losses:
        """Draw a mask, reconstruct, predict the reconstruction's loss."""
        mask = self.curriculum.draw(batch, self.teacher, progress, noise)
        device = batch.images.device.type
        with torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            output = self.student(batch.images, mask)
        target_NMP = self.target(batch.images, mask, batch.patch_size)
        true_NM = self.target.loss(output.reconstruction_NMP, target_NMP)
        reconstruction = true_NM.mean()
        if output.predicted_loss_NM is None:
            return Losses(reconstruction, reconstruction, torch.zeros_like(reconstruction), None, true_NM, mask)
        total, count = self.prediction_loss(output.predicted_loss_NM, true_NM)
        prediction = total / count.clamp(min=1)
        return Losses(
            reconstruction + self.prediction_weight * prediction,
            reconstruction,
            prediction,
            output.predicted_loss_NM,
            true_NM,
            mask,
        )

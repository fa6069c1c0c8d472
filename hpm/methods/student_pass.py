"""The student's forward pass with its losses: what is compiled, and what distributed training wraps.

Shape suffixes: N images, C channels, H and W pixels, L patches in R rows and K columns, V visible, M masked, P values
of a patch's target, Y classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curriculum import Mask
from hpm.methods.loss_prediction import PredictionLoss, ranking_accuracy
from hpm.methods.supervision_losses import SupervisionLosses
from hpm.models.base import MaskedModel
from hpm.models.patches import patch_grid
from hpm.targets import Target

# Mean reconstruction loss; sum and count of the prediction loss; predicted and true losses [N, M]; sum and count of the
# dense prediction's loss; class logits [N, Y]. What there is not is None.
PassOutput = tuple[
    Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor, tuple[Tensor, Tensor] | None, Tensor | None
]


@dataclass(frozen=True)
class Losses:
    """A step's losses, on the device.

    Args:
        total: what is minimized; carries the gradient.
        reconstruction: mean loss of the masked patches, weighted where `Method.neighbor_weight` says so.
        prediction: loss of the loss predictor at mask tokens, 0 where there is none; dense prediction adds to `total`
            alone, so that this stays comparable from step to step.
        predicted_NM: predicted losses, or None.
        true_NM: the reconstruction's loss of each masked patch.
        mask: what was masked.
        supervision: what labels and pseudo-labels teach; None where nothing does.
    """

    total: Tensor
    reconstruction: Tensor
    prediction: Tensor
    predicted_NM: Tensor | None
    true_NM: Tensor
    mask: Mask
    supervision: SupervisionLosses | None = None

    def detach(self) -> Losses:
        """The same without the graph behind them."""
        return replace(
            self,
            total=self.total.detach(),
            reconstruction=self.reconstruction.detach(),
            prediction=self.prediction.detach(),
            supervision=None if self.supervision is None else self.supervision.detach(),
        )

    def measured(self) -> Tensor:
        """Float32 [3], or [8] with supervision: total, reconstruction, prediction, and `SupervisionLosses.measured`."""
        terms_3 = torch.stack([self.total.detach(), self.reconstruction.detach(), self.prediction.detach()])
        return terms_3 if self.supervision is None else torch.cat([terms_3, self.supervision.measured()])

    def ranking_accuracy(self) -> Tensor:
        """Share of pairs of masked patches that the student's prediction orders rightly; NaN without predictor."""
        if self.predicted_NM is None:
            return self.true_NM.new_full((), float("nan"))
        return ranking_accuracy(self.predicted_NM, self.true_NM)


class StudentPass(nn.Module):
    """The student's forward pass and its losses.

    Args:
        student: the model.
        target: what it reconstructs.
        prediction_loss: how its loss predictor learns.
        autocast: dtype of low-precision passes, None for float32.
        neighbor_weight: as `Method` takes it.
    """

    def __init__(
        self,
        student: MaskedModel,
        target: Target,
        prediction_loss: PredictionLoss,
        autocast: torch.dtype | None,
        neighbor_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.student = student
        self.target = target
        self.prediction_loss = prediction_loss
        self.autocast = autocast
        self.neighbor_weight = neighbor_weight

    def forward(
        self,
        images_NCHW: Tensor,
        visible_NV: Tensor,
        masked_NM: Tensor,
        target_NMP: Tensor | None,
        blanked_NV: Tensor | None = None,
        dense: bool = False,
    ) -> PassOutput:
        """Reconstruct, predict, measure; classify.

        The target is computed here where none is given: what `Target.in_pass` allows. A dense pass also predicts the
        losses of the masked patches from the full image, at their content tokens, which have no gradient.
        """
        mask = Mask(visible_NV, masked_NM, blanked=blanked_NV)
        with torch.autocast(images_NCHW.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            output = self.student(images_NCHW, mask)
            densely_NM = mask.gather_masked(self.student.predict_loss(images_NCHW, detached=True)) if dense else None
        if target_NMP is None:
            target_NMP = self.target(images_NCHW, mask, self.student.patch_size)
        true_NM = self.target.loss(output.reconstruction_NMP, target_NMP)
        reconstruction = self._mean(true_NM, mask, patch_grid(images_NCHW, self.student.patch_size))
        if output.predicted_loss_NM is None:
            return reconstruction, None, None, None, true_NM.detach(), None, output.logits_NY
        total, count = self.prediction_loss(output.predicted_loss_NM, true_NM)
        densely = None if densely_NM is None else self.prediction_loss(densely_NM, true_NM)
        predicted_NM = output.predicted_loss_NM.detach()
        return reconstruction, total, count, predicted_NM, true_NM.detach(), densely, output.logits_NY

    def _mean(self, true_NM: Tensor, mask: Mask, grid: tuple[int, int]) -> Tensor:
        """The mean loss of the masked patches, each weighted by how many of those around it are hidden."""
        if self.neighbor_weight == 0:
            return true_NM.mean()
        hidden_NL = true_NM.new_ones(len(true_NM), grid[0] * grid[1]).scatter(1, mask.visible, 0.0)
        around_N1RK = F.avg_pool2d(hidden_NL.view(-1, 1, *grid), 3, stride=1, padding=1)
        return ((1 + self.neighbor_weight * around_N1RK.flatten(1).gather(1, mask.masked)) * true_NM).mean()

"""LossMemory: what each patch cost when it was last reconstructed.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, StepOutcome, TrainingContext
from curriculum.difficulty.score_memory import ScoreMemory
from curriculum.noise import Noise
from curriculum.teacher import Teacher
from curriculum.validation import require_in


class LossMemory(DifficultyEstimator):
    """Scores patches by the losses that training itself measured of them, moved to the present crop.

    Every step measures the loss of the patches that it masks; nothing else is computed, so that neither a teacher nor
    a loss predictor is needed. A step's losses are standardized over the masked patches of each image: the model
    learns, and a patch that was masked long ago would look hard beside others. A patch that is masked again takes the
    mean of its old score and the new one, weighted by `momentum`. Where a step gives an image several masks, the losses
    of each are standardized alone, and a patch in several of them takes the mean. Scores follow the pixels: every image
    has a map of them, which covers all of it that was ever shown; see `ScoreMemory.blend`. What was never masked is not
    scored; before an image comes a second time its mask follows no scores.

    It takes I * L half-precision numbers of memory on the device, and in the checkpoint: 0.53 GB for ImageNet's
    1,281,167 images of 196 patches. Processes exchange what they measure, so that masks do not depend on their number.

    The idea of taking a sample's last training loss for its difficulty is that of online batch selection (Loshchilov
    and Hutter 2015, arXiv 1511.06343), here for patches.

    Args:
        momentum: weight of the old score, in [0, 1). Default 0.5.
        predicted: keep the losses that the student's loss predictor gave for the masked patches in the place of those
            that were measured. Default False.
    """

    stateful = True
    first_scored_epoch = 1

    def __init__(self, *, momentum: float = 0.5, predicted: bool = False) -> None:
        require_in("LossMemory", "[0, 1)", momentum=momentum)
        self.momentum = float(momentum)
        self.predicted = predicted
        self.needs_predictions = predicted

    def check(self, num_patches: int, num_masked: int) -> None:
        """Refuse a single masked patch, whose loss says nothing beside those of its image."""
        if num_masked < 2:
            raise ValueError(
                "LossMemory compares the losses of an image's masked patches, and Curriculum.mask_ratio masks "
                f"{num_masked} of {num_patches}; raise it until two are masked"
            )

    def check_reconstructed(self, reconstructed: int) -> None:
        """Refuse a single patch that is reconstructed, likewise."""
        if reconstructed < 2:
            raise ValueError(
                "LossMemory compares the losses of an image's masked patches, and PartialReconstruction.share has "
                f"{reconstructed} of them reconstructed; raise it until two are"
            )

    def prepare(self, context: TrainingContext) -> None:
        """Make room for the scores of every image of the training split."""
        self.module = ScoreMemory(context)

    @property
    def needs_one_grid(self) -> bool:
        """Losses are kept by where they are in the image."""
        return False

    def kept_bytes(self, num_images: int, num_patches: int) -> int:
        """Return the bytes of the scores of I images."""
        return ScoreMemory.bytes_for(num_images, num_patches)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        # Images outside a training run were never reconstructed.
        if self.module is None or batch.indices is None:
            return torch.full((len(batch), batch.num_patches), float("nan"), device=batch.images.device)
        assert isinstance(self.module, ScoreMemory)
        return self.module.recall(batch)

    def remember(self, outcome: StepOutcome) -> None:
        """Take the losses of the patches that a step masked."""
        batch, mask = outcome.batch, outcome.mask
        if self.module is None or batch.indices is None:
            return
        assert isinstance(self.module, ScoreMemory)
        loss_NM = outcome.predicted_NM if self.predicted else outcome.true_NM
        assert loss_NM is not None  # `needs_predictions` has seen to it
        unknown_NL = torch.full((len(batch), batch.num_patches), float("nan"), device=loss_NM.device)
        # A loss that is not finite, of a step that is skipped, changes nothing.
        self.module.blend(batch, unknown_NL.scatter(1, mask.masked, standardized(loss_NM)), self.momentum)


def standardized(loss_NM: Tensor) -> Tensor:
    """Return an image's losses less their mean, in units of their deviation, float32; NaN where one is not finite."""
    loss_NM = loss_NM.float()
    deviation_N1, mean_N1 = torch.std_mean(loss_NM, dim=1, correction=0, keepdim=True)
    return (loss_NM - mean_N1) / (deviation_N1 + 1e-6)

"""PredictedLoss: HPM's own difficulty."""

from __future__ import annotations

from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.noise import Noise
from curriculum.teacher import Teacher


class PredictedLoss(DifficultyEstimator):
    """Scores patches by the teacher's loss predictor on the full, unmasked image (HPM, arXiv 2304.05919, sec. 3.3)."""

    needs = ("predicted_loss",)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        return teacher.predicted_loss(batch.images)

"""What several tests of difficulty estimators share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from curriculum import (
    Batch,
    DifficultyEstimator,
    Noise,
    TrainingContext,
)
from curriculum.testing import TinyTeacher

CPU = torch.device("cpu")


def score(estimator: DifficultyEstimator, batch: Batch, *, step: int = 0, num_masked: int = 12) -> Tensor:
    noise = Noise.for_batch(seed=3, step=step, batch_size=len(batch))
    return estimator(batch, TinyTeacher(), num_masked=num_masked, noise=noise)


def training_context(**changes: object) -> TrainingContext:
    given = TrainingContext(
        num_images=200, steps_per_epoch=5, in_chans=3, patch_size=4, grid=(4, 4), device=CPU, seed=0
    )
    return replace(given, **changes)  # type: ignore[arg-type]


class Given(DifficultyEstimator):
    """Scores that were said before."""

    def __init__(self, scores: list[float]) -> None:
        self.given = scores

    def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> Tensor:
        return torch.tensor(self.given).expand(len(batch), -1)

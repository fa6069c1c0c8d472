"""What several tests of difficulty estimators share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from curriculum import (
    Batch,
    DifficultyEstimator,
    Mask,
    Noise,
    StepOutcome,
    TrainingContext,
)
from curriculum.testing import TinyTeacher

CPU = torch.device("cpu")


def score(estimator: DifficultyEstimator, batch: Batch, *, step: int = 0, num_masked: int = 12) -> Tensor:
    noise = Noise.for_batch(seed=3, step=step, batch_size=len(batch))
    return estimator(batch, TinyTeacher(), num_masked=num_masked, noise=noise)


def train(
    estimator: DifficultyEstimator,
    batch: Batch,
    *,
    step: int = 0,
    mask: Mask | None = None,
    loss_NL: Tensor | None = None,
    predicted_NL: Tensor | None = None,
) -> Tensor:
    """Score a batch and tell the estimator what the step measured of it, as a training step does."""
    scores_NL = score(estimator, batch, step=step)
    if mask is None:
        mask = Mask.from_keys(Noise.for_batch(seed=9, step=step, batch_size=len(batch)).bits(batch.num_patches), 12)
    loss_NL = torch.ones(len(batch), batch.num_patches) if loss_NL is None else loss_NL
    estimator.remember(
        StepOutcome(
            step=step,
            batch=batch,
            mask=mask,
            scores_NL=scores_NL,
            true_NM=mask.gather_masked(loss_NL),
            predicted_NM=None if predicted_NL is None else mask.gather_masked(predicted_NL),
        )
    )
    return scores_NL


def crop(batch: Batch, indices: list[int], box: list[float], *, flip: bool = False) -> Batch:
    """Crops of images of a data set, all the same."""
    count = len(indices)
    return replace(
        batch,
        indices=torch.tensor(indices),
        boxes=torch.tensor([box]).expand(count, 4),
        flips=torch.full((count,), flip),
    )


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

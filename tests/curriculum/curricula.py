"""What several tests of `Curriculum` share."""

from __future__ import annotations

from curriculum import (
    Batch,
    Constant,
    Curriculum,
    DifficultyEstimator,
    HardestFirst,
    Noise,
    PredictedLoss,
    Sampler,
    Scheduler,
)


def build(
    scheduler: Scheduler | None = None,
    difficulty: DifficultyEstimator | None = None,
    sampler: Sampler | None = None,
    mask_ratio: float = 0.75,
) -> Curriculum:
    return Curriculum(
        scheduler=scheduler or Constant(value=0.5),
        difficulty=difficulty or PredictedLoss(),
        sampler=sampler or HardestFirst(),
        mask_ratio=mask_ratio,
    )


def noise_for(batch: Batch, *, seed: int = 0, step: int = 0, first: int = 0) -> Noise:
    return Noise.for_batch(seed=seed, step=step, batch_size=len(batch), first=first)

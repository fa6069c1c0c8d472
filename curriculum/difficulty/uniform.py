"""Uniform: a difficulty that is the same for every patch."""

from __future__ import annotations

from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.noise import Noise
from curriculum.teacher import Teacher


class Uniform(DifficultyEstimator):
    """Scores every patch alike: ties are broken at random, and every mask is uniform as MAE's."""

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        return batch.images.new_zeros(len(batch), batch.num_patches)

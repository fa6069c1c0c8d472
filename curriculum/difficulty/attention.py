"""Attention: a difficulty that follows what the teacher attends to."""

from __future__ import annotations

from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.noise import Noise
from curriculum.teacher import Teacher


class Attention(DifficultyEstimator):
    """Scores patches by the teacher's last-block class-token attention, mean over heads (AttMask, arXiv 2203.12719)."""

    needs = ("attention",)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        return teacher.attention(batch.images)

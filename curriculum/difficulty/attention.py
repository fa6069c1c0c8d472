"""Attention: a difficulty that follows what the teacher attends to.

Shape suffixes: N images, H heads, L patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.noise import Noise
from curriculum.teacher import Teacher


class Attention(DifficultyEstimator):
    """Scores patches by the teacher's last-block class-token attention, mean over heads (AttMask, arXiv 2203.12719).

    Args:
        normalize: shift and scale the attention of each head, image by image, to [0, 1] before the mean, so that a head
            that attends to few patches counts no more than others (AMT, arXiv 2211.15362). Default False, as AttMask.
    """

    needs = ("attention",)

    def __init__(self, *, normalize: bool = False) -> None:
        self.normalize = normalize

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        attention_NHL = teacher.attention(batch.images)
        if self.normalize:
            attention_NHL = attention_NHL - attention_NHL.amin(dim=2, keepdim=True)
            # A head that attends to all patches alike is 0 everywhere.
            tiny = torch.finfo(attention_NHL.dtype).tiny
            attention_NHL = attention_NHL / attention_NHL.amax(dim=2, keepdim=True).clamp(min=tiny)
        return attention_NHL.mean(dim=1)

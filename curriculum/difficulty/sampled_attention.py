"""SampledAttention: a difficulty that follows what some random patches attend to.

Shape suffixes: N images, L patches, Q patches that were drawn.
"""

from __future__ import annotations

from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.noise import Noise
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_at_least


class SampledAttention(DifficultyEstimator):
    """Scores patches by how much a random few of them attend to each, in the teacher's first block.

    The masking of SMA (Xie et al. 2024, arXiv 2402.14789): in every step, and for every image anew, Q patches are drawn
    without replacement, and the rows of the attention map that belong to them are summed. What is masked differs from
    step to step, because what a few patches attend to does. Q is `round(M / masked_per_query)`, at least 1, where M
    patches are masked.

    SMA asks the model in training itself, and this the teacher, a moving average. The settings that SMA's authors
    released for chemistry and physics also take one random head of each drawn patch and mask the drawn patches
    themselves; this takes the mean over heads, as their code does by default.

    It costs the embedding of the full image and the projection of the first block: no block is run.

    Args:
        masked_per_query: how many patches are masked for each patch that is drawn, at least 1. Default 3, as released
            for chemistry and physics, whose models attend to their own input as a vision transformer does.
    """

    needs = ("sampled_attention",)

    def __init__(self, *, masked_per_query: float = 3.0) -> None:
        require_at_least("SampledAttention", 1, masked_per_query=masked_per_query)
        self.masked_per_query = float(masked_per_query)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        drawn = max(1, round(num_masked / self.masked_per_query))
        chance_NL = noise.fold(Stream.SAMPLED_QUERIES).bits(batch.num_patches)
        return teacher.sampled_attention(batch.images, chance_NL.topk(drawn, dim=1).indices)

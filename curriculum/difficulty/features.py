"""Difficulties that read the teacher's features.

Shape suffixes: N images, L patches, D width, G parts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.noise import Noise
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_at_least, require_in


def directions(batch: Batch, teacher: Teacher | None) -> Tensor:
    """Return the direction in which each patch differs from the mean of its image, float32 [N, L, D] of length 1.

    They are of the teacher's features of the full image. Those of masked autoencoders all point much the same way, and
    would all be alike without the mean taken out. A patch that is the mean has the direction 0.
    """
    assert teacher is not None
    features_NLD = teacher.features(batch.images).float()
    return F.normalize(features_NLD - features_NLD.mean(dim=1, keepdim=True), dim=2)


class FeatureNorm(DifficultyEstimator):
    """Scores each patch by the norm of the teacher's feature of it, from the full image."""

    needs = ("features",)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        return teacher.features(batch.images).float().norm(dim=2)


class Disagreement(DifficultyEstimator):
    """Scores each patch by how much teacher and student disagree about it.

    The score is 1 - the cosine of their features of the full image. It costs a forward pass of each encoder.
    """

    needs = ("features", "student_features")

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        theirs_NLD = teacher.student_features(batch.images).float()
        return 1 - F.cosine_similarity(teacher.features(batch.images).float(), theirs_NLD, dim=2)


class Parts(DifficultyEstimator):
    """Gives the number of the part that each patch belongs to, not a difficulty; for the sampler `Quotas`.

    Parts are the clusters of an image's own features by k-means on the unit sphere. SemMAE (arXiv 2206.10207) learns
    them in a stage of its own; this finds them on the fly.

    Args:
        parts: G, the number of parts. Default 6.
        iterations: iterations of k-means. The first center is a random patch, each further one the patch that is
            farthest from all centers before it. Default 5.
    """

    needs = ("features",)
    reversible = False

    def __init__(self, *, parts: int = 6, iterations: int = 5) -> None:
        require_at_least("Parts", 1, parts=parts)
        require_in("Parts", "[0, 1000]", iterations=iterations)
        self.num_parts: int = parts
        self.iterations = iterations

    def check(self, num_patches: int, num_masked: int) -> None:
        """Refuse more parts than patches."""
        if self.num_parts > num_patches:
            raise ValueError(f"Parts.parts = {self.num_parts} is more than the {num_patches} patches of an image")

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        features_NLD = F.normalize(teacher.features(batch.images).float(), dim=2)
        n, num_patches, width = features_NLD.shape
        first_N = (noise.fold(Stream.PARTS_FIRST_CENTER).uniform(1).squeeze(1) * num_patches).long()

        def at(index_N: Tensor) -> Tensor:
            return features_NLD.gather(1, index_N.view(n, 1, 1).expand(n, 1, width))

        centers = [at(first_N)]
        nearest_NL = (features_NLD * centers[0]).sum(2)
        for _ in range(1, self.num_parts):
            centers.append(at(nearest_NL.argmin(dim=1)))
            nearest_NL = torch.maximum(nearest_NL, (features_NLD * centers[-1]).sum(2))
        centers_NGD = torch.cat(centers, dim=1)
        for _ in range(self.iterations):
            member_NLG = F.one_hot(self._assign(features_NLD, centers_NGD), self.num_parts).float()
            sums_NGD = member_NLG.transpose(1, 2) @ features_NLD
            empty_NG1 = (member_NLG.sum(dim=1) == 0).unsqueeze(2)
            centers_NGD = torch.where(empty_NG1, centers_NGD, F.normalize(sums_NGD, dim=2))
        return self._assign(features_NLD, centers_NGD).float()

    @staticmethod
    def _assign(features_NLD: Tensor, centers_NGD: Tensor) -> Tensor:
        return (features_NLD @ centers_NGD.transpose(1, 2)).argmax(dim=2)

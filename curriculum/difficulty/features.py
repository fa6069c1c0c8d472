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
from curriculum.teacher import Teacher


class FeatureNorm(DifficultyEstimator):
    """The length of the teacher's feature of each patch, of the full image."""

    needs = ("features",)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        return teacher.features(batch.images).float().norm(dim=2)


class Disagreement(DifficultyEstimator):
    """How much teacher and student disagree about a patch: 1 - the cosine of their features of the full image.

    Cost: a forward pass of each encoder.
    """

    needs = ("features", "student_features")

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        theirs_NLD = teacher.student_features(batch.images).float()
        return 1 - F.cosine_similarity(teacher.features(batch.images).float(), theirs_NLD, dim=2)


class Parts(DifficultyEstimator):
    """Not a difficulty but the number of the part that each patch belongs to; for the sampler `Quotas`.

    Parts are the clusters of an image's own features by k-means on the unit sphere. SemMAE (arXiv 2206.10207) learns
    them in a stage of its own; this finds them on the fly.

    Args:
        parts: G, how many.
        iterations: of k-means. The first center is a random patch, each further one the patch farthest from all.
    """

    needs = ("features",)
    reversible = False

    def __init__(self, *, parts: int = 6, iterations: int = 5) -> None:
        if parts < 1:
            raise ValueError(f"Parts.parts = {parts} must be at least 1")
        if iterations < 0:
            raise ValueError(f"Parts.iterations = {iterations} must be at least 0")
        self.parts = parts
        self.iterations = iterations

    def check(self, num_patches: int, num_masked: int) -> None:
        """Refuse more parts than patches."""
        if self.parts > num_patches:
            raise ValueError(f"Parts.parts = {self.parts} is more than the {num_patches} patches of an image")

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        features_NLD = F.normalize(teacher.features(batch.images).float(), dim=2)
        n, num_patches, width = features_NLD.shape
        first_N = (noise.uniform(1).squeeze(1) * num_patches).long()

        def at(index_N: Tensor) -> Tensor:
            return features_NLD.gather(1, index_N.view(n, 1, 1).expand(n, 1, width))

        centers = [at(first_N)]
        nearest_NL = (features_NLD * centers[0]).sum(2)
        for _ in range(1, self.parts):
            centers.append(at(nearest_NL.argmin(dim=1)))
            nearest_NL = torch.maximum(nearest_NL, (features_NLD * centers[-1]).sum(2))
        centers_NGD = torch.cat(centers, dim=1)
        for _ in range(self.iterations):
            member_NLG = F.one_hot(self._assign(features_NLD, centers_NGD), self.parts).float()
            sums_NGD = member_NLG.transpose(1, 2) @ features_NLD
            empty_NG1 = (member_NLG.sum(dim=1) == 0).unsqueeze(2)
            centers_NGD = torch.where(empty_NG1, centers_NGD, F.normalize(sums_NGD, dim=2))
        return self._assign(features_NLD, centers_NGD).float()

    @staticmethod
    def _assign(features_NLD: Tensor, centers_NGD: Tensor) -> Tensor:
        return (features_NLD @ centers_NGD.transpose(1, 2)).argmax(dim=2)

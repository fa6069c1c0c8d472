"""Difficulties of images that lie in their features: how far from what is typical, how near to another class.

Shape suffixes: I images of the training split, D width, K clusters or classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.images.base import PassDifficulty, normalized
from curriculum.noise import Noise, hash_words
from curriculum.streams import Stream
from curriculum.validation import require_at_least

_ROWS = 16384  # images that are compared with all centers at a time


class PrototypeDistance(PassDifficulty):
    """Scores an image by its distance to the nearest prototype, the centers of k-means over all images' features.

    After the prototype curriculum (Lin et al. 2024, arXiv 2411.10685), which shows images near the centers first. As
    far as the publication could be read here (its abstract and summaries): features, the number of clusters and the
    passes are our choices. Features are the mean patch tokens of the teacher's encoder at length 1, compared by their
    cosine; centers start at images that are drawn at random.

    Args:
        clusters: K, at most the number of images. Default 100.
        iterations: of k-means. Default 20.
        first_epoch: the epoch before which images are first measured, counted from 0: a network that has learned
            nothing knows no prototypes. Default 1.
        every: epochs between two passes over all images; 0 for a single one. Default 0.
    """

    measures = "features"
    never_negative = True

    def __init__(self, *, clusters: int = 100, iterations: int = 20, first_epoch: int = 1, every: int = 0) -> None:
        require_at_least("PrototypeDistance", 1, clusters=clusters, iterations=iterations)
        require_at_least("PrototypeDistance", 0, first_epoch=first_epoch, every=every)
        super().__init__(first_epoch=first_epoch, every=every)
        self.clusters = clusters
        self.iterations = iterations

    def check(self, num_images: int) -> None:
        if self.clusters > num_images:
            raise ValueError(
                f"PrototypeDistance.clusters = {self.clusters} must be at most the number of training images, "
                f"{num_images}"
            )

    def score(self, measured: Tensor, labels_I: Tensor | None, *, seed: int) -> Tensor:
        points_ID = normalized(measured)
        keys_I = Noise(hash_words(seed, Stream.PROTOTYPES), 0, torch.arange(len(points_ID))).bits(1).squeeze(1)
        centers_KD = points_ID[keys_I.argsort(stable=True)[: self.clusters]]
        for _ in range(self.iterations):
            nearest_I, _ = _nearest(points_ID, centers_KD)
            sums_KD = torch.zeros_like(centers_KD).index_add_(0, nearest_I, points_ID)
            # A center that no image is nearest to stays where it is.
            kept_K1 = torch.bincount(nearest_I, minlength=self.clusters).unsqueeze(1) == 0
            centers_KD = torch.where(kept_K1, centers_KD, normalized(sums_KD))
        _, cosine_I = _nearest(points_ID, centers_KD)
        return (1 - cosine_I).clamp(min=0)


class LabelNoise(PassDifficulty):
    """Scores an image by how much nearer the mean of another class is than that of its own: its label may be wrong.

    The score is the cosine with the nearest mean of another class, less that with the mean of the class that the label
    says, of the features of `PrototypeDistance`. An image counts in its class's mean. It is our own rule, in the sense
    of a nearest-class-mean classifier's margin.

    Args:
        first_epoch: the epoch before which images are first measured, counted from 0. Default 1.
        every: epochs between two passes over all images; 0 for a single one. Default 0.
    """

    measures = "features"
    needs_labels = True

    def __init__(self, *, first_epoch: int = 1, every: int = 0) -> None:
        require_at_least("LabelNoise", 0, first_epoch=first_epoch, every=every)
        super().__init__(first_epoch=first_epoch, every=every)

    def score(self, measured: Tensor, labels_I: Tensor | None, *, seed: int) -> Tensor:
        assert labels_I is not None
        points_ID = normalized(measured)
        classes = int(labels_I.max()) + 1
        means_KD = normalized(points_ID.new_zeros(classes, points_ID.shape[1]).index_add_(0, labels_I, points_ID))
        absent_K = torch.bincount(labels_I, minlength=classes) == 0
        scores = []
        for rows, labels in zip(points_ID.split(_ROWS), labels_I.split(_ROWS), strict=True):
            cosines = (rows @ means_KD.T).masked_fill(absent_K, -torch.inf)
            own = cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
            other = cosines.scatter(1, labels.unsqueeze(1), -torch.inf).amax(dim=1)
            scores.append(other - own)
        return torch.cat(scores)


def _nearest(points_ID: Tensor, centers_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Find each point's nearest center, int64 [I], and the cosine with it, [I]."""
    found = [(rows @ centers_KD.T).max(dim=1) for rows in points_ID.split(_ROWS)]
    return torch.cat([one.indices for one in found]), torch.cat([one.values for one in found])

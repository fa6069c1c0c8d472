"""Classifiers of patches, for the frozen probes of segmentation.

Shape suffixes: K training patches, M patches whose pixels are classified, N images, T tokens of an image, Q pixels that
a token stands for, D width, C classes, S S height and width in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hpm.data import IGNORED
from hpm.errors import UserError
from hpm.evaluation.dense.class_iou import mean_iou
from hpm.evaluation.dense.patch_tokens import cells_of, class_shares, maps_from
from hpm.evaluation.frozen_probe import standardizer
from hpm.evaluation.knn import nearest
from hpm.evaluation.linear import logistic_regression
from hpm.runtime.progress import track

_VALUES = 1 << 24  # votes or logits at a time


class Segmented(NamedTuple):
    """Patch features of some images, and the classes of the images' pixels.

    Args:
        features_NTD: float32, on the CPU.
        maps_NSS: int16.
        grid: rows and columns of tokens.
    """

    features_NTD: Tensor
    maps_NSS: Tensor
    grid: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.maps_NSS.shape[1], self.maps_NSS.shape[2]


class PatchClassifier(ABC):
    """Classifies pixels by the features of patches. What it has to choose is what does best on validation images.

    Attributes:
        chosen: what was chosen, by the setting's name.
    """

    chosen: dict[str, float]

    @abstractmethod
    def fit(
        self, train: Segmented, validation: Segmented | None, *, num_classes: int, device: torch.device
    ) -> PatchClassifier:
        """Fit it.

        Args:
            train: what it learns from.
            validation: what it chooses by; None where it has nothing to choose.
            num_classes: C.
            device: where to compute.
        """

    @abstractmethod
    def predict(self, features_NTD: Tensor) -> Tensor:
        """The class of every pixel, int16 [N, S, S] on the CPU."""


class KNNPatches(PatchClassifier):
    """Weighted k-NN: of the k most similar training patches each pixel votes for the class at its place.

    Where none of them is annotated at a place, the votes of all their pixels decide.

    As CAPI's segmentation (Darcet et al. 2025, arXiv 2502.08769), with votes that are weighted as `KNN`'s are.

    Args:
        ks: neighbors that vote, to choose from.
        temperature: of the vote.
    """

    def __init__(self, ks: Sequence[int], temperature: float) -> None:
        self.ks = tuple(ks)
        self.temperature = temperature

    def fit(
        self, train: Segmented, validation: Segmented | None, *, num_classes: int, device: torch.device
    ) -> KNNPatches:
        """Nothing is fitted but the features' mean and deviation; k is chosen."""
        features_KD, labels_KQ = train.features_NTD.flatten(0, 1), cells_of(train.maps_NSS, train.grid).flatten(0, 1)
        self._standardize = standardizer(features_KD)
        annotated_K = (labels_KQ != IGNORED).any(dim=1)  # others have nothing to vote for
        self._features_KD = self._standardize(features_KD[annotated_K])
        self._labels_KQ = labels_KQ[annotated_K]
        if max(self.ks) > len(self._labels_KQ):
            raise UserError(
                f"Segmentation.k = {self.ks} asks for more than the {len(self._labels_KQ)} training patches of which "
                "a pixel has a class"
            )
        self._grid, self._size, self._num_classes, self._device = train.grid, train.size, num_classes, device
        self._k = self.ks[0]
        if validation is not None:
            found = self._nearest(validation.features_NTD, max(self.ks))
            ious = [mean_iou(validation.maps_NSS, self._vote(*found, k), num_classes) for k in self.ks]
            self._k = self.ks[max(range(len(ious)), key=ious.__getitem__)]
        self.chosen = {"k": self._k}
        return self

    def predict(self, features_NTD: Tensor) -> Tensor:
        """By a vote of the nearest training patches, pixel by pixel."""
        return self._vote(*self._nearest(features_NTD, self._k), self._k)

    def _nearest(self, features_NTD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Similarities to the k nearest training patches, and which these are."""
        features_MD = self._standardize(features_NTD.flatten(0, 1))
        return nearest(self._features_KD, torch.arange(len(self._features_KD)), features_MD, k=k, device=self._device)

    def _vote(self, similarity_Mk: Tensor, place_Mk: Tensor, k: int) -> Tensor:
        classes, labels_KQ = self._num_classes, self._labels_KQ.to(self._device)
        block = max(1, _VALUES // (labels_KQ.shape[1] * (classes + 1)))
        predicted = []
        for similar_Mk, neighbor_Mk in zip(
            similarity_Mk[:, :k].split(block), place_Mk[:, :k].split(block), strict=True
        ):
            weights_Mk1 = ((similar_Mk - similar_Mk[:, :1]) / self.temperature).exp().unsqueeze(2)
            labels_MkQ = labels_KQ[neighbor_Mk].long() + 1  # what counts for nothing votes for a class of its own
            votes = weights_Mk1.new_zeros(len(similar_Mk), labels_MkQ.shape[2], classes + 1)
            weights_MQk = weights_Mk1.expand(labels_MkQ.shape).transpose(1, 2)
            votes.scatter_add_(2, labels_MkQ.transpose(1, 2), weights_MQk)
            own = votes[:, :, 1:]
            own = torch.where(own.any(dim=2, keepdim=True), own, own.mean(dim=1, keepdim=True))
            predicted.append(own.argmax(dim=2).to(torch.int16).cpu())
        return maps_from(torch.cat(predicted), self._grid, self._size)


class LinearPatches(PatchClassifier):
    """A logistic regression on standardized patch features, its logits enlarged to the image.

    It minimizes the cross-entropy of all annotated pixels, of which a patch's share one prediction. For an image the
    logits are interpolated (bilinear), as in DINOv2's linear segmentation (Oquab et al. 2024, arXiv 2304.07193).

    Args:
        strengths: of the L2 penalty, to choose from; of the sum of the patches' losses.
    """

    def __init__(self, strengths: Sequence[float]) -> None:
        self.strengths = tuple(strengths)

    def fit(
        self, train: Segmented, validation: Segmented | None, *, num_classes: int, device: torch.device
    ) -> LinearPatches:
        """From the strongest penalty to the weakest, each beginning with the one before."""
        features_KD = train.features_NTD.flatten(0, 1).to(device)
        self._standardize = standardizer(features_KD)
        features_KD = self._standardize(features_KD)
        shares_KC = class_shares(cells_of(train.maps_NSS, train.grid).flatten(0, 1), num_classes).to(device)
        self._grid, self._size, self._num_classes = train.grid, train.size, num_classes
        best_iou, best, solution = -1.0, None, None
        for strength in track(sorted(self.strengths, reverse=True), "fitted", len(self.strengths), unit="classifiers"):
            solution = logistic_regression(
                features_KD, shares_KC, num_classes=num_classes, strength=strength, start=solution
            )
            self._solution, iou = solution, 0.0
            if validation is not None:
                iou = mean_iou(validation.maps_NSS, self.predict(validation.features_NTD), num_classes)
            if iou > best_iou:
                best_iou, best, self.chosen = iou, solution, {"strength": strength}
        assert best is not None
        self._solution = best
        return self

    def predict(self, features_NTD: Tensor) -> Tensor:
        """The class of the largest logit, pixel by pixel."""
        block = max(1, _VALUES // (self._num_classes * self._size[0] * self._size[1]))
        weights_CD, biases_C = self._solution[:, :-1], self._solution[:, -1]
        predicted = []
        for block_NTD in features_NTD.split(block):
            features_NTD_ = self._standardize(block_NTD.to(self._solution.device))
            logits = (features_NTD_ @ weights_CD.T + biases_C).transpose(1, 2).unflatten(2, self._grid)
            enlarged = F.interpolate(logits, self._size, mode="bilinear", align_corners=False)
            predicted.append(enlarged.argmax(dim=1).to(torch.int16).cpu())
        return torch.cat(predicted)

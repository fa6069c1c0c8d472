"""Weighted k-NN on frozen features: a probe that trains nothing.

Shape suffixes: N training images, M test images, D width, K neighbors, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from curriculum.validation import require_positive
from hpm.data import ImageSource
from hpm.evaluation.frozen_probe import FrozenProbe, Labelled
from hpm.metrics import DECLARED
from hpm.models.base import MaskedModel

# 64 MiB of similarities at a time.
_TRAIN_BLOCK = 16384
_TEST_BLOCK = 1024


def knn_predict(
    train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, *, k: int, temperature: float, num_classes: int
) -> Tensor:
    """Int64 [M]: each test feature's class by a vote of its k nearest training features.

    Cosine similarity s; a neighbor votes with weight exp(s / temperature) (Wu et al. 2018, "Unsupervised Feature
    Learning via Non-Parametric Instance Discrimination").
    """
    similarity_MK, labels_MK = nearest(train_ND, labels_N, test_MD, k=k, device=test_MD.device)
    return vote(similarity_MK, labels_MK, temperature=temperature, num_classes=num_classes)


def nearest(
    train_ND: Tensor,
    labels_N: Tensor,
    test_MD: Tensor,
    *,
    k: int,
    device: torch.device,
    train_block: int = _TRAIN_BLOCK,
    test_block: int = _TEST_BLOCK,
) -> tuple[Tensor, Tensor]:
    """Cosine similarities [M, K] to the k nearest training features, largest first, and their labels, int64 [M, K].

    Training features pass once, block by block; beside the features there are one block of them, one block of
    similarities and the nearest so far, whatever N is.

    Args:
        train_ND: features, on any device.
        labels_N: their classes, int64.
        test_MD: features whose neighbors are wanted.
        k: K, at most N.
        device: where to compute.
        train_block: training features at a time.
        test_block: test features at a time.
    """
    test_MD = F.normalize(test_MD.to(device), dim=1)
    similarity_MK = test_MD.new_full((len(test_MD), k), -torch.inf)
    labels_MK = torch.zeros(len(test_MD), k, dtype=torch.int64, device=device)
    for block_ND, block_N in zip(train_ND.split(train_block), labels_N.split(train_block), strict=True):
        block_ND, block_N = F.normalize(block_ND.to(device), dim=1), block_N.to(device)
        for first in range(0, len(test_MD), test_block):
            rows = slice(first, first + test_block)
            similar_MK, place_MK = (test_MD[rows] @ block_ND.T).topk(min(k, len(block_N)), dim=1)
            best_MK, order_MK = torch.cat([similarity_MK[rows], similar_MK], dim=1).topk(k, dim=1)
            known_MK = torch.cat([labels_MK[rows], block_N[place_MK]], dim=1)
            similarity_MK[rows], labels_MK[rows] = best_MK, known_MK.gather(1, order_MK)
    return similarity_MK, labels_MK


def vote(similarity_MK: Tensor, labels_MK: Tensor, *, temperature: float, num_classes: int) -> Tensor:
    """Int64 [M]: the class that gets most of the votes exp(similarity / temperature); the nearest stands first."""
    predictions = []
    for similar_MK, label_MK in zip(similarity_MK.split(_TEST_BLOCK), labels_MK.split(_TEST_BLOCK), strict=True):
        # Relative to the nearest: a small temperature must not round every vote to 0.
        votes_MK = ((similar_MK - similar_MK[:, :1]) / temperature).exp()
        votes_MC = votes_MK.new_zeros(len(votes_MK), num_classes).scatter_add_(1, label_MK, votes_MK)
        predictions.append(votes_MC.argmax(dim=1))
    return torch.cat(predictions)


class KNN(FrozenProbe):
    """Weighted k-NN accuracy on frozen features of the student. Known to flatter masked autoencoders least.

    Metrics: `knn/pretrained` and, with `baselines`, `knn/initialization` and `knn/raw_pixels`; where several k are
    asked for, `knn/pretrained/k10` and so on, one for each.

    Args:
        k: neighbors that vote; a sequence measures several at the price of one. Default 20.
        temperature: of the vote. Default 0.07 (Wu et al. 2018).
        train_images: at most so many training images, the same for every seed; None for all. Default 10000.
        test_images: at most so many test images, and as many validation images; None for all. Default 2000.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization and raw pixels too.
        num_workers: processes that load images; 0 for none but this one.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "knn"
    metrics = DECLARED[protocol]

    def __init__(
        self,
        *,
        k: int | Sequence[int] = 20,
        temperature: float = 0.07,
        train_images: int | None = 10000,
        test_images: int | None = 2000,
        pool: str = "mean",
        baselines: bool = False,
        num_workers: int = 0,
    ) -> None:
        require_positive("KNN", temperature=temperature)
        self.ks = (k,) if isinstance(k, int) else tuple(k)
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"KNN.k = {k} must be at least 1, or a sequence of such numbers")
        if train_images is not None and max(self.ks) > train_images:
            raise ValueError(f"KNN.k = {k} must lie between 1 and KNN.train_images = {train_images}")
        super().__init__(
            train_images=train_images, test_images=test_images, pool=pool, baselines=baselines, num_workers=num_workers
        )
        self.several = not isinstance(k, int)
        self.temperature = float(temperature)

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        super().check(source, model)
        if max(self.ks) > len(source.train()):
            raise ValueError(f"KNN.k = {max(self.ks)} is more than the {len(source.train())} training images")

    def fit(
        self, train: Labelled, validation: Labelled | None, *, num_classes: int, device: torch.device
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """Nothing is fitted: the training features vote, the nearest ones for each k."""

        def predict(features_MD: Tensor) -> dict[str, Tensor]:
            similarity_MK, labels_MK = nearest(*train, features_MD, k=max(self.ks), device=device)
            predictions = {}
            for k in self.ks:
                predicted_M = vote(
                    similarity_MK[:, :k], labels_MK[:, :k], temperature=self.temperature, num_classes=num_classes
                )
                predictions[f"/k{k}" if self.several else ""] = predicted_M.cpu()
            return predictions

        return predict

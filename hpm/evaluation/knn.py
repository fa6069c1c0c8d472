"""Weighted k-NN on frozen features: a probe that trains nothing.

Shape suffixes: N training images, M test images, D width, K neighbors, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hpm.data import ImageSource
from hpm.evaluation.base import Evaluation, Subject, labels_of, require_labels, sample_indices
from hpm.evaluation.features import check_pool, extract, raw_pixels


def knn_predict(
    train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, *, k: int, temperature: float, num_classes: int
) -> Tensor:
    """Int64 [M]: each test feature's class by a vote of its k nearest training features.

    Cosine similarity s; a neighbor votes with weight exp(s / temperature) (Wu et al. 2018, "Unsupervised Feature
    Learning via Non-Parametric Instance Discrimination").
    """
    train_ND, test_MD = F.normalize(train_ND, dim=1), F.normalize(test_MD, dim=1)
    predictions = []
    for block_MD in test_MD.split(1024):
        similarity_MK, nearest_MK = (block_MD @ train_ND.T).topk(k, dim=1)
        votes_MC = block_MD.new_zeros(len(block_MD), num_classes)
        # Relative to the nearest, which topk puts first: a small temperature must not round every vote to 0.
        votes_MK = ((similarity_MK - similarity_MK[:, :1]) / temperature).exp()
        votes_MC.scatter_add_(1, labels_N[nearest_MK], votes_MK)
        predictions.append(votes_MC.argmax(dim=1))
    return torch.cat(predictions)


class KNN(Evaluation):
    """Weighted k-NN accuracy on frozen features of the student. Known to flatter masked autoencoders least.

    Metrics: `knn/pretrained` and, with `baselines`, `knn/initialization` and `knn/raw_pixels`.

    Args:
        k: neighbors that vote.
        temperature: of the vote.
        train_images: at most so many training images, the same for every seed.
        test_images: at most so many test images.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization and raw pixels too.
    """

    def __init__(
        self, *, k: int = 20, temperature: float = 0.07, train_images: int = 10000, test_images: int = 2000,
        pool: str = "mean", baselines: bool = False,
    ) -> None:  # fmt: skip
        if temperature <= 0:
            raise ValueError(f"KNN.temperature = {temperature} must be positive")
        if not 1 <= k <= train_images:
            raise ValueError(f"KNN.k = {k} must lie between 1 and KNN.train_images = {train_images}")
        if test_images < 1:
            raise ValueError(f"KNN.test_images = {test_images} must be at least 1")
        check_pool("KNN", pool)
        self.k, self.temperature, self.pool, self.baselines = k, float(temperature), pool, baselines
        self.train_images, self.test_images = train_images, test_images

    def check(self, source: ImageSource) -> None:
        require_labels(self, source)
        if self.k > len(source.train()):
            raise ValueError(f"KNN.k = {self.k} is more than the {len(source.train())} training images")

    def __call__(self, subject: Subject) -> dict[str, float]:
        source = subject.source
        train, test = source.train(), source.test()
        train_N = sample_indices(self.train_images, len(train))
        test_M = sample_indices(self.test_images, len(test))

        def accuracy(train_ND: Tensor, test_MD: Tensor) -> float:
            predicted_M = knn_predict(
                train_ND.to(subject.device), labels_of(train)[train_N].to(subject.device), test_MD.to(subject.device),
                k=self.k, temperature=self.temperature, num_classes=source.num_classes,
            )  # fmt: skip
            return (predicted_M.cpu() == labels_of(test)[test_M]).float().mean().item()

        models = {"pretrained": subject.model} | ({"initialization": subject.initial()} if self.baselines else {})
        metrics = {}
        for name, model in models.items():
            features = [
                extract(model.encoder, source, split, indices, pool=self.pool, device=subject.device)
                for split, indices in ((train, train_N), (test, test_M))
            ]
            metrics[f"knn/{name}"] = accuracy(*features)
        if self.baselines:
            metrics["knn/raw_pixels"] = accuracy(raw_pixels(source, train, train_N), raw_pixels(source, test, test_M))
        return metrics

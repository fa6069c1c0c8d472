"""Linear probe on frozen features: a logistic regression, fast because the features are computed once.

Shape suffixes: N training images, M test images, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hpm.data import ImageSource
from hpm.evaluation.base import Evaluation, Subject, labels_of, require_labels, sample_indices
from hpm.evaluation.features import check_pool, extract, raw_pixels

_VALIDATION = 0.2  # share of the training images that chooses the strength


def probe(train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, strengths: Sequence[float]) -> Tensor:
    """Int64 [M]: classes predicted by a logistic regression on standardized features.

    The L2 strength is the one that does best on the last fifth of the training images, a fit to the others; then
    all of them are fitted. Test features are used for nothing but the prediction.

    Args:
        train_ND: features.
        labels_N: their classes; the images in no particular order.
        test_MD: features to classify.
        strengths: L2 strengths, in scikit-learn's terms 1 / C, for the sum of the losses over the images.
    """
    held_out = int(len(train_ND) * (1 - _VALIDATION))
    scaler = StandardScaler().fit(train_ND.numpy())
    train, labels = scaler.transform(train_ND.numpy()), labels_N.numpy()

    def fit(last: int, strength: float) -> LogisticRegression:
        return LogisticRegression(C=1 / strength, max_iter=300, tol=1e-3).fit(train[:last], labels[:last])

    best = strengths[0]
    if len(strengths) > 1:
        scores = [fit(held_out, strength).score(train[held_out:], labels[held_out:]) for strength in strengths]
        best = strengths[int(np.argmax(scores))]
    return torch.from_numpy(fit(len(train), best).predict(scaler.transform(test_MD.numpy())))


class Linear(Evaluation):
    """Accuracy of a linear probe on the student's frozen features.

    Metrics: `linear/pretrained` and, with `baselines`, `linear/initialization` and `linear/raw_pixels`.

    Args:
        train_images: at most so many training images, the same for every seed.
        test_images: at most so many test images.
        strengths: L2 strengths to choose from, by a validation split of the training images.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization and raw pixels too.
    """

    def __init__(
        self, *, train_images: int = 10000, test_images: int = 10000,
        strengths: Sequence[float] = (1.0, 10.0, 100.0, 1000.0), pool: str = "mean", baselines: bool = False,
    ) -> None:  # fmt: skip
        if train_images < 10 or test_images < 1:
            raise ValueError(
                f"Linear.train_images = {train_images} must be at least 10 and Linear.test_images = {test_images} 1"
            )
        if not strengths or min(strengths) <= 0:
            raise ValueError(f"Linear.strengths = {strengths} must be positive numbers, at least one")
        check_pool("Linear", pool)
        self.train_images, self.test_images = train_images, test_images
        self.strengths, self.pool, self.baselines = tuple(strengths), pool, baselines

    def check(self, source: ImageSource) -> None:
        require_labels(self, source)

    def __call__(self, subject: Subject) -> dict[str, float]:
        source = subject.source
        train, test = source.train(), source.test()
        train_N = sample_indices(self.train_images, len(train))
        # Files come sorted by class; the validation split must not be.
        train_N = train_N[torch.randperm(len(train_N), generator=torch.Generator().manual_seed(0))]
        test_M = sample_indices(self.test_images, len(test))

        def accuracy(train_ND: Tensor, test_MD: Tensor) -> float:
            predicted_M = probe(train_ND, labels_of(train)[train_N], test_MD, self.strengths)
            return (predicted_M == labels_of(test)[test_M]).float().mean().item()

        models = {"pretrained": subject.model} | ({"initialization": subject.initial()} if self.baselines else {})
        metrics = {}
        for name, model in models.items():
            features = [
                extract(model.encoder, source, split, indices, pool=self.pool, device=subject.device)
                for split, indices in ((train, train_N), (test, test_M))
            ]
            metrics[f"linear/{name}"] = accuracy(*features)
        if self.baselines:
            raw = [raw_pixels(source, split, indices) for split, indices in ((train, train_N), (test, test_M))]
            metrics["linear/raw_pixels"] = accuracy(*raw)
        return metrics

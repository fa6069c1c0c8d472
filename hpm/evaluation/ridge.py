"""Ridge probe on frozen features: least squares in closed form, cheap enough to look at often during training.

Shape suffixes: N training images, M test images, D width, C classes, S strengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hpm.data import ImageSource
from hpm.evaluation.base import Evaluation, EvaluationContext, labels_of, require_counts, require_labels, sample_indices
from hpm.evaluation.features import check_pool, frozen_features
from hpm.models.base import MaskedModel

_VALIDATION = 0.2  # share of the training images that chooses the strength


def ridge(features_ND: Tensor, labels_N: Tensor, strengths: Sequence[float], *, num_classes: int) -> Tensor:
    """Ridge regression on one-hot classes, for several strengths at once: weights and biases, [S, D + 1, C].

    Minimizes the squared error summed over the images plus `strength` times the weights' squared norm, biases left
    out: scikit-learn's `RidgeClassifier(alpha=strength)` up to the scale of its targets. The biases come last.

    Args:
        features_ND: features; computed in float64, on their device.
        labels_N: int64, their classes.
        strengths: of the L2 penalty.
        num_classes: C.
    """
    x_ND, y_NC = features_ND.double(), F.one_hot(labels_N, num_classes).double()
    mean_D, mean_C = x_ND.mean(dim=0), y_NC.mean(dim=0)
    x_ND, y_NC = x_ND - mean_D, y_NC - mean_C
    values_D, vectors_DD = torch.linalg.eigh(x_ND.T @ x_ND)
    rotated_DC = vectors_DD.T @ (x_ND.T @ y_NC)
    weights = [vectors_DD @ (rotated_DC / (values_D.clamp(min=0) + strength).unsqueeze(1)) for strength in strengths]
    return torch.stack([torch.cat([w_DC, (mean_C - mean_D @ w_DC).unsqueeze(0)]) for w_DC in weights])


def classify(features_ND: Tensor, solution: Tensor) -> Tensor:
    """Int64 [..., N]: classes by one solution of `ridge` or by several."""
    return (features_ND.double() @ solution[..., :-1, :] + solution[..., -1:, :]).argmax(dim=-1)


class Ridge(Evaluation):
    """Accuracy of a ridge probe on the student's frozen features: seconds where `Linear` takes minutes.

    Metrics: `ridge/pretrained` and, with `baselines`, `ridge/initialization` and `ridge/raw_pixels`.

    Args:
        train_images: at most so many training images, the same for every seed; None for all. Default 5000.
        test_images: at most so many test images; None for all. Default 2000.
        strengths: L2 strengths, of standardized features, to choose from by a fifth of the training images.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization and raw pixels too.
        num_workers: processes that load images; 0 for none but this one.
    """

    seeded = False
    shared = True

    def __init__(
        self,
        *,
        train_images: int | None = 5000,
        test_images: int | None = 2000,
        strengths: Sequence[float] = (1.0, 10.0, 100.0, 1000.0),
        pool: str = "mean",
        baselines: bool = False,
        num_workers: int = 0,
    ) -> None:
        if train_images is not None and train_images < 10:
            raise ValueError(f"Ridge.train_images = {train_images} must be at least 10; None for all")
        require_counts("Ridge", test_images=test_images)
        if not strengths or min(strengths) <= 0:
            raise ValueError(f"Ridge.strengths = {strengths} must be positive numbers, at least one")
        if num_workers < 0:
            raise ValueError(f"Ridge.num_workers = {num_workers} must be 0 or more")
        check_pool("Ridge", pool)
        self.train_images = train_images
        self.test_images = test_images
        self.num_workers = num_workers
        self.strengths = tuple(strengths)
        self.pool = pool
        self.baselines = baselines

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_labels(self, source)

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        source = context.source
        train, test = source.train(), source.test()
        train_N = sample_indices(self.train_images, len(train))
        # Files come sorted by class; the validation split must not be.
        train_N = train_N[torch.randperm(len(train_N), generator=torch.Generator().manual_seed(0))]
        test_M = sample_indices(self.test_images, len(test))
        metrics = {}
        for name, train_ND, test_MD in frozen_features(
            context, train_N, test_M, pool=self.pool, baselines=self.baselines, num_workers=self.num_workers
        ):
            predicted_M = self._predict(train_ND, labels_of(train)[train_N], test_MD, source.num_classes)
            metrics[f"ridge/{name}"] = (predicted_M == labels_of(test)[test_M]).float().mean().item()
        return metrics

    def _predict(self, train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, num_classes: int) -> Tensor:
        mean_D, std_D = train_ND.mean(dim=0), train_ND.std(dim=0, unbiased=False)
        std_D = torch.where(std_D > 0, std_D, 1.0)
        train_ND, test_MD = (train_ND - mean_D) / std_D, (test_MD - mean_D) / std_D
        held_out, strengths = int(len(train_ND) * (1 - _VALIDATION)), self.strengths
        if len(strengths) > 1:
            tried = ridge(train_ND[:held_out], labels_N[:held_out], strengths, num_classes=num_classes)
            right_S = (classify(train_ND[held_out:], tried) == labels_N[held_out:]).float().mean(dim=-1)
            strengths = (strengths[int(right_S.argmax())],)
        return classify(test_MD, ridge(train_ND, labels_N, strengths, num_classes=num_classes)[0])

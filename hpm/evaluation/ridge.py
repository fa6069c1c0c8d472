"""Ridge probe on frozen features: least squares in closed form, cheap enough to look at often during training.

Shape suffixes: N training images, M test images, D width, C classes, S strengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hpm.evaluation.frozen_probe import PenalizedProbe, count_fitted, probe_metrics, standardized


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


def probe(
    train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, strengths: Sequence[float], *, num_classes: int
) -> Tensor:
    """Int64 [M]: classes predicted by a ridge regression on standardized features.

    The L2 strength is the one that does best on the last fifth of the training images, a fit to the others; then
    all of them are fitted.

    Args:
        train_ND: features.
        labels_N: their classes; the images in no particular order.
        test_MD: features to classify.
        strengths: L2 strengths to choose from.
        num_classes: C.
    """
    train_ND, test_MD = standardized(train_ND, test_MD)
    if len(strengths) > 1:
        fitted = count_fitted(len(train_ND))
        solutions = ridge(train_ND[:fitted], labels_N[:fitted], strengths, num_classes=num_classes)
        right_S = (classify(train_ND[fitted:], solutions) == labels_N[fitted:]).float().mean(dim=-1)
        strengths = (strengths[int(right_S.argmax())],)
    return classify(test_MD, ridge(train_ND, labels_N, strengths, num_classes=num_classes)[0])


class Ridge(PenalizedProbe):
    """Accuracy of a ridge probe on the student's frozen features: seconds where `Linear` takes minutes.

    Metrics: `ridge/pretrained` and, with `baselines`, `ridge/initialization` and `ridge/raw_pixels`.

    Args:
        train_images: at most so many training images, the same for every seed; None for all. Default 5000.
        test_images: at most so many test images; None for all. Default 2000.
        strengths: L2 strengths, of standardized features, to choose from by a fifth of the training images.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization and raw pixels too.
        num_workers: processes that load images; 0 for none but this one.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "ridge"
    metrics = probe_metrics("ridge")

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
        super().__init__(
            strengths=strengths,
            train_images=train_images,
            test_images=test_images,
            pool=pool,
            baselines=baselines,
            num_workers=num_workers,
        )

    def predict(
        self, train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, *, num_classes: int, device: torch.device
    ) -> dict[str, Tensor]:
        """By `probe`, on the CPU, where the features are."""
        return {"": probe(train_ND, labels_N, test_MD, self.strengths, num_classes=num_classes)}

"""Ridge probe on frozen features: least squares in closed form, cheap enough to look at often during training.

Shape suffixes: N training images, M test images, D width, C classes, S strengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hpm.evaluation.frozen_probe import Labelled, PenalizedProbe, standardizer
from hpm.metrics import DECLARED


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


def best_fit(train: Labelled, validation: Labelled | None, strengths: Sequence[float], *, num_classes: int) -> Tensor:
    """A ridge regression, [D + 1, C], with the L2 strength that does best on the validation images.

    Args:
        train: features and classes to fit.
        validation: features and classes to choose by; None where there is one strength alone.
        strengths: L2 strengths to choose from.
        num_classes: C.
    """
    solutions = ridge(*train, strengths, num_classes=num_classes)
    if validation is None:
        return solutions[0]
    right_S = (classify(validation.features_ND, solutions) == validation.labels_N).float().mean(dim=-1)
    return solutions[int(right_S.argmax())]


class Ridge(PenalizedProbe):
    """Accuracy of a ridge probe on the student's frozen features: seconds where `Linear` takes minutes.

    Metrics: `ridge/pretrained` and, with `baselines`, `ridge/initialization` and `ridge/raw_pixels`.

    Args:
        train_images: at most so many training images, the same for every seed; None for all. Default 5000.
        test_images: at most so many test images, and as many validation images; None for all. Default 2000.
        strengths: L2 strengths, of standardized features, to choose from by the validation images.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization and raw pixels too.
        num_workers: processes that load images; 0 for none but this one.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "ridge"
    metrics = DECLARED[protocol]

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

    def fit(
        self, train: Labelled, validation: Labelled | None, *, num_classes: int, device: torch.device
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """By `best_fit` of standardized features, on the CPU, where they are."""
        standardize = standardizer(train.features_ND)

        def standardized(labelled: Labelled) -> Labelled:
            return Labelled(standardize(labelled.features_ND), labelled.labels_N)

        chosen_by = None if validation is None else standardized(validation)
        solution = best_fit(standardized(train), chosen_by, self.strengths, num_classes=num_classes)
        return lambda features_MD: {"": classify(standardize(features_MD), solution)}

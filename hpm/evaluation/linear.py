"""Linear probe on frozen features: a logistic regression, fast because the features are computed once.

Shape suffixes: N training images, M test images, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hpm.data import ImageSource, Split, UnreadableImages
from hpm.evaluation.features import raw_pixels
from hpm.evaluation.frozen_probe import Labelled, PenalizedProbe, standardizer
from hpm.evaluation.samples import labels_of, sample_indices
from hpm.metrics import DECLARED
from hpm.runtime.progress import track

_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)  # of the L2 penalty, to choose from
_ROWS_AT_ONCE = 8192  # so that logits of a million images of a thousand classes need no memory
_ITERATIONS = 300
_TOLERANCE = 1e-4


def logistic_regression(
    features_ND: Tensor,
    labels_N: Tensor,
    *,
    num_classes: int,
    strength: float,
    start: Tensor | None = None,
    iterations: int = _ITERATIONS,
    tolerance: float = _TOLERANCE,
) -> Tensor:
    """Multinomial logistic regression by L-BFGS: weights and biases, [C, D + 1], the biases last.

    Minimizes the sum of the cross-entropies plus `strength / 2` times the weights' squared norm, biases left out:
    scikit-learn's `LogisticRegression(C=1 / strength)`.

    Args:
        features_ND: features; their type and device are those of the computation.
        labels_N: int64, their classes; or [N, C], what of each row is of each class, which counts that much.
        num_classes: C.
        strength: of the L2 penalty.
        start: where to begin, [C, D + 1]. Default zeros.
        iterations: of L-BFGS, at most.
        tolerance: largest element of the gradient of the mean loss at which to stop.
    """
    count, width = features_ND.shape
    solution = features_ND.new_zeros(num_classes, width + 1) if start is None else start.clone()
    solution.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [solution],
        max_iter=iterations,
        max_eval=2 * iterations,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def loss_and_gradient() -> Tensor:
        """By hand: the gradient is a product of two matrices, and no graph is kept for each block."""
        weights_CD, biases_C = solution[:, :-1], solution[:, -1]
        loss = strength / 2 * weights_CD.square().sum()
        gradient = torch.cat([strength * weights_CD, torch.zeros_like(biases_C).unsqueeze(1)], dim=1)
        for x_ND, y_N in zip(features_ND.split(_ROWS_AT_ONCE), labels_N.split(_ROWS_AT_ONCE), strict=True):
            log_NC = F.log_softmax(torch.addmm(biases_C, x_ND, weights_CD.T), dim=1)
            if y_N.ndim == 2:
                loss -= (log_NC * y_N).sum()
                error_NC = log_NC.exp_().mul_(y_N.sum(dim=1, keepdim=True)).sub_(y_N)
            else:
                loss -= log_NC.gather(1, y_N.unsqueeze(1)).sum()
                error_NC = log_NC.exp_().scatter_add_(1, y_N.unsqueeze(1), -log_NC.new_ones(len(y_N), 1))
            gradient[:, :-1] += error_NC.T @ x_ND
            gradient[:, -1] += error_NC.sum(dim=0)
        solution.grad = gradient / count
        return loss / count

    optimizer.step(loss_and_gradient)
    return solution.detach()


def classify(features_ND: Tensor, solution: Tensor) -> Tensor:
    """Int64 [N]: classes by a solution of `logistic_regression`."""
    logits = (torch.addmm(solution[:, -1], x_ND, solution[:, :-1].T) for x_ND in features_ND.split(_ROWS_AT_ONCE))
    return torch.cat([logits_NC.argmax(dim=1) for logits_NC in logits])


def best_fit(train: Labelled, validation: Labelled | None, strengths: Sequence[float], *, num_classes: int) -> Tensor:
    """A logistic regression, [C, D + 1], with the L2 strength that does best on the validation images.

    Args:
        train: features and classes to fit.
        validation: features and classes to choose by; None where there is one strength alone.
        strengths: L2 strengths, in scikit-learn's terms 1 / C, for the sum of the losses over the images.
        num_classes: C.
    """
    best_score = -1.0
    best = solution = None
    # From strong to weak, each from the one before: the stronger, the sooner it is found.
    for strength in track(sorted(strengths, reverse=True), "fitted", len(strengths), unit="classifiers"):
        solution = logistic_regression(*train, num_classes=num_classes, strength=strength, start=solution)
        if validation is None:
            return solution
        score = (classify(validation.features_ND, solution) == validation.labels_N).float().mean().item()
        if score > best_score:
            best, best_score = solution, score
    assert best is not None
    return best


class RawPixels:
    """A logistic regression on standardized pixels, whose L2 strength validation images choose.

    Args:
        source: the images.
        train_N: int64, which training images to fit.
        most: at most so many validation images, and images that are classified; None for all.
        unreadable: lets others stand in for training images that cannot be read.
    """

    def __init__(self, source: ImageSource, train_N: Tensor, *, most: int | None, unreadable: UnreadableImages) -> None:
        self._source = source
        self._most = most
        pixels_ND = raw_pixels(source, source.train(), train_N, unreadable=unreadable)
        self._standardize = standardizer(pixels_ND)
        read_N = unreadable.stand_ins(train_N, source.train())
        fitted = Labelled(self._standardize(pixels_ND), labels_of(source.train())[read_N])
        chosen_by = self._some(source.validation())
        self._solution = best_fit(fitted, chosen_by, _STRENGTHS, num_classes=source.num_classes)

    def accuracy(self, split: Split) -> float:
        """The share of a split's images that are classified rightly."""
        features_ND, labels_N = self._some(split)
        return (classify(features_ND, self._solution) == labels_N).float().mean().item()

    def _some(self, split: Split) -> Labelled:
        indices_N = sample_indices(self._most, len(split))
        return Labelled(self._standardize(raw_pixels(self._source, split, indices_N)), labels_of(split)[indices_N])


class Linear(PenalizedProbe):
    """Accuracy of a linear probe on the student's frozen features, un-augmented; minutes where `LinearMAE` takes days.

    Metrics: `linear/pretrained` and, with `baselines`, `linear/initialization` and `linear/raw_pixels`.

    Args:
        train_images: at most so many training images, the same for every seed; None for all. Default 10000.
        test_images: at most so many test images, and as many validation images; None for all. Default 10000.
        strengths: L2 strengths to choose from, by the validation images.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization and raw pixels too.
        num_workers: processes that load images; 0 for none but this one.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "linear"
    metrics = DECLARED[protocol]

    def __init__(
        self,
        *,
        train_images: int | None = 10000,
        test_images: int | None = 10000,
        strengths: Sequence[float] = _STRENGTHS,
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
        """By `best_fit` of standardized features, on the device."""
        standardize = standardizer(train.features_ND.to(device))

        def moved(labelled: Labelled) -> Labelled:
            return Labelled(standardize(labelled.features_ND.to(device)), labelled.labels_N.to(device))

        chosen_by = None if validation is None else moved(validation)
        solution = best_fit(moved(train), chosen_by, self.strengths, num_classes=num_classes)
        return lambda features_MD: {"": classify(standardize(features_MD.to(device)), solution).cpu()}

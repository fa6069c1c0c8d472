"""Frozen probes: a classifier on the student's frozen features, and what it would be worth on others.

Shape suffixes: N training images, M test images, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from curriculum.validation import require_at_least, require_choice, require_in
from hpm.data import VALIDATION, ImageSource
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.chosen_images import ChosenImages, choose_images, features_of, features_of_models
from hpm.evaluation.features import POOLS, raw_pixels, require_class_token
from hpm.evaluation.samples import labels_of, require_labels
from hpm.metrics import metric_on
from hpm.models.base import MaskedModel


class Labelled(NamedTuple):
    """Features and the classes of their images.

    Args:
        features_ND: float32 [N, D].
        labels_N: int64 [N].
    """

    features_ND: Tensor
    labels_N: Tensor


class FrozenProbe(Evaluation):
    """Accuracy of a classifier that is fitted to frozen features of un-augmented training images.

    Metrics: `PROTOCOL/pretrained` and, with `baselines`, `PROTOCOL/initialization` and `PROTOCOL/raw_pixels`.

    Args:
        train_images: at most so many training images, the same for every seed; None for all.
        test_images: at most so many test images, and as many validation images; None for all.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization and raw pixels too.
        num_workers: processes that load images; 0 for none but this one.

    Attributes:
        chooses: whether a setting is chosen on validation images.

    Raises:
        ValueError: naming the setting at fault.
    """

    seeded = False
    shared = True
    chooses: bool = False

    def __init__(
        self, *, train_images: int | None, test_images: int | None, pool: str, baselines: bool, num_workers: int
    ) -> None:
        owner = type(self).__name__
        require_at_least(owner, 1, train_images=train_images, test_images=test_images)
        require_in(owner, "[0, 1024]", num_workers=num_workers)
        require_choice(owner, POOLS, pool=pool)
        self.train_images = train_images
        self.test_images = test_images
        self.pool = pool
        self.baselines = baselines
        self.num_workers = num_workers

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_labels(self, source)
        require_class_token(type(self).__name__, model.encoder, self.pool)
        super().check(source, model)
        if self.chooses:
            source.validation()

    @abstractmethod
    def fit(
        self, train: Labelled, validation: Labelled | None, *, num_classes: int, device: torch.device
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """Fit the classifier.

        Args:
            train: features and classes to fit, on the CPU.
            validation: what settings are chosen by; None for a probe that chooses nothing.
            num_classes: how many classes there are.
            device: where to compute.

        Returns:
            Gives the classes of features [M, D] on the CPU: int64 [M] on the CPU, by what stands behind the metric's
            name, "" where there is one prediction alone.
        """

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        chosen = choose_images(
            context, train_images=self.train_images, test_images=self.test_images, chooses=self.chooses
        )
        metrics: dict[str, float] = {}
        for name, features in self._features(context, chosen):
            labelled = {
                which: Labelled(features[which], labels_of(images.split)[images.read_indices()])
                for which, images in chosen.items()
            }
            validation = labelled[VALIDATION] if self.chooses else None
            predict = self.fit(
                labelled["train"], validation, num_classes=context.source.num_classes, device=context.device
            )
            for which in context.held_out:
                for suffix, predicted_M in predict(labelled[which].features_ND).items():
                    right_M = predicted_M == labelled[which].labels_N
                    metric = metric_on(which, f"{self.protocol}/{name}{suffix}")
                    metrics[metric] = right_M.float().mean().item()
                    context.scored_images[metric] = len(right_M)
        return metrics

    def _features(
        self, context: EvaluationContext, chosen: Mapping[str, ChosenImages]
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Name, and features [N, D] of each split's chosen images, of everything that is to be judged."""

        def of_model(model: MaskedModel, images: ChosenImages) -> Tensor:
            return features_of(context, model, images, pool=self.pool, num_workers=self.num_workers)

        yield from features_of_models(context, chosen, of_model, initialization=self.baselines)
        if self.baselines and context.processes.is_main:
            yield (
                "raw_pixels",
                {
                    which: raw_pixels(context.source, split, indices_N, unreadable=unreadable)
                    for which, (split, indices_N, unreadable) in chosen.items()
                },
            )


# Features are standardized, in float32: a smaller penalty fits their rounding, and under a larger one weights vanish.
_SMALLEST_STRENGTH, _LARGEST_STRENGTH = 1e-12, 1e12


class PenalizedProbe(FrozenProbe):
    """A frozen probe on standardized features, with an L2 penalty that the validation images choose.

    Args:
        strengths: of the penalty, to choose from.
        train_images: see `FrozenProbe`, as all that follow.
        test_images: likewise.
        pool: likewise.
        baselines: likewise.
        num_workers: likewise.

    Raises:
        ValueError: naming the setting at fault.
    """

    def __init__(
        self,
        *,
        strengths: Sequence[float],
        train_images: int | None,
        test_images: int | None,
        pool: str,
        baselines: bool,
        num_workers: int,
    ) -> None:
        owner = type(self).__name__
        if not strengths or not _SMALLEST_STRENGTH <= min(strengths) <= max(strengths) <= _LARGEST_STRENGTH:
            raise ValueError(
                f"{owner}.strengths = {strengths} must be numbers from {_SMALLEST_STRENGTH:g} to "
                f"{_LARGEST_STRENGTH:g}, at least one"
            )
        super().__init__(
            train_images=train_images, test_images=test_images, pool=pool, baselines=baselines, num_workers=num_workers
        )
        self.strengths = tuple(strengths)
        self.chooses = len(self.strengths) > 1


def standardizer(train_ND: Tensor) -> Callable[[Tensor], Tensor]:
    """Takes the training features' mean from features, over their standard deviation; constant ones become 0."""
    mean_D, std_D = train_ND.mean(dim=0), train_ND.std(dim=0, unbiased=False)
    std_D = torch.where(std_D > 0, std_D, 1.0)
    return lambda features_ND: (features_ND - mean_D) / std_D

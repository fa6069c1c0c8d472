"""Frozen probes: a classifier on the student's frozen features, and what it would be worth on others.

Shape suffixes: N training images, M test images, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from curriculum.validation import require_at_least, require_choice
from hpm.data import ImageSource
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.features import POOLS, extract, raw_pixels, require_class_token
from hpm.evaluation.metrics import Metric, Unit
from hpm.evaluation.samples import labels_of, require_labels, sample_indices, shuffled_indices
from hpm.models.base import MaskedModel

_VALIDATION = 0.2  # share of the training images that chooses the strength


def probe_metrics(protocol: str, *suffixes: str) -> tuple[Metric, ...]:
    """The accuracies that a probe gives: on the student's features, and on both baselines.

    Args:
        protocol: the probe's.
        suffixes: what else each may be measured for, "/k*".
    """
    return tuple(
        Metric(f"{protocol}/{name}{suffix}", Unit.ACCURACY)
        for suffix in ("", *suffixes)
        for name in ("pretrained", "initialization", "raw_pixels")
    )


class FrozenProbe(Evaluation):
    """Accuracy of a classifier that is fitted to frozen features of un-augmented training images.

    Metrics: `PROTOCOL/pretrained` and, with `baselines`, `PROTOCOL/initialization` and `PROTOCOL/raw_pixels`.

    Args:
        train_images: at most so many training images, the same for every seed; None for all.
        test_images: at most so many test images; None for all.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization and raw pixels too.
        num_workers: processes that load images; 0 for none but this one.

    Raises:
        ValueError: naming the setting at fault.
    """

    seeded = False
    shared = True

    def __init__(
        self, *, train_images: int | None, test_images: int | None, pool: str, baselines: bool, num_workers: int
    ) -> None:
        owner = type(self).__name__
        require_at_least(owner, 1, train_images=train_images, test_images=test_images)
        require_at_least(owner, 0, num_workers=num_workers)
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

    def choose_training_images(self, size: int) -> Tensor:
        """Int64 [N]: the training images to fit, of so many."""
        return sample_indices(self.train_images, size)

    @abstractmethod
    def predict(
        self, train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, *, num_classes: int, device: torch.device
    ) -> dict[str, Tensor]:
        """Fit the classifier and predict the test images' classes.

        Args:
            train_ND: features, on the CPU.
            labels_N: int64, their classes, on the CPU.
            test_MD: features whose classes are wanted, on the CPU.
            num_classes: how many classes there are.
            device: where to compute.

        Returns:
            Int64 [M] on the CPU, by what stands behind the metric's name: "" where there is one prediction alone.
        """

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        train, test = context.source.train(), context.source.test()
        train_N = self.choose_training_images(len(train))
        test_M = sample_indices(self.test_images, len(test))
        metrics = {}
        for name, train_ND, test_MD in self._features(context, train_N, test_M):
            predictions = self.predict(
                train_ND,
                labels_of(train)[train_N],
                test_MD,
                num_classes=context.source.num_classes,
                device=context.device,
            )
            for suffix, predicted_M in predictions.items():
                right_M = predicted_M == labels_of(test)[test_M]
                metric = f"{self.protocol}/{name}{suffix}"
                metrics[metric] = right_M.float().mean().item()
                context.scored_images[metric] = len(right_M)
        return metrics

    def _features(
        self, context: EvaluationContext, train_N: Tensor, test_M: Tensor
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, training features [N, D] and test features [M, D] of everything that is to be judged.

        The context's processes share the work, and the features come together in the main one: the others have
        nothing to judge.
        """
        source, processes = context.source, context.processes
        chosen = ((source.train(), train_N), (source.test(), test_M))
        models = {"pretrained": context.model} | ({"initialization": context.initial()} if self.baselines else {})
        for name, model in models.items():
            features = []
            for split, indices in chosen:
                own = extract(
                    model.encoder,
                    source,
                    split,
                    processes.share(indices),
                    pool=self.pool,
                    device=context.device,
                    num_workers=self.num_workers,
                )
                features.append(processes.collect(own, len(indices)))
            train_ND, test_MD = features
            if train_ND is not None and test_MD is not None:
                yield name, train_ND, test_MD
        if self.baselines and processes.is_main:
            train_ND, test_MD = (raw_pixels(source, split, indices) for split, indices in chosen)
            yield "raw_pixels", train_ND, test_MD


class PenalizedProbe(FrozenProbe):
    """A frozen probe on standardized features, with an L2 penalty that the last fifth of the training images chooses.

    Args:
        strengths: of the penalty, to choose from.
        train_images: see `FrozenProbe`, as all that follow; at least 10.
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
        require_at_least(owner, 10, train_images=train_images)
        if not strengths or not min(strengths) > 0:
            raise ValueError(f"{owner}.strengths = {strengths} must be positive numbers, at least one")
        super().__init__(
            train_images=train_images, test_images=test_images, pool=pool, baselines=baselines, num_workers=num_workers
        )
        self.strengths = tuple(strengths)

    def choose_training_images(self, size: int) -> Tensor:
        """Int64 [N], in a random order: files come sorted by class, and the last fifth must not be of one class."""
        return shuffled_indices(self.train_images, size)


def standardized(train_ND: Tensor, test_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Features less the training features' mean, over their standard deviation; constant ones become 0."""
    mean_D, std_D = train_ND.mean(dim=0), train_ND.std(dim=0, unbiased=False)
    std_D = torch.where(std_D > 0, std_D, 1.0)
    return (train_ND - mean_D) / std_D, (test_MD - mean_D) / std_D


def count_fitted(images: int) -> int:
    """How many of the training images are fitted while the others choose the strength."""
    return int(images * (1 - _VALIDATION))

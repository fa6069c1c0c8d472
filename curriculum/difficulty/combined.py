"""Difficulties made of difficulties.

Shape suffixes: N images, L patches, R rows and K columns of patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, StepOutcome, TrainingContext
from curriculum.keys import ranks
from curriculum.noise import Noise
from curriculum.schedulers import Scheduler, values_of
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_instance, require_positive


class Combination(DifficultyEstimator):
    """Base of the estimators that hold other estimators, which are checked, prepared and told of steps with it.

    Args:
        estimators: at least one.

    Attributes:
        passes_scores_on: whether it gives scores as an estimator gave them, so that numbers of parts stay such.

    Raises:
        ValueError: if one is not an estimator, may only be `Curriculum.difficulty` itself, or numbers parts where
            scores are not passed on.
    """

    passes_scores_on: ClassVar[bool] = False

    def __init__(self, *, estimators: Sequence[DifficultyEstimator]) -> None:
        owner = type(self).__name__
        if not estimators:
            raise ValueError(f"{owner} must be made of at least one estimator")
        for estimator in estimators:
            if not isinstance(estimator, DifficultyEstimator):
                raise ValueError(f"{owner} must be made of difficulty estimators, got {estimator!r}")
            if estimator.outermost:
                raise ValueError(
                    f"{owner} cannot be made of {type(estimator).__name__}, which is trained or keeps its own scores; "
                    "make that one Curriculum.difficulty itself"
                )
            if estimator.num_parts is not None and not self.passes_scores_on:
                raise ValueError(
                    f"{owner} cannot be made of {type(estimator).__name__}, whose scores are the numbers of parts and "
                    "no difficulties; choose another estimator"
                )
        self.estimators = tuple(estimators)
        self.needs = tuple(dict.fromkeys(name for estimator in estimators for name in estimator.needs))
        self.needs_predictions = any(estimator.needs_predictions for estimator in estimators)
        self.needs_objects = any(estimator.needs_objects for estimator in estimators)
        self.first_scored_epoch = min(estimator.first_scored_epoch for estimator in estimators)
        self.stateful = any(estimator.stateful for estimator in estimators)
        self.reversible = all(estimator.reversible for estimator in estimators)
        self.num_parts = estimators[0].num_parts

    def check(self, num_patches: int, num_masked: int) -> None:
        """Find out whether each estimator can score."""
        for estimator in self.estimators:
            estimator.check(num_patches, num_masked)

    def check_reconstructed(self, reconstructed: int) -> None:
        """Find out whether each estimator can do with so many losses."""
        for estimator in self.estimators:
            estimator.check_reconstructed(reconstructed)

    def prepare(self, context: TrainingContext) -> None:
        """Prepare each estimator, and gather what they keep."""
        for estimator in self.estimators:
            estimator.prepare(context)
        if self.stateful:
            kept = {f"{place}": one.module for place, one in enumerate(self.estimators) if one.module is not None}
            self.module = nn.ModuleDict(kept)

    def remember(self, outcome: StepOutcome) -> None:
        """Tell each estimator of the step; what it scored itself is not known."""
        for estimator in self.estimators:
            estimator.remember(replace(outcome, scores_NL=None))

    @property
    def needs_one_grid(self) -> bool:
        """Whether any of them does."""
        return any(estimator.needs_one_grid for estimator in self.estimators)

    def kept_bytes(self, num_images: int, num_patches: int) -> int:
        """Return the bytes that all of them keep."""
        return sum(estimator.kept_bytes(num_images, num_patches) for estimator in self.estimators)


class Mixture(Combination):
    """Scores patches by a weighted mean of the ranks that several estimators give them, each from 0 to 1.

    It takes ranks because scores of different estimators have different units. A patch that some of them do not
    score has the mean of the others.

    Args:
        estimators: at least one.
        weights: a positive number for each estimator; None for equal weights. Default None.
    """

    def __init__(self, *, estimators: Sequence[DifficultyEstimator], weights: Sequence[float] | None = None) -> None:
        super().__init__(estimators=estimators)
        weights = [1.0] * len(estimators) if weights is None else weights
        if len(weights) != len(estimators) or min(weights) <= 0:
            raise ValueError(f"Mixture.weights = {weights} must be {len(estimators)} positive numbers, one for each")
        self.weights = tuple(map(float, weights))

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        total_NL = weight_NL = torch.zeros(len(batch), batch.num_patches, device=batch.images.device)
        for place, (estimator, weight) in enumerate(zip(self.estimators, self.weights, strict=True)):
            own = noise.fold(Stream.MIXTURE_ESTIMATOR, place)
            scores_NL = estimator(batch, teacher, num_masked=num_masked, noise=own)
            rank_NL = ranks(scores_NL, noise.fold(Stream.MIXTURE_TIES, place).bits(batch.num_patches))
            total_NL = total_NL + weight * rank_NL.nan_to_num(0.0)
            weight_NL = weight_NL + weight * (~rank_NL.isnan()).float()
        return total_NL / weight_NL  # 0 / 0 is NaN: nobody scored it


class Smoothed(Combination):
    """Averages another estimator's scores over neighboring patches by a Gaussian: hard regions, not hard patches.

    A patch that is not scored has no weight in the average, and its own score is the mean of its neighbors.

    Args:
        estimator: the estimator whose scores are averaged.
        sigma: standard deviation in patches, positive. Default 1.
    """

    def __init__(self, *, estimator: DifficultyEstimator, sigma: float = 1.0) -> None:
        super().__init__(estimators=[estimator])
        require_positive("Smoothed", sigma=sigma)
        self.sigma = float(sigma)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        scores_NL = self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
        known_NL = ~scores_NL.isnan()
        sums_NL, counts_NL = (
            self._blur(values.float(), batch.grid) for values in (scores_NL.nan_to_num(0.0), known_NL)
        )
        return (sums_NL / counts_NL).float()  # 0 / 0 is NaN

    def _blur(self, values_NL: Tensor, grid: tuple[int, int]) -> Tensor:
        def kernel(length: int) -> Tensor:
            place = torch.arange(length, device=values_NL.device, dtype=torch.float64)
            distance = (place.unsqueeze(0) - place.unsqueeze(1)) / self.sigma
            return torch.where(distance.abs() <= math.ceil(4), (-distance.square() / 2).exp(), 0.0)

        # In double precision, lest a constant score prefer some position by how matrices are multiplied.
        return (kernel(grid[0]) @ values_NL.double().view(-1, *grid) @ kernel(grid[1])).flatten(1)


class Switched(Combination):
    """Uses one of several estimators at a time.

    Args:
        estimators: the estimators to choose from.
        scheduler: gives the place of the estimator to use, counted from 0 and rounded, e.g. a `Bandit` over the
            values 0, 1 and 2.
    """

    def __init__(self, *, estimators: Sequence[DifficultyEstimator], scheduler: Scheduler) -> None:
        super().__init__(estimators=estimators)
        require_instance("Switched", Scheduler, scheduler=scheduler)
        for value in values_of(scheduler):
            if not 0 <= round(value) < len(estimators):
                raise ValueError(
                    f"Switched.scheduler gives {value}, which is the place of none of {len(estimators)} estimators; "
                    "they are counted from 0"
                )
        self.scheduler: float | Scheduler = scheduler

    @property
    def knows_training_images_alone(self) -> bool:
        """Whether the estimator in force does; where that is not known yet, whether any does."""
        if isinstance(self.scheduler, Scheduler):
            return super().knows_training_images_alone
        return self.estimators[round(self.scheduler)].knows_training_images_alone

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert not isinstance(self.scheduler, Scheduler)  # `at` has put its value here
        place = round(self.scheduler)
        own = noise.fold(Stream.SWITCHED_ESTIMATOR, place)
        return self.estimators[place](batch, teacher, num_masked=num_masked, noise=own)

"""The conformance suite notices broken difficulty estimators, and says so by the right test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from broken_parts import failures
from torch import Tensor

from curriculum import Batch, DifficultyEstimator, LossMemory, Noise, StepOutcome
from curriculum.testing import (
    DifficultyConformance,
)


class Contrast(DifficultyEstimator):
    """A healthy estimator that needs no teacher, for others to break."""

    def __call__(self, batch: Batch, teacher: Any, *, num_masked: int, noise: Noise) -> Tensor:
        size = batch.patch_size
        patches = batch.images.unfold(2, size, size).unfold(3, size, size)
        return patches.float().var(dim=(1, 4, 5)).flatten(1)


class RelativeToTheBatch(Contrast):
    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        scores_NL = super().__call__(batch, teacher, **rest)
        return scores_NL - scores_NL.mean()


class CarriesRandomness(Contrast):
    generator = torch.Generator().manual_seed(0)

    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        return torch.rand(len(batch), batch.num_patches, generator=self.generator)


class Learns(Contrast):
    weight = torch.ones((), requires_grad=True)

    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        return super().__call__(batch, teacher, **rest) * self.weight


class AsksForMore(Contrast):
    needs = ("features",)

    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        return teacher.attention(batch.images).mean(dim=1)


class AsksInSecret(AsksForMore):
    needs = ()


class NeedsTheUnknown(Contrast):
    needs = ("saliency",)


class AssumesASquareGrid(Contrast):
    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        side = batch.grid[0]
        return super().__call__(batch, teacher, **rest)[:, : side * side]


class AssumesColor(Contrast):
    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        batch.images.mul(torch.ones(3, 1, 1))
        return super().__call__(batch, teacher, **rest)


class Ranks(Contrast):
    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        return super().__call__(batch, teacher, **rest).argsort(dim=1).argsort(dim=1)


class Infinite(Contrast):
    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        return super().__call__(batch, teacher, **rest) / 0


class Normalizes(Contrast):
    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        batch.images.sub_(batch.images.mean(dim=(1, 2, 3), keepdim=True))
        return super().__call__(batch, teacher, **rest)


class RemembersRelativeToTheBatch(LossMemory):
    def remember(self, outcome: StepOutcome) -> None:
        mixed_NM = outcome.true_NM * (1 + outcome.true_NM.mean() * torch.arange(outcome.true_NM.shape[1]))
        super().remember(replace(outcome, true_NM=mixed_NM))


class ForgetsWhenAsked(LossMemory):
    def __call__(self, batch: Batch, teacher: Any, **rest: Any) -> Tensor:
        scores_NL = super().__call__(batch, teacher, **rest)
        assert self.module is not None
        self.module.get_buffer("scale").mul_(0.5)
        return scores_NL


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (Contrast, set()),
        (LossMemory, set()),
        (RemembersRelativeToTheBatch, {"test_an_image_is_scored_alike_in_every_batch"}),
        (ForgetsWhenAsked, {"test_scoring_changes_nothing_that_is_kept"}),
        (RelativeToTheBatch, {"test_an_image_is_scored_alike_in_every_batch"}),
        (CarriesRandomness, {"test_the_same_noise_gives_the_same_scores"}),
        (Learns, {"test_scores_carry_no_gradient"}),
        (AsksForMore, {"test_asks_for_nothing_beyond_its_needs"}),
        (AsksInSecret, {"test_asks_for_nothing_beyond_its_needs"}),
        (NeedsTheUnknown, {"test_needs_name_what_a_teacher_has"}),
        (AssumesASquareGrid, {"test_scores_are_one_number_for_each_patch"}),
        (AssumesColor, {"test_scores_are_one_number_for_each_patch"}),
        (Ranks, {"test_scores_are_one_number_for_each_patch"}),
        (Infinite, {"test_scores_are_one_number_for_each_patch"}),
        (Normalizes, {"test_inputs_are_left_as_they_were"}),
    ],
)
def test_broken_estimators_are_caught(plugin: type[DifficultyEstimator], expected: set[str]) -> None:
    failed = failures(DifficultyConformance, plugin, mask_ratios=(0.75,))
    assert expected <= failed
    assert bool(expected) == bool(failed)

"""The conformance suite notices broken samplers, and says so by the right test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from broken_parts import failures
from torch import Tensor

from curriculum import HardestFirst, Mask, Noise, Random, Sampler
from curriculum.testing import (
    SamplerConformance,
)


class LosesAPatch(Random):
    def __call__(self, scores_NL: Tensor | None, **rest: Any) -> Mask:
        mask = super().__call__(scores_NL, **rest)
        return Mask(mask.visible, mask.masked[:, 1:])


class Unordered(Random):
    def __call__(self, scores_NL: Tensor | None, **rest: Any) -> Mask:
        mask = super().__call__(scores_NL, **rest)
        return Mask(mask.visible, mask.masked.flip(1))


class Overlapping(Random):
    def __call__(self, scores_NL: Tensor | None, **rest: Any) -> Mask:
        mask = super().__call__(scores_NL, **rest)
        return Mask(torch.arange(mask.num_visible).expand_as(mask.visible), mask.masked)


class IgnoresItsNoise(Random):
    def keys(self, scores_NL: Tensor | None, *, grid: tuple[int, int], noise: Noise, **rest: Any) -> Tensor:
        return torch.rand(len(noise.rows_N), grid[0] * grid[1])


class IgnoresTheStep(Random):
    def keys(self, scores_NL: Tensor | None, *, grid: tuple[int, int], noise: Noise, **rest: Any) -> Tensor:
        return Noise(noise.seed, 0, noise.rows_N).bits(grid[0] * grid[1])


class OneMaskForAll(Random):
    def keys(self, scores_NL: Tensor | None, *, grid: tuple[int, int], noise: Noise, **rest: Any) -> Tensor:
        return Noise(noise.seed, noise.step, noise.rows_N * 0).bits(grid[0] * grid[1])


class CountsRowsFromZero(Random):
    def keys(self, scores_NL: Tensor | None, *, grid: tuple[int, int], noise: Noise, **rest: Any) -> Tensor:
        return Noise(noise.seed, noise.step, torch.arange(len(noise.rows_N))).bits(grid[0] * grid[1])


class NeedsWhatItDenies(HardestFirst):
    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return False


class FailsWithoutScores(Random):
    def keys(self, scores_NL: Tensor | None, **rest: Any) -> Tensor:
        assert scores_NL is not None
        return super().keys(scores_NL, **rest)


class FillsInMissingScores(HardestFirst):
    def keys(self, scores_NL: Tensor | None, **rest: Any) -> Tensor:
        if scores_NL is not None:
            scores_NL.nan_to_num_(0.0)
        return super().keys(scores_NL, **rest)


class Waits(Random):
    def keys(self, scores_NL: Tensor | None, *, noise: Noise, **rest: Any) -> Tensor:
        int(noise.rows_N[0])
        return super().keys(scores_NL, noise=noise, **rest)


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (Random, set()),
        (LosesAPatch, {"test_every_patch_is_visible_or_masked_in_the_right_number"}),
        (Unordered, {"test_every_patch_is_visible_or_masked_in_the_right_number"}),
        (Overlapping, {"test_every_patch_is_visible_or_masked_in_the_right_number"}),
        (IgnoresItsNoise, {"test_the_same_noise_gives_the_same_masks"}),
        (IgnoresTheStep, {"test_other_noise_gives_other_masks"}),
        (OneMaskForAll, {"test_other_noise_gives_other_masks"}),
        (CountsRowsFromZero, {"test_a_mask_does_not_depend_on_the_rest_of_the_batch"}),
        (NeedsWhatItDenies, {"test_scores_are_ignored_where_they_are_not_needed"}),
        (FailsWithoutScores, {"test_scores_are_ignored_where_they_are_not_needed"}),
        (FillsInMissingScores, {"test_inputs_are_left_as_they_were"}),
        (Waits, {"test_drawing_does_not_wait_for_the_device"}),
    ],
)
def test_broken_samplers_are_caught(plugin: type[Sampler], expected: set[str]) -> None:
    failed = failures(SamplerConformance, plugin, grids=((4, 4), (3, 7)), mask_ratios=(0.5, 0.75))
    assert expected <= failed
    assert bool(expected) == bool(failed)

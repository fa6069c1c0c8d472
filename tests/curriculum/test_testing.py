"""The conformance suites notice what is broken, and say so by the right test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from curriculum import Batch, DifficultyEstimator, HardestFirst, Mask, Noise, Random, Sampler, Scheduler, SelfPaced
from curriculum.testing import (
    DifficultyConformance,
    SamplerConformance,
    SchedulerConformance,
)

Suite = SchedulerConformance | DifficultyConformance | SamplerConformance


def failures(suite: type[Suite], plugin: type, **attributes: Any) -> set[str]:
    """The tests of a suite, for a plugin without arguments, that fail."""

    class Case(suite):  # type: ignore[valid-type, misc]
        def build(self) -> Any:
            return plugin()

    for name, value in attributes.items():
        setattr(Case, name, value)
    failed = set()
    for name in dir(Case):
        if name.startswith("test_"):
            try:
                getattr(Case(), name)()
            except Exception:
                failed.add(name)
    return failed


class Half(Scheduler):
    """A healthy scheduler, for others to break."""

    def __call__(self, progress: float) -> float:
        return progress / 2


class NotANumber(Half):
    def __call__(self, progress: float) -> float:
        return float("nan")


class ReturnsTensor(Half):
    def __call__(self, progress: float) -> Any:
        return torch.tensor(progress)


class CountsItsCalls(Half):
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, progress: float) -> float:
        self.calls += 1
        return self.calls / 1e6


class ForgetsItsState(SelfPaced):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class ForgetsItsAverage(SelfPaced):
    """What is restored looks right until the next observation."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict({**state, "average": state["reference"] or 0.0})


class KeepsTensors(SelfPaced):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"extra": torch.zeros(1)}


class History(Half):
    """Keeps what it saw; `state_dict` gives away the list itself."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def __call__(self, progress: float) -> float:
        return sum(self.losses) / 1000

    def observe(self, feedback: Mapping[str, float]) -> None:
        self.losses.append(feedback["loss"])

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses = state["losses"]


class SharesItsHistory(History):
    shared: list[float] = []  # noqa: RUF012 - the bug

    def __init__(self) -> None:
        self.losses = self.shared


class WritesFeedback(Half):
    def observe(self, feedback: Mapping[str, float]) -> None:
        feedback["seen"] = 1.0  # type: ignore[index]


VALUES = "test_values_are_finite_numbers_within_the_bounds"
PURE = "test_calling_is_pure"
OBSERVATIONS = "test_observations_alone_decide_the_state"
PLAIN = "test_state_is_plain_data"
SNAPSHOT = "test_state_is_a_snapshot"
RESUME = "test_resuming_changes_nothing"


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (Half, set()),
        (SelfPaced, set()),
        (NotANumber, {VALUES}),
        (ReturnsTensor, {VALUES}),
        (CountsItsCalls, {PURE}),
        (ForgetsItsState, {RESUME, SNAPSHOT}),
        (ForgetsItsAverage, {RESUME}),
        (KeepsTensors, {PLAIN}),
        (History, {SNAPSHOT}),
        (SharesItsHistory, {OBSERVATIONS}),
        (WritesFeedback, {VALUES, PURE, OBSERVATIONS, PLAIN, SNAPSHOT, RESUME}),
    ],
)
def test_broken_schedulers_are_caught(plugin: type[Scheduler], expected: set[str]) -> None:
    failed = failures(SchedulerConformance, plugin)
    assert expected <= failed
    assert bool(expected) == bool(failed)


def test_declared_bounds_are_checked() -> None:
    class Bounded(SchedulerConformance):
        low, high = 0.0, 0.4

        def build(self) -> Scheduler:
            return Half()

    with pytest.raises(AssertionError, match=r"at progress 0\.805 .* is not in the declared \[0\.0, 0\.4\]"):
        Bounded().test_values_are_finite_numbers_within_the_bounds()


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
        return teacher.attention(batch.images)


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


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (Contrast, set()),
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

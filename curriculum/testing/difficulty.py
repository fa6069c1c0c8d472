"""The conformance tests of difficulty estimators.

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, StepOutcome, TrainingContext
from curriculum.mask import Mask, count_masked
from curriculum.noise import Noise
from curriculum.testing.teacher import TinyTeacher, tiny_batch

CAPABILITIES = (
    "predicted_loss",
    "reconstruction_loss",
    "attention",
    "sampled_attention",
    "features",
    "student_features",
)
"""The names that `DifficultyEstimator.needs` may hold."""

_PATCH_SIZE = 4
_NUM_IMAGES = 200  # more than any index of a tiny batch
_LEARNED_STEPS = (0, 1, 4)  # whose outcome an estimator is told before it is asked
_STEP = 5
_SEED, _MASKS, _TRUE, _PREDICTED = 3, 4, 5, 6  # seeds of noise


@dataclass(frozen=True)
class _Case:
    """One call of an estimator."""

    name: str
    batch: Batch
    num_masked: int
    noise: Noise

    def rows(self, start: int, stop: int) -> _Case:
        """Return the same call on some of the images."""
        batch = self.batch

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[start:stop]

        part = replace(
            batch,
            images=batch.images[start:stop],
            indices=cut(batch.indices),
            boxes=cut(batch.boxes),
            flips=cut(batch.flips),
        )
        return replace(self, batch=part, noise=replace(self.noise, rows_N=self.noise.rows_N[start:stop]))

    def outcome(self, step: int, scores_NL: Tensor) -> StepOutcome:
        """Return some losses of the images, which depend on the step and on the row of the noise alone."""

        def noise(seed: int) -> Noise:
            return replace(self.noise, seed=seed, step=step)

        patches = self.batch.num_patches
        mask = Mask.from_keys(noise(_MASKS).bits(patches), self.num_masked)
        true_NM, predicted_NM = (mask.gather_masked(noise(seed).uniform(patches)) for seed in (_TRUE, _PREDICTED))
        return StepOutcome(step, self.batch, mask, scores_NL, true_NM, predicted_NM)

    def tensors(self) -> dict[str, Tensor]:
        batch = self.batch
        named = {"images": batch.images, "indices": batch.indices, "boxes": batch.boxes, "flips": batch.flips}
        return {name: x for name, x in named.items() if x is not None} | {"rows of the noise": self.noise.rows_N}


def _object_shares(batch: Batch) -> Tensor:
    """Return some share of every patch, which depends on the image's index alone."""
    assert batch.indices is not None
    patches_L = torch.arange(batch.num_patches, device=batch.indices.device)
    return (5 * batch.indices.unsqueeze(1) + 3 * patches_L) % 8 / 7


class DifficultyConformance(ABC):
    """The tests that every estimator must pass: subclass it as `Test...` and define how to `build` the estimator.

    Attributes:
        grids: rows and columns of patches of the images that it is tested on.
        channels: the numbers of channels of these images.
        mask_ratios: the training mask ratios.
        device: the device of the images.
        tolerance: the largest relative difference of an image's score between one batch and another.
    """

    grids: ClassVar[tuple[tuple[int, int], ...]] = ((4, 4), (2, 5), (7, 3))
    channels: ClassVar[tuple[int, ...]] = (1, 3, 4)
    mask_ratios: ClassVar[tuple[float, ...]] = (0.6, 0.75)
    device: ClassVar[str] = "cpu"
    tolerance: ClassVar[float] = 1e-4

    @abstractmethod
    def build(self) -> DifficultyEstimator:
        """Build a new estimator, configured the same each time."""

    def cases(self) -> Iterator[_Case]:
        """Yield batches of every grid, each with every number of channels and with every ratio."""
        for turn, grid in enumerate(self.grids):
            for place in range(max(len(self.channels), len(self.mask_ratios))):
                channels = self.channels[place % len(self.channels)]
                ratio = self.mask_ratios[(place + turn) % len(self.mask_ratios)]
                batch = tiny_batch(grid=grid, channels=channels, patch_size=_PATCH_SIZE, device=self.device)
                noise = Noise.for_batch(seed=_SEED, step=_STEP, batch_size=len(batch), first=8, device=self.device)
                name = f"a grid of {grid[0]} x {grid[1]}, {channels} channels and a mask ratio of {ratio}"
                yield _Case(name, batch, count_masked(batch.num_patches, ratio), noise)

    def score(self, estimator: DifficultyEstimator, case: _Case, teacher: TinyTeacher | None = None) -> Tensor:
        """Compute the scores of one call, with a teacher only where `needs` names one of its methods.

        An estimator is prepared anew each time, and one that remembers is told the outcome of some steps before.
        """
        self._teach(estimator, [case], teacher)
        return self._ask(estimator, case, teacher)

    def _teach(
        self, estimator: DifficultyEstimator, parts: Sequence[_Case], teacher: TinyTeacher | None = None
    ) -> None:
        """Begin a run, and take some steps where the estimator remembers, each in these micro-batches."""
        batch = parts[0].batch
        estimator.prepare(
            TrainingContext(
                num_images=_NUM_IMAGES,
                steps_per_epoch=1,
                in_chans=batch.images.shape[1],
                patch_size=_PATCH_SIZE,
                grid=batch.grid,
                device=batch.images.device,
                seed=7,
                object_shares=_object_shares,
            )
        )
        if not estimator.stateful:
            return
        for step in _LEARNED_STEPS:
            for part in parts:
                scores_NL = self._ask(estimator, replace(part, noise=replace(part.noise, step=step)), teacher)
                estimator.remember(part.outcome(step, scores_NL.detach()))

    @staticmethod
    def _ask(estimator: DifficultyEstimator, case: _Case, teacher: TinyTeacher | None = None) -> Tensor:
        if estimator.needs and teacher is None:
            teacher = TinyTeacher(patch_size=_PATCH_SIZE)
        return estimator(case.batch, teacher, num_masked=case.num_masked, noise=case.noise)

    def test_needs_name_what_a_teacher_has(self) -> None:
        estimator = self.build()
        assert isinstance(estimator.needs, tuple), f"needs = {estimator.needs!r} must be a tuple of names"
        unknown = [name for name in estimator.needs if name not in CAPABILITIES]
        assert not unknown, f"needs names {unknown}; a teacher has {CAPABILITIES}"

    def test_asks_for_nothing_beyond_its_needs(self) -> None:
        estimator = self.build()
        for case in self.cases():
            teacher = TinyTeacher(patch_size=_PATCH_SIZE)
            self.score(estimator, case, teacher if estimator.needs else None)
            extra = set(teacher.calls) - set(estimator.needs)
            assert not extra, f"asks the teacher for {sorted(extra)}, which needs = {estimator.needs} does not name"

    def test_scores_are_one_number_for_each_patch(self) -> None:
        estimator = self.build()
        for case in self.cases():
            scores_NL = self.score(estimator, case)
            expected = (len(case.batch), case.batch.num_patches)
            assert tuple(scores_NL.shape) == expected, f"shape {tuple(scores_NL.shape)} on {case.name}, not {expected}"
            assert scores_NL.dtype.is_floating_point, f"scores are {scores_NL.dtype} on {case.name}, not floats"
            same_device = scores_NL.device == case.batch.images.device
            assert same_device, f"scores are on {scores_NL.device}, the images on {case.batch.images.device}"
            assert not bool(scores_NL.isinf().any()), f"infinite scores on {case.name}; NaN means not scored"

    def test_scores_carry_no_gradient(self) -> None:
        estimator = self.build()
        for case in self.cases():
            with torch.enable_grad():
                scores_NL = self.score(estimator, case)
            assert not scores_NL.requires_grad, f"scores on {case.name} keep a graph: compute them under no_grad"

    def test_the_same_noise_gives_the_same_scores(self) -> None:
        """Whether the instance is the same or new: a resumed run must draw the masks it would have drawn."""
        estimator = self.build()
        for case in self.cases():
            scores_NL = self.score(estimator, case).clone()
            for name, other in (("a second call", estimator), ("another instance", self.build())):
                again_NL = self.score(other, case)
                same = torch.allclose(again_NL, scores_NL, rtol=self.tolerance, atol=0, equal_nan=True)
                assert same, f"{name} with the same noise gives other scores on {case.name}"

    def test_an_image_is_scored_alike_in_every_batch(self) -> None:
        """However a global batch is divided among devices or micro-batches, its masks stay the same."""
        estimator = self.build()
        for case in self.cases():
            whole_NL = self.score(estimator, case).clone()
            half = len(case.batch) // 2
            parts = (case.rows(0, half), case.rows(half, len(case.batch)))
            self._teach(estimator, parts)
            parts_NL = torch.cat([self._ask(estimator, part) for part in parts])
            same = torch.allclose(parts_NL, whole_NL, rtol=self.tolerance, atol=1e-7, equal_nan=True)
            assert same, f"scoring a batch in two halves gives other scores on {case.name}"

    def test_scoring_changes_nothing_that_is_kept(self) -> None:
        """Evaluations ask too, and a run must not depend on whether it is watched: that is for `remember` to do."""
        estimator = self.build()
        if not estimator.stateful:
            return
        for case in self.cases():
            self._teach(estimator, [case])
            kept = {} if estimator.module is None else estimator.module.state_dict()
            before = {name: x.clone() for name, x in kept.items()}
            for step in range(_STEP, _STEP + 3):
                self._ask(estimator, replace(case, noise=replace(case.noise, step=step)))
            for name, x in kept.items():
                same = torch.allclose(x, before[name], rtol=0, atol=0, equal_nan=True)
                assert same, f"scoring changes the {name} that is kept on {case.name}; change it in remember"

    def test_inputs_are_left_as_they_were(self) -> None:
        estimator = self.build()
        for case in self.cases():
            before = {name: x.clone() for name, x in case.tensors().items()}
            self.score(estimator, case)
            for name, x in case.tensors().items():
                assert torch.equal(x, before[name]), f"scoring changes the {name} on {case.name}"

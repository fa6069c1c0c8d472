from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty import DifficultyEstimator, PredictedLoss, TrueLoss, Uniform
from curriculum.mask import Mask, count_masked
from curriculum.noise import Noise
from curriculum.teacher import Teacher
from curriculum.testing import DifficultyConformance, TinyTeacher, tiny_batch


class TestUniform(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Uniform()


class TestPredictedLoss(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return PredictedLoss()


class TestPredictedLossOfTwoProbes(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return PredictedLoss(probes=2)


class TestPredictedLossOfOneProbe(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return PredictedLoss(probes=1)


class TestTrueLoss(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return TrueLoss()


class TestTrueLossOfOneProbe(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return TrueLoss(probes=1)


class TestTrueLossOfThreeProbes(DifficultyConformance):
    mask_ratios = (0.4, 0.75)

    def build(self) -> DifficultyEstimator:
        return TrueLoss(probes=3)


@dataclass
class RecordingTeacher:
    """Answers with a TinyTeacher's losses and remembers what it was shown."""

    inner: TinyTeacher = field(default_factory=TinyTeacher)
    masks: list[Mask] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def unsupported_reason(self, capability: str) -> str | None:
        return self.inner.unsupported_reason(capability)

    def predicted_loss(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        predicted = self.inner.predicted_loss(images_NCHW, mask)
        if mask is not None:
            self.masks.append(mask)
            self.losses.append(predicted)
        return predicted

    def reconstruction_loss(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        self.masks.append(mask)
        self.losses.append(self.inner.reconstruction_loss(images_NCHW, mask))
        return self.losses[-1]

    def attention(self, images_NCHW: Tensor) -> Tensor:
        return self.inner.attention(images_NCHW)

    def features(self, images_NCHW: Tensor) -> Tensor:
        return self.inner.features(images_NCHW)


def noise_for(batch: Batch, seed: int = 0) -> Noise:
    return Noise.for_batch(seed=seed, step=0, batch_size=len(batch))


Probing = type[TrueLoss] | type[PredictedLoss]
PROBING: list[Probing] = [TrueLoss, PredictedLoss]


def probe(
    probes: int,
    *,
    grid: tuple[int, int] = (4, 4),
    ratio: float = 0.75,
    num_images: int = 4,
    seed: int = 0,
    kind: Probing = TrueLoss,
) -> tuple[Tensor, RecordingTeacher]:
    batch = tiny_batch(grid=grid, num_images=num_images)
    teacher = RecordingTeacher()
    num_masked = count_masked(batch.num_patches, ratio)
    scores_NL = kind(probes=probes)(batch, teacher, num_masked=num_masked, noise=noise_for(batch, seed))
    assert {*teacher.inner.calls} == {*kind.needs}
    assert len(teacher.masks) == probes
    assert all(mask.num_masked == num_masked for mask in teacher.masks)
    return scores_NL, teacher


def read_scores(teacher: RecordingTeacher, image: int, num_patches: int) -> list[float]:
    """An image's scores, put together patch by patch from what the teacher answered."""
    losses: list[list[float]] = [[] for _ in range(num_patches)]
    for mask, loss_NM in zip(teacher.masks, teacher.losses, strict=True):
        for place, patch in enumerate(mask.masked[image].tolist()):
            losses[patch].append(float(loss_NM[image, place]))
    return [sum(of_patch) / len(of_patch) if of_patch else math.nan for of_patch in losses]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    kind=st.sampled_from(PROBING),
    probes=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 5), st.integers(2, 5)),
    ratio=st.floats(0.5, 0.9),
    seed=st.integers(0, 1000),
)
def test_a_score_is_the_mean_over_the_probes_that_masked_the_patch(
    kind: Probing, probes: int, grid: tuple[int, int], ratio: float, seed: int
) -> None:
    num_patches = grid[0] * grid[1]
    probes = min(probes, num_patches)
    if not 1 <= int(num_patches * (1 - ratio)) < num_patches:
        ratio = 0.5
    scores_NL, teacher = probe(probes, grid=grid, ratio=ratio, num_images=2, seed=seed, kind=kind)
    for image in range(2):
        expected = read_scores(teacher, image, num_patches)
        assert scores_NL[image].tolist() == pytest.approx(expected, rel=1e-5, nan_ok=True)
    if probes > 1:
        assert not bool(scores_NL.isnan().any())


@pytest.mark.parametrize("ratio", [0.5, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("grid", [(4, 4), (7, 3), (14, 14)])
def test_two_probes_see_disjoint_patches(grid: tuple[int, int], ratio: float) -> None:
    scores_NL, teacher = probe(2, grid=grid, ratio=ratio)
    first_NL, second_NL = (~mask.to_bool() for mask in teacher.masks)
    assert not bool((first_NL & second_NL).any())
    assert bool(scores_NL.isfinite().all())


@pytest.mark.parametrize("kind", PROBING)
def test_one_probe_scores_what_it_masks_alone(kind: Probing) -> None:
    scores_NL, teacher = probe(1, kind=kind)
    assert torch.equal(scores_NL.isnan(), ~teacher.masks[0].to_bool())


def test_true_and_predicted_loss_are_asked_under_the_same_masks() -> None:
    one, other = (probe(3, kind=kind)[1].masks for kind in PROBING)
    assert all(torch.equal(mask.masked, again.masked) for mask, again in zip(one, other, strict=True))


def test_the_masks_of_probes_are_what_they_were() -> None:
    """Golden: what a seed means must not change."""
    _, teacher = probe(2, num_images=1)
    assert [mask.visible[0].tolist() for mask in teacher.masks] == [[0, 5, 6, 9], [2, 3, 4, 7]]


def test_probes_cover_every_patch_at_a_low_ratio() -> None:
    scores_NL, teacher = probe(4, ratio=0.25)
    masked = torch.stack([mask.to_bool() for mask in teacher.masks]).sum(dim=0)
    assert bool((masked == 1).all())
    assert bool(scores_NL.isfinite().all())


def test_probes_differ_between_images_and_batches() -> None:
    _, teacher = probe(2)
    _, other = probe(2, seed=1)
    visible_NL = teacher.masks[0].to_bool()
    assert not bool((visible_NL == visible_NL[:1]).all())
    assert not torch.equal(visible_NL, other.masks[0].to_bool())


def test_probes_see_every_patch_equally_often() -> None:
    """4 of 16 patches in 2000 images: 500 each, with a standard deviation of 19."""
    batch = tiny_batch(num_images=2000, channels=1, patch_size=1)
    teacher = RecordingTeacher(TinyTeacher(patch_size=1))
    TrueLoss()(batch, teacher, num_masked=12, noise=noise_for(batch))
    for mask in teacher.masks:
        seen_L = (~mask.to_bool()).sum(dim=0)
        assert 400 < int(seen_L.min()) <= int(seen_L.max()) < 600


@pytest.mark.parametrize("kind", PROBING)
@pytest.mark.parametrize(("probes", "ratio", "needed"), [(2, 0.4, 3), (2, 0.25, 4), (3, 0.25, 4), (2, 0.1, 8)])
def test_too_few_probes_for_the_ratio_are_refused_with_the_number_needed(
    probes: int, ratio: float, needed: int, kind: Probing
) -> None:
    name = kind.__name__
    refused = rf"{name}.probes = {probes} .* use {name}.probes = {needed}, or 1"
    with pytest.raises(ValueError, match=refused):
        kind(probes=probes).check(16, count_masked(16, ratio))
    with pytest.raises(ValueError, match=refused):
        probe(probes, ratio=ratio, kind=kind)
    scores_NL, _ = probe(needed, ratio=ratio, kind=kind)
    assert bool(scores_NL.isfinite().all())


@pytest.mark.parametrize("kind", PROBING)
def test_probes_that_would_repeat_others_are_refused(kind: Probing) -> None:
    kind(probes=16).check(16, 12)
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.probes = 17 must be at most 16, the patches of an image"):
        kind(probes=17).check(16, 12)


@pytest.mark.parametrize("probes", [0, -1])
def test_true_loss_needs_a_probe(probes: int) -> None:
    with pytest.raises(ValueError, match=f"TrueLoss.probes = {probes} must lie in"):
        TrueLoss(probes=probes)
    with pytest.raises(ValueError, match=r"PredictedLoss.probes = -1 must lie in"):
        PredictedLoss(probes=-1)


def test_a_half_precision_teacher_is_averaged_in_float32() -> None:
    class HalfTeacher(RecordingTeacher):
        def reconstruction_loss(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
            return super().reconstruction_loss(images_NCHW, mask).bfloat16()

    batch = tiny_batch()
    scores_NL = TrueLoss()(batch, HalfTeacher(), num_masked=12, noise=noise_for(batch))
    assert scores_NL.dtype == torch.float32
    assert bool(scores_NL.isfinite().all())


def test_uniform_has_no_opinion_and_asks_nobody() -> None:
    batch = tiny_batch(grid=(2, 5))
    scores_NL = Uniform()(batch, None, num_masked=5, noise=noise_for(batch))
    assert scores_NL.tolist() == [[0.0] * 10] * 4
    assert Uniform.needs == ()


def test_the_predicted_loss_of_the_teacher_is_passed_through() -> None:
    batch, teacher = tiny_batch(), TinyTeacher()
    scores_NL = PredictedLoss()(batch, teacher, num_masked=12, noise=noise_for(batch))
    assert teacher.calls == ["predicted_loss"]
    assert torch.equal(scores_NL, TinyTeacher().predicted_loss(batch.images))


def test_tiny_teacher_is_a_teacher() -> None:
    assert isinstance(TinyTeacher(), Teacher)
    assert not isinstance(torch.nn.Identity(), Teacher)

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import curriculum as curriculum_package
from curriculum import (
    Attention,
    Batch,
    Constant,
    Curriculum,
    Cyclic,
    DifficultyEstimator,
    HardestFirst,
    Noise,
    Piecewise,
    PredictedLoss,
    Ramp,
    Random,
    Sampler,
    Scheduler,
    SelfPaced,
    Stratified,
    Stream,
    TrueLoss,
    Uniform,
    UniformRatio,
    hardest,
)
from curriculum.keys import random_keys
from curriculum.testing import TinyTeacher, tiny_batch, typical_feedback


def build(
    scheduler: Scheduler | None = None,
    difficulty: DifficultyEstimator | None = None,
    sampler: Sampler | None = None,
    mask_ratio: float = 0.75,
) -> Curriculum:
    return Curriculum(
        scheduler=scheduler or Constant(value=0.5),
        difficulty=difficulty or PredictedLoss(),
        sampler=sampler or HardestFirst(),
        mask_ratio=mask_ratio,
    )


def noise_for(batch: Batch, *, seed: int = 0, step: int = 0, first: int = 0) -> Noise:
    return Noise.for_batch(seed=seed, step=step, batch_size=len(batch), first=first)


def test_a_drawn_mask_holds_the_hardest_patches() -> None:
    batch = tiny_batch()
    teacher = TinyTeacher()
    noise = noise_for(tiny_batch())
    curriculum = build()
    mask = curriculum.draw(batch, teacher, 0.0, noise)
    assert (mask.num_masked, mask.num_visible) == (12, 4)
    assert curriculum.scores is not None
    assert torch.equal(curriculum.scores, TinyTeacher().predicted_loss(batch.images))
    hard_NL = hardest(curriculum.scores, 6, noise)
    assert hard_NL.sum(dim=1).tolist() == [6] * 4
    assert bool(mask.to_bool()[hard_NL].all())
    assert teacher.calls == ["predicted_loss"]


def test_the_teacher_is_not_run_where_no_patch_is_hard() -> None:
    """M = 12, so that the default ramp asks for the first hard patch at progress 1/6."""
    batch = tiny_batch()
    curriculum, teacher = build(scheduler=Ramp()), TinyTeacher()
    early = curriculum.draw(batch, teacher, 0.16, noise_for(batch))
    assert not curriculum.needs_scores_at(0.16, batch.num_patches)
    assert teacher.calls == []
    assert curriculum.scores is None
    random = build(sampler=Random()).draw(batch, None, 0.16, noise_for(batch))
    assert torch.equal(early.masked, random.masked)

    curriculum.draw(batch, teacher, 0.17, noise_for(batch))
    assert curriculum.needs_scores_at(0.17, batch.num_patches)
    assert teacher.calls == ["predicted_loss"]
    assert curriculum.scores is not None

    curriculum.draw(batch, teacher, 0.0, noise_for(batch))
    assert curriculum.scores is None, "the scores of an earlier batch are kept"
    assert len(teacher.calls) == 1


def test_random_sampling_never_runs_the_teacher() -> None:
    batch, teacher = tiny_batch(), TinyTeacher()
    curriculum = build(scheduler=Constant(value=1.0), sampler=Random())
    curriculum.draw(batch, teacher, 1.0, noise_for(batch))
    assert teacher.calls == []
    assert not curriculum.needs_scores_at(1.0, 16)


@pytest.mark.parametrize("difficulty", [PredictedLoss(), Attention(), TrueLoss(), TrueLoss(probes=1), Uniform()])
@pytest.mark.parametrize("sampler", [HardestFirst(), Random()])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_masks_do_not_depend_on_how_the_global_batch_is_split(
    difficulty: DifficultyEstimator, sampler: Sampler, alpha: float
) -> None:
    curriculum = build(Constant(value=alpha), difficulty, sampler)
    batch = tiny_batch(num_images=8, grid=(3, 5))
    whole = curriculum.draw(batch, TinyTeacher(), 0.5, noise_for(batch, seed=1, step=2, first=16))
    for start in (0, 3):
        part = Batch(batch.images[start : start + 5], batch.patch_size)
        noise = noise_for(part, seed=1, step=2, first=16 + start)
        mask = curriculum.draw(part, TinyTeacher(), 0.5, noise)
        assert torch.equal(mask.masked, whole.masked[start : start + 5])
        assert torch.equal(mask.visible, whole.visible[start : start + 5])


def test_seed_and_step_decide_the_mask() -> None:
    batch, curriculum = tiny_batch(), build()

    def draw(seed: int, step: int) -> torch.Tensor:
        return curriculum.draw(batch, TinyTeacher(), 0.5, noise_for(batch, seed=seed, step=step)).masked

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(1, 3))
    assert not torch.equal(draw(1, 2), draw(2, 2))


def test_the_noise_of_the_difficulty_is_not_the_noise_of_the_sampler() -> None:
    class NoiseAsScore(DifficultyEstimator):
        def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> torch.Tensor:
            return noise.uniform(batch.num_patches)

    batch = tiny_batch(num_images=500)
    curriculum = build(difficulty=NoiseAsScore())
    curriculum.draw(batch, None, 0.0, noise_for(batch))
    assert curriculum.scores is not None
    both = torch.stack([curriculum.scores.flatten(), noise_for(batch).uniform(16).flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.05  # 8000 pairs: a standard deviation is 0.011


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (Ramp(end=1.5), r"Ramp gives alpha = 1\.\d+ at progress 0\.\d+; it must stay in \[0, 1\]"),
        (Ramp(start=-0.1), r"Ramp gives alpha = -0\.1 at progress 0\.0"),
        (Constant(value=float("nan")), r"Constant gives alpha = nan"),
        (Cyclic(high=2.0), r"Cyclic gives alpha = "),
        (Piecewise(points=[(0.0, 0.0), (1.0, 1.01)]), r"Piecewise gives alpha = 1\.01 at progress 1\.0"),
    ],
)
def test_a_schedule_that_leaves_its_bounds_is_refused_at_once(scheduler: Scheduler, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(scheduler)


def test_bounds_that_feedback_breaks_are_found_when_drawing() -> None:
    curriculum = build(SelfPaced(end=1.5, smoothing=0.0))
    for loss in (2.0, 1.0):
        curriculum.observe({"reconstruction_loss": loss})
    with pytest.raises(ValueError, match=r"SelfPaced gives alpha = 1\.5 at progress 0\.5"):
        curriculum.draw(tiny_batch(), TinyTeacher(), 0.5, noise_for(tiny_batch()))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("scheduler", Ramp, r"Curriculum.scheduler must be a Scheduler, got the class Ramp; call it"),
        ("scheduler", HardestFirst(), r"Curriculum.scheduler must be a Scheduler, got HardestFirst"),
        ("scheduler", 0.5, r"Curriculum.scheduler must be a Scheduler, got 0.5"),
        ("difficulty", PredictedLoss, r"Curriculum.difficulty must be a DifficultyEstimator, got the class"),
        ("difficulty", None, r"Curriculum.difficulty must be a DifficultyEstimator, got None"),
        ("sampler", Random, r"Curriculum.sampler must be a Sampler, got the class Random; call it"),
        ("sampler", Ramp(), r"Curriculum.sampler must be a Sampler, got Ramp"),
        ("mask_ratio", 0.0, r"Curriculum.mask_ratio = 0.0 must lie strictly between 0 and 1"),
        ("mask_ratio", 1.0, r"Curriculum.mask_ratio = 1.0"),
        ("mask_ratio", 75, r"Curriculum.mask_ratio = 75"),
        ("mask_ratio", "0.75", r"Curriculum.mask_ratio must be a float or int or Scheduler, got '0.75'"),
        ("mask_ratio", UniformRatio, r"Curriculum.mask_ratio must be .*, got the class UniformRatio; call it"),
    ],
)
def test_wrong_parts_are_named(part: str, value: Any, message: str) -> None:
    parts: dict[str, Any] = {"scheduler": Ramp(), "difficulty": Uniform(), "sampler": Random(), part: value}
    with pytest.raises(ValueError, match=message):
        Curriculum(**parts)


def test_check_passes_where_the_teacher_can() -> None:
    build().check(TinyTeacher(), 196)
    build(difficulty=Uniform()).check(None, 196)
    build().check(TinyTeacher(lacks={"attention": "there is no class token"}), 196)


def test_check_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="difficulty = PredictedLoss needs the teacher's predicted_loss, but there is"):
        build().check(None, 196)
    teacher = TinyTeacher(lacks={"attention": "there is no class token"})
    with pytest.raises(ValueError, match=r"Attention needs the teacher's attention, but there is no class token"):
        build(difficulty=Attention()).check(teacher, 196)
    with pytest.raises(ValueError, match=r"mask_ratio = 0.9 of 4 patches leaves 0 visible"):
        build(mask_ratio=0.9).check(TinyTeacher(), 4)


def test_state_survives_a_restart() -> None:
    stream = typical_feedback()
    original = build(SelfPaced())
    for feedback in stream[:8]:
        original.observe(feedback)
    resumed = build(SelfPaced())
    resumed.load_state_dict(original.state_dict())
    assert 0 < resumed.alpha(0.5) == original.alpha(0.5) < 0.5
    for feedback in stream[8:]:
        original.observe(feedback)
        resumed.observe(feedback)
    assert resumed.alpha(0.5) == original.alpha(0.5)
    assert resumed.state_dict() == original.state_dict()


def test_curricula_differ_in_state_by_their_scheduler_alone() -> None:
    assert build().state_dict() == {"scheduler": {}}
    assert build(difficulty=TrueLoss(), sampler=Random()).state_dict() == {"scheduler": {}}


def blanking(blank_ratio: float, sampler: Sampler | None = None, **arguments: Any) -> Curriculum:
    return Curriculum(
        scheduler=Constant(value=0.0),
        difficulty=Uniform(),
        sampler=sampler or Random(),
        blank_ratio=blank_ratio,
        **arguments,
    )


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    mask_ratio=st.floats(0.05, 0.95),
    blank_ratio=st.floats(0, 0.99),
    throw=st.booleans(),
    split=st.integers(1, 4),
)
def test_as_many_visible_patches_are_blanked_in_every_image(
    rows: int, columns: int, mask_ratio: float, blank_ratio: float, throw: bool, split: int
) -> None:
    arguments = {"mask_ratio": mask_ratio, "throw_ratio": (1 - mask_ratio) / 2 if throw else 0.0}
    curriculum, plain = blanking(blank_ratio, **arguments), blanking(0.0, **arguments)
    try:
        curriculum.check(None, rows * columns)
    except ValueError:
        return
    batch = tiny_batch(num_images=5, grid=(rows, columns))
    mask = curriculum.draw(batch, None, 0.5, noise_for(batch, step=3))
    without = plain.draw(batch, None, 0.5, noise_for(batch, step=3))
    assert torch.equal(mask.visible, without.visible)
    assert torch.equal(mask.masked, without.masked)
    assert without.blanked is None
    if blank_ratio == 0:
        assert mask.blanked is None
        return
    assert mask.blanked is not None
    assert mask.blanked.dtype == torch.bool
    expected = int(mask.num_visible * blank_ratio)
    assert 0 < expected < mask.num_visible
    assert mask.blanked.sum(dim=1).tolist() == [expected] * 5
    part = Batch(batch.images[split:], batch.patch_size)
    parted = curriculum.draw(part, None, 0.5, noise_for(part, step=3, first=split))
    assert torch.equal(parted.blanked, mask.blanked[split:])


def test_any_visible_patch_is_blanked_whichever_are_visible() -> None:
    """UM-MAE on a grid of 4 x 4: 256 ways to choose one patch of each cell, and 4 ways to blank one of these."""
    batch = Batch(torch.zeros(40_960, 1, 4, 4), 1)
    mask = blanking(0.25, Stratified()).draw(batch, None, 0.5, noise_for(batch))
    assert mask.blanked is not None
    visible_N = (1 << mask.visible).sum(dim=1)
    counts = (visible_N * 4 + mask.blanked.long().argmax(dim=1)).unique(return_counts=True)[1]
    assert len(counts) == 1024
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_what_is_blanked_does_not_follow_the_samplers_noise() -> None:
    """Neither the sampler's keys nor any stream but its own may decide what is blanked."""
    batch = Batch(torch.zeros(4000, 1, 4, 4), 1)
    noise = noise_for(batch)
    mask = blanking(0.25, Stratified()).draw(batch, None, 0.5, noise)
    assert mask.blanked is not None
    for other in (noise, *(noise.fold(stream) for stream in Stream if stream is not Stream.BLANKS)):
        most_N = random_keys(other.bits(4)).argmax(dim=1)
        assert float((mask.blanked.long().argmax(dim=1) == most_N).float().mean()) == pytest.approx(0.25, abs=0.04)


def test_other_steps_blank_other_patches() -> None:
    batch, curriculum = tiny_batch(num_images=50), blanking(0.25, mask_ratio=0.5)
    one, other = (curriculum.draw(batch, None, 0.5, noise_for(batch, step=step)).blanked for step in (1, 2))
    assert one is not None
    assert not torch.equal(one, other)
    assert bool((one != one[:1]).any())


@pytest.mark.parametrize(
    ("blank_ratio", "num_patches", "message"),
    [
        (-0.1, 16, r"Curriculum\.blank_ratio = -0\.1 must lie in \[0, 1\)"),
        (1.0, 16, r"Curriculum\.blank_ratio = 1\.0 must lie in \[0, 1\)"),
        (0.2, 16, r"blank_ratio = 0\.2 hides none of the 4 patches that are visible at Curriculum\.mask_ratio = 0\.75"),
    ],
)
def test_a_ratio_that_blanks_all_or_none_is_refused(blank_ratio: float, num_patches: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blanking(blank_ratio).check(None, num_patches)


def test_batch_describes_its_patches() -> None:
    batch = Batch(torch.zeros(2, 3, 8, 12), 4)
    assert (batch.grid, batch.num_patches, len(batch)) == ((2, 3), 6, 2)


@pytest.mark.parametrize(
    ("shape", "patch_size", "message"),
    [
        ((3, 8, 8), 4, r"images must be \[N, C, H, W\], got shape \(3, 8, 8\)"),
        ((1, 3, 8, 9), 4, r"patch_size = 4 does not divide the image of 8 x 9 pixels"),
        ((1, 3, 9, 8), 4, r"patch_size = 4 does not divide the image of 9 x 8 pixels"),
        ((1, 3, 8, 8), 0, r"patch_size = 0"),
    ],
)
def test_batch_refuses_what_cannot_be_cut_into_patches(shape: tuple[int, ...], patch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batch(torch.zeros(shape), patch_size)


def test_batch_moves_as_a_whole() -> None:
    batch = tiny_batch()
    moved = batch.to("meta")
    for name in ("images", "indices", "boxes", "flips"):
        assert getattr(batch, name).device.type == "cpu"
        assert getattr(moved, name).device.type == "meta"
    assert Batch(batch.images, 4).to("meta").indices is None


def test_everything_public_is_exported() -> None:
    missing = [name for name in curriculum_package.__all__ if not hasattr(curriculum_package, name)]
    assert not missing

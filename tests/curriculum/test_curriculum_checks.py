"""Curricula that are refused, before training wherever possible."""

from __future__ import annotations

from typing import Any

import pytest
from curricula import build, noise_for
from estimators import score

from curriculum import (
    ADIOS,
    CLMAE,
    AdaMAE,
    Attention,
    Blockwise,
    Cached,
    Cells,
    Constant,
    Curriculum,
    Cyclic,
    DifficultyEstimator,
    EdgeDensity,
    HardestFirst,
    LossMemory,
    MetricPaced,
    Parts,
    Piecewise,
    PredictedLoss,
    Quotas,
    Ramp,
    Random,
    Sampler,
    Scheduler,
    Smoothed,
    Uniform,
    UniformRatio,
    Weighted,
)
from curriculum.testing import TinyTeacher, tiny_batch


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
    curriculum = build(MetricPaced(end=1.5, smoothing=0.0))
    for loss in (2.0, 1.0):
        curriculum.observe({"reconstruction_loss": loss})
    with pytest.raises(ValueError, match=r"MetricPaced gives alpha = 1\.5 at progress 0\.5"):
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


def test_check_refuses_blocks_that_are_larger_than_the_mask() -> None:
    """Where none fits, all would be masked at random."""
    for sampler in (Blockwise(), Blockwise(min_patches=12)):
        build(difficulty=Uniform(), sampler=sampler).check(None, 16)
    with pytest.raises(
        ValueError, match=r"Blockwise\.min_patches = 13 must be at most 12, the patches that are masked"
    ):
        build(difficulty=Uniform(), sampler=Blockwise(min_patches=13)).check(None, 16)
    for sampler, message in (
        (
            Blockwise(min_patches=7, share=0.5),
            r"min_patches = 7 must be at most 6, the patches .* masked in block",
        ),
        (Blockwise(min_patches=1, share=0.05), r"Blockwise\.share = 0\.05 of 12 masked patches is none; raise it"),
        (Blockwise(min_patches=6, max_patches=5), r"Blockwise\.max_patches = 5 must be at least .*min_patches = 6"),
    ):
        with pytest.raises(ValueError, match=message):
            build(difficulty=Uniform(), sampler=sampler).check(None, 16)


def test_check_refuses_blocks_that_no_grid_has_room_for() -> None:
    """Of 8 x 8 patches a block takes 7 x 7, whose area may have been rounded down from 56."""
    for sampler in (Blockwise(min_patches=56), Cells(sampler=Blockwise(min_patches=12))):
        build(difficulty=Uniform(), sampler=sampler, mask_ratio=0.9).check(None, 64)
    for sampler, message in (
        (Blockwise(min_patches=57), r"Blockwise\.min_patches = 57 must be below 56.25: no block is as long"),
        (Cells(sampler=Blockwise(min_patches=13)), r"Blockwise\.min_patches = 13 must be below 12.25"),
    ):
        with pytest.raises(ValueError, match=message):
            build(difficulty=Uniform(), sampler=sampler, mask_ratio=0.9).check(None, 64)


def test_check_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="difficulty = PredictedLoss needs the teacher's predicted_loss, but there is"):
        build().check(None, 196)
    teacher = TinyTeacher(lacks={"attention": "there is no class token"})
    with pytest.raises(ValueError, match=r"Attention needs the teacher's attention, but there is no class token"):
        build(difficulty=Attention()).check(teacher, 196)
    with pytest.raises(ValueError, match=r"mask_ratio = 0.9 of 4 patches leaves 0 visible"):
        build(mask_ratio=0.9).check(TinyTeacher(), 4)


@pytest.mark.parametrize(
    ("difficulty", "sampler"),
    [
        (Parts(), Quotas()),
        (EdgeDensity(), Weighted(weights="proportional")),
        (ADIOS(), HardestFirst()),
        (CLMAE(), HardestFirst()),
        (EdgeDensity(), Cells(sampler=Weighted(weights="proportional"))),
        (Cached(estimator=Parts()), HardestFirst()),
    ],
)
def test_what_cannot_be_turned_round_is_refused(difficulty: DifficultyEstimator, sampler: Sampler) -> None:
    with pytest.raises(ValueError, match=r"Curriculum\.polarity = 'easiest' turns the scores round, and"):
        Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=sampler, polarity="easiest")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Quotas\.parts = 3 must be at least 6, the parts that Parts numbers"):
        Curriculum(scheduler=Constant(), difficulty=Parts(), sampler=Quotas(parts=3)).check(TinyTeacher(), 16)
    with pytest.raises(ValueError, match=r"score_every = 2, but Cached has to follow every step"):
        Curriculum(scheduler=Constant(), difficulty=Cached(estimator=Uniform()), sampler=HardestFirst(), score_every=2)
    with pytest.raises(ValueError, match="AdaMAE has no network yet"):
        score(AdaMAE(), tiny_batch())
    with pytest.raises(ValueError, match=r"Quotas\.parts = 3 must be at least 6, the parts that Cached numbers"):
        Curriculum(scheduler=Constant(), difficulty=Cached(estimator=Parts()), sampler=Quotas(parts=3)).check(
            TinyTeacher(), 16
        )
    with pytest.raises(ValueError, match="Cells takes the mean of the scores in a cell, and those of Parts are the"):
        Curriculum(scheduler=Constant(), difficulty=Parts(), sampler=Cells()).check(TinyTeacher(), 16)


def test_a_single_masked_patch_teaches_a_memory_of_losses_nothing() -> None:
    for difficulty in (LossMemory(), Smoothed(estimator=LossMemory())):
        build(difficulty=difficulty, mask_ratio=0.1).check(None, 16)
        with pytest.raises(ValueError, match=r"Curriculum\.mask_ratio masks 1 of 16; raise it until two are masked"):
            build(difficulty=difficulty, mask_ratio=0.05).check(None, 16)

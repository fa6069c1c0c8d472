"""The learning rate at every step, its scaling, the clock of a run, and what a batch may be."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError
from itertools import pairwise
from typing import ClassVar

import pytest

from hpm.optim.clock import Clock
from hpm.optim.schedule import Schedule


class OtherSchedule(Schedule):
    """As evaluations have one, whose settings bear the evaluation's name."""

    owner: ClassVar[str] = "Other"


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.0),
        (20, 0.6e-3),
        (39.5, 1.2e-3 * 39.5 / 40),
        (40, 1.2e-3),
        (120, 0.6e-3),
        (160, 1.2e-3 * (1 + math.cos(0.75 * math.pi)) / 2),
        (199.5, 1.2e-3 * (1 + math.cos(math.pi * 159.5 / 160)) / 2),
    ],
)
def test_published_schedule(epoch: float, expected: float) -> None:
    """Base rate 1.5e-4 at batch 2048, 40 of 200 epochs of warm-up, 10 steps an epoch."""
    schedule = Schedule(epochs=200, batch_size=2048, blr=1.5e-4, warmup_epochs=40)
    assert schedule.lr == pytest.approx(1.2e-3)
    clock = Clock(round(epoch * 10), 10, 200)
    assert schedule.learning_rate(clock) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("batch_size", "expected"), [(256, 1.0), (64, 0.25), (4096, 16.0)])
def test_the_peak_is_scaled_by_the_batch(batch_size: int, expected: float) -> None:
    """By all images of a step, into however many micro-batches it is cut."""
    for accumulate in (1, 4):
        schedule = Schedule(batch_size=batch_size, accumulate=accumulate, blr=1.0)
        assert schedule.lr == expected


def test_minimum() -> None:
    schedule = Schedule(epochs=100, batch_size=256, blr=1.0, min_lr=0.1, warmup_epochs=0)
    assert schedule.learning_rate(Clock(0, 1, 100)) == pytest.approx(1.0)
    assert schedule.learning_rate(Clock(50, 1, 100)) == pytest.approx(0.55)
    assert schedule.learning_rate(Clock(100, 1, 100)) == pytest.approx(0.1)


def test_warm_up_of_a_part_of_an_epoch() -> None:
    """Starts from 0 whatever the minimum, rises by equal steps, and falls from its end on."""
    schedule = Schedule(epochs=3, batch_size=256, blr=1.0, min_lr=0.2, warmup_epochs=0.5)
    rates = [schedule.learning_rate(Clock(step, 8, 3)) for step in range(24)]
    assert rates[:5] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert all(before > after for before, after in pairwise(rates[4:]))
    assert rates[-1] > 0.2


def test_the_rate_follows_epochs_however_many_steps_they_have() -> None:
    schedule = Schedule(epochs=10, batch_size=256, blr=1.0, warmup_epochs=2)
    assert schedule.learning_rate(Clock(6, 1, 10)) == pytest.approx(0.5)
    assert schedule.learning_rate(Clock(60, 10, 10)) == pytest.approx(0.5)


def test_the_clock_of_a_run_drops_an_incomplete_last_batch() -> None:
    clock = Schedule(epochs=50, batch_size=32).clock(130)
    assert clock == Clock(step=0, steps_per_epoch=4, epochs=50)
    assert clock.total_steps == 200
    assert Schedule(batch_size=32).clock(32).steps_per_epoch == 1
    with pytest.raises(ValueError, match=r"^Schedule\.batch_size = 32 must be 1 to 31, the number of training images$"):
        Schedule(batch_size=32).clock(31)
    with pytest.raises(ValueError, match=r"^Other\.batch_size = 32 must be 1 to 31, the number of training images$"):
        OtherSchedule(batch_size=32).clock(31)


def test_processes_and_micro_batches_share_a_batch_evenly() -> None:
    assert Schedule(batch_size=48).micro_batch_size(1) == 48
    assert Schedule(batch_size=48, accumulate=2).micro_batch_size(8) == 3
    shared = "48 must be divisible by Schedule.accumulate = 2 times the number of processes, 5"
    with pytest.raises(ValueError, match=re.escape(f"Schedule.batch_size = {shared}")):
        Schedule(batch_size=48, accumulate=2).micro_batch_size(5)
    with pytest.raises(ValueError, match=r"^Other\.batch_size = 48 must be divisible by Other\.accumulate = 2 times "):
        OtherSchedule(batch_size=48, accumulate=2).micro_batch_size(16)


def test_images_of_several_masks_make_more_steps_of_an_epoch() -> None:
    schedule = Schedule(batch_size=48, accumulate=2, masks_per_image=4)
    assert schedule.loaded_per_step == 12
    assert schedule.micro_batch_size(3) == 8
    assert schedule.lr == Schedule(batch_size=48).lr
    assert schedule.clock(130).steps_per_epoch == 130 * 4 // 48
    assert schedule.clock(12).steps_per_epoch == 1
    images = r"^Other\.batch_size = 48 must be 1 to 44, the number of training images times Other\.masks_per_image = 4$"
    with pytest.raises(ValueError, match=images):
        OtherSchedule(batch_size=48, masks_per_image=4).clock(11)
    shared = "48 must be divisible by Schedule.accumulate = 2 times Schedule.masks_per_image = 4 times the number of "
    with pytest.raises(ValueError, match=re.escape(f"Schedule.batch_size = {shared}processes, 4")):
        schedule.micro_batch_size(4)


INFINITE = "is too large: the learning rate, {owner}.blr * {owner}.batch_size / 256, would be infinite"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs = 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0 must be at least 1"),
        ({"accumulate": 0}, "accumulate = 0 must be at least 1"),
        ({"batch_size": 10, "accumulate": 3}, "batch_size = 10 must be divisible by {owner}.accumulate = 3"),
        ({"masks_per_image": 0}, "masks_per_image = 0 must be at least 1"),
        (
            {"batch_size": 20, "accumulate": 2, "masks_per_image": 4},
            "batch_size = 20 must be divisible by {owner}.accumulate = 2 times {owner}.masks_per_image = 4",
        ),
        ({"blr": -1e-3}, "blr = -0.001 must be at least 0"),
        ({"blr": math.nan}, "blr = nan must be at least 0"),
        ({"min_lr": -1e-6}, "min_lr = -1e-06 must be at least 0"),
        (
            {"blr": 1e-3, "min_lr": 0.5},
            "min_lr = 0.5 must be at most the peak, {owner}.blr * {owner}.batch_size / 256 = 0.001",
        ),
        ({"blr": 1e308, "batch_size": 512}, f"blr = 1e+308 {INFINITE}"),
        ({"blr": 1e307}, f"blr = 1e+307 {INFINITE}"),  # at the end of the warm-up
        ({"blr": math.inf}, f"blr = inf {INFINITE}"),
        ({"warmup_epochs": -1}, "warmup_epochs = -1 must lie in [0, {owner}.epochs = 200)"),
        ({"warmup_epochs": 200}, "warmup_epochs = 200 must lie in [0, {owner}.epochs = 200)"),
        ({"epochs": 5, "warmup_epochs": 5.5}, "warmup_epochs = 5.5 must lie in [0, {owner}.epochs = 5)"),
    ],
)
@pytest.mark.parametrize("kind", [Schedule, OtherSchedule])
def test_settings_that_cannot_be_are_named(kind: type[Schedule], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'{kind.owner}.{message.format(owner=kind.owner)}')}$"):
        kind(**settings)


def test_a_schedule_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Schedule().epochs = 3  # type: ignore[misc]

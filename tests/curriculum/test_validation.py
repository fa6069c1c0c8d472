"""Checks of settings: what passes, and what the message of a refusal says."""

from __future__ import annotations

import math
from typing import Any

import pytest

from curriculum import HardestFirst, Ramp, Sampler, Scheduler
from curriculum.validation import (
    require_at_least,
    require_choice,
    require_in,
    require_instance,
    require_positive,
    require_span,
)

NAN = math.nan


def message(check: Any, *arguments: Any, **settings: Any) -> str | None:
    """What a check says, None where it passes."""
    try:
        check("Part", *arguments, **settings)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("value", [1, 1.0, 2, math.inf, None])
def test_numbers_that_are_large_enough_pass(value: float | None) -> None:
    assert message(require_at_least, 1, steps=value) is None


@pytest.mark.parametrize("value", [0, -1, 0.999, -math.inf, NAN])
def test_numbers_that_are_too_small_are_refused(value: float) -> None:
    assert message(require_at_least, 1, steps=value) == f"Part.steps = {value} must be at least 1"


@pytest.mark.parametrize("value", [1, 1e-300, math.inf, None])
def test_positive_numbers_pass(value: float | None) -> None:
    assert message(require_positive, lr=value) is None


@pytest.mark.parametrize("value", [0, 0.0, -1.5, NAN])
def test_others_are_not_positive(value: float) -> None:
    assert message(require_positive, lr=value) == f"Part.lr = {value} must be positive"


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", [0, 0.5, 1, None], [-1e-9, 1.1, NAN]),
        ("[0, 1)", [0, 0.5, None], [-1, 1, NAN]),
        ("(0, 1]", [1e-9, 1], [0, 2, NAN]),
        ("(0, 1)", [0.5], [0, 1, NAN]),
        ("[-1, 1]", [-1, 0, 1], [-1.5, 1.5]),
        ("(0, inf)", [1e9], [0, math.inf]),
    ],
)
def test_intervals_are_read_as_mathematics_writes_them(
    interval: str, inside: list[float | None], outside: list[float]
) -> None:
    assert [message(require_in, interval, share=value) for value in inside] == [None] * len(inside)
    said = [message(require_in, interval, share=value) for value in outside]
    assert said == [f"Part.share = {value} must lie in {interval}" for value in outside]


@pytest.mark.parametrize(("begin", "until"), [(0, 1), (0.2, 0.3), (0.0, 1e-9)])
def test_spans_within_training_pass(begin: float, until: float) -> None:
    assert message(require_span, begin=begin, until=until) is None


@pytest.mark.parametrize(("begin", "until"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (NAN, 1.0), (0.0, NAN)])
def test_other_spans_are_refused(begin: float, until: float) -> None:
    expected = f"Part.begin = {begin} and Part.until = {until} must satisfy 0 <= begin < until <= 1"
    assert message(require_span, begin=begin, until=until) == expected


def test_a_choice_is_one_of_those_there_are() -> None:
    assert message(require_choice, ("linear", "hold"), shape="hold") is None
    assert message(require_choice, {"linear": 1}, shape="linear") is None
    assert message(require_choice, ("linear", "hold"), shape="held") == (
        "Part.shape = 'held' is unknown; choose 'linear', 'hold'"
    )


def test_true_and_one_are_different_choices() -> None:
    assert message(require_choice, (False, True, "blocks"), compile=True) is None
    assert message(require_choice, (False, True, "blocks"), compile=1) == (
        "Part.compile = 1 is unknown; choose False, True, 'blocks'"
    )
    assert message(require_choice, (0, 1), count=False) == "Part.count = False is unknown; choose 0, 1"


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (Scheduler, Ramp, "Part.given must be a Scheduler, got the class Ramp; call it"),
        (Scheduler, HardestFirst(), "Part.given must be a Scheduler, got HardestFirst"),
        (Sampler, None, "Part.given must be a Sampler, got None"),
        (Sampler, "Random", "Part.given must be a Sampler, got 'Random'"),
        (int, 0.5, "Part.given must be an int, got 0.5"),
        (float | Scheduler, "x", "Part.given must be a float or Scheduler, got 'x'"),
        (Scheduler | None, 1, "Part.given must be a Scheduler or None, got 1"),
    ],
)
def test_objects_of_another_class_are_described(kind: Any, value: object, said: str) -> None:
    assert message(require_instance, kind, given=value) == said


def test_objects_of_the_class_and_of_its_subclasses_pass() -> None:
    assert message(require_instance, Scheduler, scheduler=Ramp()) is None
    assert message(require_instance, float | Scheduler, alpha=0.5, beta=Ramp()) is None


def test_the_setting_at_fault_is_named() -> None:
    assert message(require_at_least, 1, epochs=2, draws=0, images=-1) == "Part.draws = 0 must be at least 1"
    assert message(require_positive, lr=1.0, decay=0.0) == "Part.decay = 0.0 must be positive"
    assert message(require_in, "[0, 1)", warmup=0.1, smoothing=1.0) == "Part.smoothing = 1.0 must lie in [0, 1)"

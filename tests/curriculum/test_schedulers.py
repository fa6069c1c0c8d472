"""Schedules in time: ramps, points and cycles."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.samplers import count_hard
from curriculum.schedulers import SHAPES, Constant, Cyclic, MetricPaced, Piecewise, Ramp, Scheduler
from curriculum.testing import SchedulerConformance


class TestConstant(SchedulerConformance):
    low, high = 0.3, 0.3

    def build(self) -> Scheduler:
        return Constant(value=0.3)


class TestRamp(SchedulerConformance):
    low, high = 0.0, 0.5

    def build(self) -> Scheduler:
        return Ramp()


class TestDelayedFallingRamp(SchedulerConformance):
    low, high = 0.1, 0.9

    def build(self) -> Scheduler:
        return Ramp(start=0.9, end=0.1, shape="logarithmic", begin=0.2, until=0.7)


class TestPiecewise(SchedulerConformance):
    low, high = 0.1, 0.8

    def build(self) -> Scheduler:
        return Piecewise(points=[(0.1, 0.2), (0.5, 0.8), (0.9, 0.1)])


class TestPiecewiseHold(SchedulerConformance):
    low, high = 0.1, 0.8

    def build(self) -> Scheduler:
        return Piecewise(points=[(0.0, 0.2), (0.5, 0.8), (1.0, 0.1)], interpolation="hold")


class TestCyclic(SchedulerConformance):
    low, high = 0.0, 0.5

    def build(self) -> Scheduler:
        return Cyclic()


class TestSawtooth(SchedulerConformance):
    low, high = 0.1, 0.7

    def build(self) -> Scheduler:
        return Cyclic(low=0.1, high=0.7, cycles=3, rise=1.0, shape="logarithmic")


def num_hard(epoch: int, epochs: int) -> int:
    """L = 196 and a ratio of 0.75: M = 147. Progress counts the epoch that is under way as done."""
    return count_hard(Ramp()((epoch + 1) / epochs), 147)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0), (1, 0), (2, 1), (9, 3), (49, 18), (99, 36), (149, 55), (199, 73)]
)
def test_default_ramp_counts_hard_patches_as_hard_patches_mining_does(epoch: int, expected: int) -> None:
    assert num_hard(epoch, 200) == expected


@pytest.mark.parametrize(("epochs", "first"), [(200, 2), (800, 10), (1600, 21)])
def test_first_epoch_with_a_hard_patch(epochs: int, first: int) -> None:
    assert next(epoch for epoch in range(epochs) if num_hard(epoch, epochs) > 0) == first


PACING = {
    "linear": (0.2, 0.4, 0.6, 0.8, 1.0),
    "quadratic": (0.2, 0.25, 0.4, 0.65, 1.0),
    "root": (0.2, 0.6, 0.7657, 0.8928, 1.0),
    "exponential": (0.2, 0.2004, 0.2054, 0.2656, 1.0),
    "logarithmic": (0.2, 0.8891, 0.9446, 0.9770, 1.0),
    "step": (0.2, 0.2, 0.2, 0.2, 1.0),
}


@pytest.mark.parametrize("shape", PACING)
def test_pacing_functions_of_wu_et_al(shape: str) -> None:
    ramp = Ramp(start=0.2, end=1.0, shape=shape, until=0.8)
    values = [ramp(progress) for progress in (0.0, 0.2, 0.4, 0.6, 0.8)]
    assert values == pytest.approx(PACING[shape], abs=5e-5)
    assert ramp(0.9) == ramp(1.0) == 1.0


def pacing(shape: str, t: int, total: int, *, a: float, b: float, size: int) -> float:
    """Wu et al. 2021 as written: how many of `size` samples, easiest first, step t of `total` draws from."""
    x = t / (a * total)
    if x >= 1:
        return size
    grown = {
        "linear": size * (1 - b) * x,
        "quadratic": size * (1 - b) * x**2,
        "root": size * (1 - b) * x**0.5,
        "exponential": size * (1 - b) * (math.exp(10 * x) - 1) / (math.exp(10) - 1),
        "logarithmic": size * (1 - b) * (1 + 0.1 * math.log(x + math.exp(-10))),
        "step": size * math.floor(x),
    }
    return min(size, size * b + grown[shape])


@pytest.mark.parametrize("a", [0.01, 0.1, 0.2, 0.4, 0.8, 1.6])
@pytest.mark.parametrize("shape", PACING)
def test_pacing_functions_with_every_published_a(shape: str, a: float) -> None:
    ramp = Ramp(start=0.2, end=1.0, shape=shape, until=a)
    for t in range(101):
        assert 1000 * ramp(t / 100) == pytest.approx(pacing(shape, t, 100, a=a, b=0.2, size=1000), abs=1e-9)
    assert (ramp(1.0) < 1) == (a > 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_ramps_never_leave_their_ends(shape: str) -> None:
    ramp = Ramp(start=0.2, end=1.0, shape=shape, until=0.8)
    values = [ramp(step / 100_000) for step in range(100_001)]
    assert min(values) == 0.2
    assert max(values) == 1.0
    assert all(earlier <= later for earlier, later in itertools.pairwise(values))


def test_logarithmic_pacing_is_clipped_just_before_its_end() -> None:
    assert SHAPES["logarithmic"](0.999999) > 1
    assert Ramp(start=0.2, end=1.0, shape="logarithmic", until=0.8)(0.7999999) == 1.0


def test_the_step_comes_exactly_at_its_end() -> None:
    ramp = Ramp(start=0.2, end=1.0, shape="step", until=0.8)
    assert ramp(math.nextafter(0.8, 0)) == 0.2
    assert ramp(0.8) == 1.0


@pytest.mark.parametrize("shape", ["cosine", "sigmoid", "linear"])
def test_symmetric_shapes(shape: str) -> None:
    ramp = Ramp(start=0.1, end=0.7, shape=shape)
    assert [ramp(0.0), ramp(0.5), ramp(1.0)] == pytest.approx([0.1, 0.4, 0.7], abs=1e-12)
    assert ramp(0.3) - 0.1 == pytest.approx(0.7 - ramp(0.7), abs=1e-12)


def test_cosine_and_sigmoid_at_a_quarter() -> None:
    assert Ramp(end=1.0, shape="cosine")(0.25) == pytest.approx((1 - math.sqrt(0.5)) / 2)
    logistic = 1 / (1 + math.exp(2.5))
    lowest = 1 / (1 + math.exp(5))
    assert Ramp(end=1.0, shape="sigmoid")(0.25) == pytest.approx((logistic - lowest) / (1 - 2 * lowest))


@settings(deadline=None, derandomize=True)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    start=st.floats(0, 1),
    end=st.floats(0, 1),
    edges=st.tuples(st.integers(0, 9), st.integers(1, 10)).filter(lambda edges: edges[0] < edges[1]),
    progress=st.floats(0, 1),
)
def test_a_ramp_mirrors_its_reverse(
    shape: str, start: float, end: float, edges: tuple[int, int], progress: float
) -> None:
    begin, until = edges[0] / 10, edges[1] / 10
    rising = Ramp(start=start, end=end, shape=shape, begin=begin, until=until)(progress)
    falling = Ramp(start=end, end=start, shape=shape, begin=begin, until=until)(progress)
    assert rising + falling == pytest.approx(start + end, abs=1e-9)
    assert min(start, end) - 1e-12 <= rising <= max(start, end) + 1e-12
    if progress <= begin:
        assert rising == start
    if progress >= until:
        assert rising == end


def test_piecewise_linear() -> None:
    scheduler = Piecewise(points=[(0.2, 0.1), (0.4, 0.5), (0.8, 0.3)])
    values = [scheduler(progress) for progress in (0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)]
    assert values == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.4, 0.3, 0.3])


def test_piecewise_hold() -> None:
    scheduler = Piecewise(points=[(0.2, 0.1), (0.4, 0.5), (0.8, 0.3)], interpolation="hold")
    values = [scheduler(progress) for progress in (0.0, 0.2, 0.399, 0.4, 0.799, 0.8, 1.0)]
    assert values == [0.1, 0.1, 0.1, 0.5, 0.5, 0.3, 0.3]


def test_piecewise_of_one_point_is_constant() -> None:
    assert [Piecewise(points=[(0.5, 0.25)])(progress) for progress in (0.0, 0.5, 1.0)] == [0.25] * 3


def test_piecewise_default_is_the_default_ramp() -> None:
    assert [Piecewise()(i / 7) for i in range(8)] == pytest.approx([Ramp()(i / 7) for i in range(8)])


def test_cyclic_triangle() -> None:
    scheduler = Cyclic(low=0.1, high=0.5, cycles=2)
    values = [scheduler(progress) for progress in (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)]
    assert values == pytest.approx([0.1, 0.3, 0.5, 0.3, 0.1, 0.5, 0.1])


def test_cyclic_sawtooth_restarts_and_ends_high() -> None:
    scheduler = Cyclic(low=0.1, high=0.5, cycles=4, rise=1.0)
    assert scheduler(math.nextafter(0.25, 0)) == pytest.approx(0.5)
    assert scheduler(0.25) == 0.1
    assert scheduler(0.375) == pytest.approx(0.3)
    assert scheduler(1.0) == 0.5


def test_cyclic_with_a_short_rise() -> None:
    scheduler = Cyclic(low=0.0, high=1.0, cycles=1, rise=0.2, shape="quadratic")
    values = [scheduler(progress) for progress in (0.1, 0.2, 0.6, 1.0)]
    assert values == pytest.approx([0.25, 1.0, 0.25, 0.0])


@settings(deadline=None, derandomize=True)
@given(
    cycles=st.integers(1, 12),
    rise=st.floats(0.05, 1.0),
    shape=st.sampled_from(sorted(SHAPES)),
    place=st.floats(0, 0.95),
)
def test_every_cycle_is_alike(cycles: int, rise: float, shape: str, place: float) -> None:
    scheduler = Cyclic(cycles=cycles, rise=rise, shape=shape)
    if shape in ("step", "root", "logarithmic"):  # steep somewhere: rounding would show
        place = round(place, 1)
        if abs(place - rise) < 0.01 or place < 0.05:
            return
    values = [scheduler((cycle + place) / cycles) for cycle in range(cycles)]
    assert values == pytest.approx([values[0]] * cycles, abs=1e-6)
    assert 0 <= min(values) <= max(values) <= 0.5


def test_a_scheduler_without_state_refuses_one() -> None:
    with pytest.raises(ValueError, match=r"Ramp keeps no state, got \['achieved'\]"):
        Ramp().load_state_dict({"achieved": 1.0})
    Ramp().load_state_dict({})


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Ramp, {"shape": "cubic"}, r"Ramp.shape = 'cubic' is unknown; choose 'linear', 'cosine'"),
        (Ramp, {"begin": 0.5, "until": 0.5}, r"Ramp.begin = 0.5 and Ramp.until = 0.5"),
        (Ramp, {"begin": -0.1}, r"Ramp.begin = -0.1"),
        (Ramp, {"begin": 1.0, "until": 1.6}, r"Ramp.begin = 1.0 and Ramp.until = 1.6"),
        (Ramp, {"until": math.inf}, r"Ramp.until = inf"),
        (Ramp, {"until": math.nan}, r"Ramp.until = nan"),
        (Cyclic, {"shape": "cubic"}, r"Cyclic.shape = 'cubic'"),
        (Cyclic, {"cycles": 0}, r"Cyclic.cycles = 0"),
        (Cyclic, {"rise": 0.0}, r"Cyclic.rise = 0.0"),
        (Cyclic, {"rise": 1.5}, r"Cyclic.rise = 1.5"),
        (Piecewise, {"interpolation": "cubic"}, r"Piecewise.interpolation = 'cubic'"),
        (Piecewise, {"points": []}, r"Piecewise.points = \[\]"),
        (Piecewise, {"points": [(0.0, 1.0, 2.0)]}, r"Piecewise.points = .* pairs"),
        (
            Piecewise,
            {"points": [(0.5, 0.1), (0.5, 0.2)]},
            r"Piecewise.points must ascend in progress, got \[0.5, 0.5\]",
        ),
        (Piecewise, {"points": [(0.5, 0.1), (1.5, 0.2)]}, r"Piecewise.points must lie .* got \[0.5, 1.5\]"),
        (Piecewise, {"points": [(-0.5, 0.1), (0.5, 0.2)]}, r"Piecewise.points must lie .* got \[-0.5, 0.5\]"),
        (MetricPaced, {"goal": 1.0}, r"MetricPaced.goal = 1.0"),
        (MetricPaced, {"goal": -0.5}, r"MetricPaced.goal = -0.5"),
        (MetricPaced, {"smoothing": 1.0}, r"MetricPaced.smoothing = 1.0"),
        (MetricPaced, {"smoothing": -0.1}, r"MetricPaced.smoothing = -0.1"),
    ],
)
def test_invalid_arguments_are_named(kind: type[Scheduler], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)

"""Schedulers: training progress in [0, 1], or what the learner achieved, -> a scalar such as alpha.

A scheduler is a function of progress. One that is driven by feedback also implements `observe`, and keeps what it
saw in `state_dict`. Any scalar may be scheduled; bounds such as alpha's [0, 1] are checked by who uses it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Feedback = Mapping[str, float]
"""Reduced training metrics of the last interval, e.g. `{"reconstruction_loss": 0.41}`."""


class Scheduler(ABC):
    """Maps progress to a scalar.

    `watches` names the metrics that `observe` needs, so that one nobody measures is found before training.
    """

    watches: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """The value at `progress` in [0, 1]. Calling has no side effect: the same state gives the same value."""

    def observe(self, feedback: Feedback) -> None:  # noqa: B027 - optional
        """Learn from an interval's metrics; called at fixed global steps. Most schedulers ignore them."""

    def state_dict(self) -> dict[str, Any]:
        """What `observe` has accumulated; numbers, strings and lists only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")


def _exponential(x: float) -> float:
    return math.expm1(10 * x) / math.expm1(10)


def _logarithmic(x: float) -> float:
    return 1 + 0.1 * math.log(x + math.exp(-10))


def _sigmoid(x: float) -> float:
    low, high = 1 / (1 + math.exp(5)), 1 / (1 + math.exp(-5))
    return (1 / (1 + math.exp(5 - 10 * x)) - low) / (high - low)


SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
    "quadratic": lambda x: x * x,
    "root": math.sqrt,
    "exponential": _exponential,
    "logarithmic": _logarithmic,
    "step": lambda x: float(x >= 1),
    "sigmoid": _sigmoid,
}
"""Monotone maps of [0, 1] onto itself. Linear, quadratic, root, step, exponential and logarithmic are the pacing
functions of Wu et al. 2021, "When Do Curricula Work?"; sigmoid is the logistic function of 10 (x - 1/2), rescaled."""


def _check_shape(owner: str, shape: str) -> None:
    if shape not in SHAPES:
        raise ValueError(f"{owner}.shape = {shape!r} is unknown; choose one of {', '.join(SHAPES)}")


class Constant(Scheduler):
    """The same value throughout.

    Args:
        value: that value; 0 is random masking, 1 follows the difficulty alone.
    """

    def __init__(self, *, value: float = 0.0) -> None:
        self.value = float(value)

    def __call__(self, progress: float) -> float:
        return self.value


class Ramp(Scheduler):
    """From `start` to `end`, between the progress `begin` and `until`; constant before and after.

    The default is HPM's easy-to-hard schedule (Wang et al. 2023, arXiv 2304.05919, eq. 7): alpha from 0 to 0.5.
    `start > end` decreases; `begin > 0` delays; `until < 1` holds the end. As a pacing function of Wu et al. 2021,
    `start` is their b and `until` their a.

    Args:
        start: value up to `begin`.
        end: value from `until` on.
        shape: linear, cosine, quadratic, root, exponential, logarithmic, step or sigmoid.
        begin: progress at which the ramp starts, in [0, 1).
        until: progress at which it ends, in (begin, 1].
    """

    def __init__(
        self, *, start: float = 0.0, end: float = 0.5, shape: str = "linear", begin: float = 0.0, until: float = 1.0
    ) -> None:
        _check_shape("Ramp", shape)
        if not 0 <= begin < until <= 1:
            raise ValueError(f"Ramp.begin = {begin} and Ramp.until = {until} must satisfy 0 <= begin < until <= 1")
        self.start, self.end, self.shape = float(start), float(end), shape
        self.begin, self.until = float(begin), float(until)

    def __call__(self, progress: float) -> float:
        x = (progress - self.begin) / (self.until - self.begin)
        if x <= 0:
            return self.start
        if x >= 1:
            return self.end
        # The logarithmic shape exceeds 1 just before x = 1; every pacing function is clipped.
        return self.start + (self.end - self.start) * min(1.0, max(0.0, SHAPES[self.shape](x)))


class Piecewise(Scheduler):
    """Through given points, straight lines between them or each value held until the next.

    Args:
        points: (progress, value) pairs in ascending progress; constant before the first and after the last.
        interpolation: "linear" or "hold".
    """

    def __init__(
        self, *, points: Sequence[tuple[float, float]] = ((0.0, 0.0), (1.0, 0.5)), interpolation: str = "linear"
    ) -> None:
        if interpolation not in ("linear", "hold"):
            raise ValueError(f"Piecewise.interpolation = {interpolation!r} is unknown; choose linear or hold")
        if not points or any(len(point) != 2 for point in points):
            raise ValueError(f"Piecewise.points = {points!r} must be a list of (progress, value) pairs")
        places = [place for place, _ in points]
        if any(later <= earlier for earlier, later in pairwise(places)):
            raise ValueError(f"Piecewise.points must ascend in progress, got {places}")
        if places[0] < 0 or places[-1] > 1:
            raise ValueError(f"Piecewise.points must lie at a progress in [0, 1], got {places}")
        self.points = tuple((float(place), float(value)) for place, value in points)
        self.interpolation = interpolation

    def __call__(self, progress: float) -> float:
        before = self.points[0]
        for point in self.points:
            if point[0] > progress:
                if self.interpolation == "hold" or point is before:
                    return before[1]
                x = (progress - before[0]) / (point[0] - before[0])
                return before[1] + (point[1] - before[1]) * x
            before = point
        return before[1]


class Cyclic(Scheduler):
    """Rises from `low` to `high` and returns, `cycles` times.

    Args:
        low: value at the start of a cycle.
        high: value at its peak.
        cycles: how many cycles the whole run holds, at least 1.
        rise: fraction of a cycle spent rising, in (0, 1]; 0.5 is a triangle, 1 a sawtooth (warm restarts).
        shape: shape of the rise and, mirrored, of the fall; see `Ramp`.
    """

    def __init__(
        self, *, low: float = 0.0, high: float = 0.5, cycles: int = 4, rise: float = 0.5, shape: str = "linear"
    ) -> None:
        _check_shape("Cyclic", shape)
        if cycles < 1:
            raise ValueError(f"Cyclic.cycles = {cycles} must be at least 1")
        if not 0 < rise <= 1:
            raise ValueError(f"Cyclic.rise = {rise} must lie in (0, 1]")
        self.low, self.high, self.cycles = float(low), float(high), int(cycles)
        self.rise, self.shape = float(rise), shape

    def __call__(self, progress: float) -> float:
        # The last cycle ends at progress 1 instead of starting another.
        cycle = min(int(progress * self.cycles), self.cycles - 1)
        x = progress * self.cycles - cycle
        x = x / self.rise if x <= self.rise else (1 - x) / (1 - self.rise)
        return self.low + (self.high - self.low) * min(1.0, max(0.0, SHAPES[self.shape](min(1.0, x))))


class SelfPaced(Scheduler):
    """Driven by what the learner achieves instead of by time: the value rises as a metric improves.

    The metric is smoothed exponentially. Its first value is the reference; at `goal` times the reference the value
    reaches `end`. It never returns: a harder mask raises the loss, which must not be mistaken for forgetting.
    After Kumar et al. 2010, "Self-Paced Learning for Latent Variable Models", where the learner's own loss decides
    what it is shown next.

    Args:
        start: value at first.
        end: value once the goal is reached.
        metric: name of the metric in the feedback; "reconstruction_loss" falls as the learner improves.
        goal: the metric's share of its first value at which `end` is reached; above 1 for a metric that rises.
        smoothing: weight of the past in the exponential average, in [0, 1).
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        end: float = 0.5,
        metric: str = "reconstruction_loss",
        goal: float = 0.5,
        smoothing: float = 0.9,
    ) -> None:
        if goal < 0 or goal == 1:
            raise ValueError(f"SelfPaced.goal = {goal} must be at least 0 and not 1: the metric has to move")
        if not 0 <= smoothing < 1:
            raise ValueError(f"SelfPaced.smoothing = {smoothing} must lie in [0, 1)")
        self.start, self.end, self.metric = float(start), float(end), metric
        self.watches = (metric,)
        self.goal, self.smoothing = float(goal), float(smoothing)
        self._reference: float | None = None
        self._average = 0.0
        self._achieved = 0.0

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * self._achieved

    def observe(self, feedback: Feedback) -> None:
        if self.metric not in feedback:
            raise ValueError(f"SelfPaced.metric = {self.metric!r} is not measured; choose one of {sorted(feedback)}")
        value = feedback[self.metric]
        if not math.isfinite(value):
            return
        if self._reference is None:
            self._reference = self._average = value
        self._average = self.smoothing * self._average + (1 - self.smoothing) * value
        distance = self._reference * (1 - self.goal)
        if distance:
            achieved = (self._reference - self._average) / distance
            self._achieved = min(1.0, max(self._achieved, achieved))

    def state_dict(self) -> dict[str, Any]:
        return {"reference": self._reference, "average": self._average, "achieved": self._achieved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._reference, self._average, self._achieved = state["reference"], state["average"], state["achieved"]

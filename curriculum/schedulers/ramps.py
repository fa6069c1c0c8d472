"""Schedules in time: values that depend on training progress alone.

Progress is a number in [0, 1]; bounds such as alpha's [0, 1] are checked where the value is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from curriculum.schedulers.base import Scheduler
from curriculum.validation import require_at_least, require_choice, require_in, require_positive

_MOST_CYCLES = 1000  # of warm restarts


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

INTERPOLATIONS = ("linear", "hold")


class Constant(Scheduler):
    """Keeps the same value throughout training.

    Args:
        value: the value; as alpha, 0 is random masking and 1 follows the difficulty alone. Default 0.
    """

    def __init__(self, *, value: float = 0.0) -> None:
        self.value = float(value)

    def __call__(self, progress: float) -> float:
        return self.value


class Ramp(Scheduler):
    """Goes from `start` to `end` between the progress `begin` and `until`; constant before and after.

    The default is HPM's easy-to-hard schedule (Wang et al. 2023, arXiv 2304.05919, eq. 7): alpha from 0 to 0.5.
    `start > end` decreases; `begin > 0` delays; `until < 1` holds the end, and with `until > 1` training is over before
    the end is reached. As a pacing function of Wu et al. 2021 (arXiv 2012.03107), `start` is their b, `end` is
    1, and `until` is their a, published from 0.01 to 1.6.

    Args:
        start: value up to `begin`. Default 0.
        end: value from `until` on. Default 0.5.
        shape: linear, cosine, quadratic, root, exponential, logarithmic, step or sigmoid. Default linear.
        begin: progress at which the ramp starts, in [0, 1). Default 0.
        until: progress at which it ends, above `begin`. Default 1.
    """

    def __init__(
        self, *, start: float = 0.0, end: float = 0.5, shape: str = "linear", begin: float = 0.0, until: float = 1.0
    ) -> None:
        require_choice("Ramp", SHAPES, shape=shape)
        if not (0 <= begin < 1 and begin < until < math.inf):
            raise ValueError(
                f"Ramp.begin = {begin} and Ramp.until = {until} must satisfy 0 <= begin < 1 and begin < until"
            )
        self.start = float(start)
        self.end = float(end)
        self.shape = shape
        self.begin = float(begin)
        self.until = float(until)

    def __call__(self, progress: float) -> float:
        x = (progress - self.begin) / (self.until - self.begin)
        if x <= 0:
            return self.start
        if x >= 1:
            return self.end
        # The logarithmic shape exceeds 1 just before x = 1; every pacing function is clipped.
        return self.start + (self.end - self.start) * min(1.0, max(0.0, SHAPES[self.shape](x)))


class Piecewise(Scheduler):
    """Goes through given points.

    Args:
        points: (progress, value) pairs in ascending progress; the value is constant before the first and after the
            last. Default ((0, 0), (1, 0.5)).
        interpolation: "linear" draws straight lines between the points, "hold" keeps each value until the next point.
            Default "linear".
    """

    def __init__(
        self, *, points: Sequence[tuple[float, float]] = ((0.0, 0.0), (1.0, 0.5)), interpolation: str = "linear"
    ) -> None:
        require_choice("Piecewise", INTERPOLATIONS, interpolation=interpolation)
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
        low: value at the start of a cycle. Default 0.
        high: value at its peak. Default 0.5.
        cycles: how many cycles the whole run holds, at least 1. Default 4.
        rise: fraction of a cycle spent rising, in (0, 1]; 0.5 is a triangle, 1 a sawtooth (warm restarts). Default
            0.5.
        shape: shape of the rise and, mirrored, of the fall; see `Ramp`. Default linear.
    """

    def __init__(
        self, *, low: float = 0.0, high: float = 0.5, cycles: int = 4, rise: float = 0.5, shape: str = "linear"
    ) -> None:
        require_choice("Cyclic", SHAPES, shape=shape)
        require_at_least("Cyclic", 1, cycles=cycles)
        require_in("Cyclic", "(0, 1]", rise=rise)
        self.low = float(low)
        self.high = float(high)
        self.cycles = int(cycles)
        self.rise = float(rise)
        self.shape = shape

    def __call__(self, progress: float) -> float:
        # The last cycle ends at progress 1 instead of starting another.
        cycle = min(int(progress * self.cycles), self.cycles - 1)
        x = progress * self.cycles - cycle
        x = x / self.rise if x <= self.rise else (1 - x) / (1 - self.rise)
        return self.low + (self.high - self.low) * min(1.0, max(0.0, SHAPES[self.shape](min(1.0, x))))


class WarmRestarts(Scheduler):
    """Rises from `low` to `high` again and again, each time over a stretch `growth` times as long.

    These are the restarts of SGDR (Loshchilov and Hutter 2017, arXiv 1608.03983) with a rising value instead of a
    falling one: after a restart the masks are easy again.

    Args:
        low: value at the start of a cycle. Default 0.
        high: value at its end. Default 0.5.
        cycles: how many cycles the whole run holds, at least 1. Default 3.
        growth: length of a cycle relative to the one before, positive. Default 2.
        shape: shape of the rise; see `Ramp`. Default linear.
    """

    def __init__(
        self, *, low: float = 0.0, high: float = 0.5, cycles: int = 3, growth: float = 2.0, shape: str = "linear"
    ) -> None:
        require_choice("WarmRestarts", SHAPES, shape=shape)
        require_at_least("WarmRestarts", 1, cycles=cycles)
        require_positive("WarmRestarts", growth=growth)
        self.low = float(low)
        self.high = float(high)
        self.shape = shape
        self.starts = _starts(cycles, growth)

    def __call__(self, progress: float) -> float:
        cycle = max(number for number, start in enumerate(self.starts) if start <= max(progress, 0.0))
        end = self.starts[cycle + 1] if cycle + 1 < len(self.starts) else 1.0
        x = (progress - self.starts[cycle]) / (end - self.starts[cycle])
        return self.low + (self.high - self.low) * min(1.0, max(0.0, SHAPES[self.shape](min(1.0, max(0.0, x)))))


def _starts(cycles: int, growth: float) -> list[float]:
    """Return where each cycle begins, in [0, 1).

    Raises:
        ValueError: where there are too many, or they grow so fast that some have no length.
    """
    message = f"WarmRestarts.cycles = {cycles} of WarmRestarts.growth = {growth} cannot be told apart; take fewer"
    if cycles > _MOST_CYCLES:
        raise ValueError(message)
    try:
        lengths = [float(growth) ** number for number in range(cycles)]
    except OverflowError as error:
        raise ValueError(message) from error
    starts = [sum(lengths[:number]) / sum(lengths) for number in range(cycles)]
    if any(later <= earlier for earlier, later in pairwise([*starts, 1.0])):
        raise ValueError(message)
    return starts


class Competence(Scheduler):
    """Follows the learner's competence, a root of time: fast at first, then slower (Platanios et al. 2019, eq. 8).

    The value is `high * min(1, (x (1 - initial^p) + initial^p)^(1/p))`, where x is the progress relative
    to `until`.

    Args:
        high: value at full competence. Default 0.5.
        initial: competence at the start, c0, in (0, 1]. Default 0.01.
        power: p, at least 1; 1 is linear, 2 the published root. Default 2.
        until: progress at which competence is full, in (0, 1]. Default 1.
    """

    def __init__(self, *, high: float = 0.5, initial: float = 0.01, power: float = 2.0, until: float = 1.0) -> None:
        require_in("Competence", "(0, 1]", initial=initial, until=until)
        require_at_least("Competence", 1, power=power)
        self.high = float(high)
        self.initial = float(initial)
        self.power = float(power)
        self.until = float(until)

    def __call__(self, progress: float) -> float:
        x, start = max(0.0, progress) / self.until, self.initial**self.power
        return self.high * min(1.0, (x * (1 - start) + start) ** (1 / self.power))

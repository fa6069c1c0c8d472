"""Schedulers made of schedulers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from curriculum.schedulers.base import Feedback, Scheduler


class _Wrapper(Scheduler):
    """Passes feedback and state on to the schedulers within."""

    def __init__(self, owner: str, inner: Sequence[Scheduler]) -> None:
        for scheduler in inner:
            if not isinstance(scheduler, Scheduler):
                raise ValueError(f"{owner} must be made of schedulers, got {scheduler!r}")
        self.inner = tuple(inner)
        self.watches = tuple(dict.fromkeys(name for scheduler in inner for name in scheduler.watches))

    def observe(self, feedback: Feedback) -> None:
        for scheduler in self.inner:
            scheduler.observe(feedback)

    def state_dict(self) -> dict[str, Any]:
        states = [scheduler.state_dict() for scheduler in self.inner]
        return {"inner": states} if any(states) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        states = state.get("inner", [{}] * len(self.inner))
        for scheduler, own in zip(self.inner, states, strict=True):
            scheduler.load_state_dict(own)


class Reversed(_Wrapper):
    """Another scheduler run backwards in time: hard to easy where that one is easy to hard.

    Args:
        scheduler: which; what follows feedback alone stays as it is.
    """

    def __init__(self, *, scheduler: Scheduler) -> None:
        super().__init__("Reversed.scheduler", [scheduler])

    def __call__(self, progress: float) -> float:
        return self.inner[0](1.0 - progress)


class Scaled(_Wrapper):
    """`offset + factor` times another scheduler.

    Args:
        scheduler: which.
        factor: of its value.
        offset: added to it.
    """

    def __init__(self, *, scheduler: Scheduler, factor: float = 1.0, offset: float = 0.0) -> None:
        super().__init__("Scaled.scheduler", [scheduler])
        self.factor = float(factor)
        self.offset = float(offset)

    def __call__(self, progress: float) -> float:
        return self.offset + self.factor * self.inner[0](progress)


class Held(_Wrapper):
    """Another scheduler between two points of progress, its ends held before and after.

    Args:
        scheduler: which; it runs from its start to its end between the two points.
        begin: progress at which it starts, in [0, 1).
        until: progress at which it ends, in (begin, 1].
    """

    def __init__(self, *, scheduler: Scheduler, begin: float = 0.0, until: float = 1.0) -> None:
        super().__init__("Held.scheduler", [scheduler])
        if not 0 <= begin < until <= 1:
            raise ValueError(f"Held.begin = {begin} and Held.until = {until} must satisfy 0 <= begin < until <= 1")
        self.begin = float(begin)
        self.until = float(until)

    def __call__(self, progress: float) -> float:
        x = (progress - self.begin) / (self.until - self.begin)
        return self.inner[0](min(1.0, max(0.0, x)))


class Chained(_Wrapper):
    """Schedulers one after the other, each from its start to its end within its share of the run.

    Args:
        schedulers: in order, at least one.
        boundaries: progress at which each but the first begins, ascending in (0, 1); None for equal shares.
    """

    def __init__(self, *, schedulers: Sequence[Scheduler], boundaries: Sequence[float] | None = None) -> None:
        super().__init__("Chained.schedulers", schedulers)
        count = len(self.inner)
        if count < 1:
            raise ValueError("Chained.schedulers must hold at least one scheduler")
        places = [number / count for number in range(1, count)] if boundaries is None else list(boundaries)
        if len(places) != count - 1:
            raise ValueError(f"Chained.boundaries = {boundaries!r} must be {count - 1} for {count} schedulers")
        self.bounds = [0.0, *map(float, places), 1.0]
        if any(later <= earlier for earlier, later in pairwise(self.bounds)):
            raise ValueError(f"Chained.boundaries = {boundaries!r} must ascend within (0, 1)")

    def __call__(self, progress: float) -> float:
        current = max(number for number in range(len(self.inner)) if self.bounds[number] <= max(progress, 0.0))
        begin, end = self.bounds[current], self.bounds[current + 1]
        return self.inner[current](min(1.0, max(0.0, (progress - begin) / (end - begin))))


class Stepped(_Wrapper):
    """Another scheduler in steps: its value at the middle of each of so many equal stretches of the run.

    For what must not move all the time, as a mask ratio, each value of which is another shape to a compiled model.

    Args:
        scheduler: which.
        steps: how many values it takes.
    """

    def __init__(self, *, scheduler: Scheduler, steps: int = 5) -> None:
        super().__init__("Stepped.scheduler", [scheduler])
        if steps < 1:
            raise ValueError(f"Stepped.steps = {steps} must be at least 1")
        self.steps = steps

    def __call__(self, progress: float) -> float:
        # Progress is in (0, 1]: a stretch holds its own end.
        stretch = min(self.steps - 1, max(0, math.ceil(progress * self.steps - 1e-9) - 1))
        return self.inner[0]((stretch + 0.5) / self.steps)

"""Schedulers made of schedulers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from curriculum.schedulers.base import Feedback, Scheduler
from curriculum.validation import require_at_least, require_instance, require_span


class _Wrapper(Scheduler):
    """Base of the schedulers that hold other schedulers, to which it passes feedback and state.

    Args:
        inner: the schedulers within.
        setting: the setting that they are given by, for messages.
    """

    def __init__(self, inner: Sequence[Scheduler], *, setting: str = "scheduler") -> None:
        for scheduler in inner:
            require_instance(type(self).__name__, Scheduler, **{setting: scheduler})
        self.inner = tuple(inner)
        self.watches = tuple(dict.fromkeys(name for scheduler in inner for name in scheduler.watches))

    def reaches(self) -> list[tuple[str, float]]:
        return [found for scheduler in self.inner for found in scheduler.reaches()]

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
    """Runs another scheduler backwards in time: hard to easy where that one is easy to hard.

    Args:
        scheduler: the scheduler to reverse; one that follows feedback alone stays as it is.
    """

    def __init__(self, *, scheduler: Scheduler) -> None:
        super().__init__([scheduler])

    def __call__(self, progress: float) -> float:
        return self.inner[0](1.0 - progress)


class Scaled(_Wrapper):
    """Scales another scheduler linearly: its value times `factor`, plus `offset`.

    Args:
        scheduler: the scheduler to scale.
        factor: what its value is multiplied by. Default 1.
        offset: what is added to the product. Default 0.
    """

    def __init__(self, *, scheduler: Scheduler, factor: float = 1.0, offset: float = 0.0) -> None:
        super().__init__([scheduler])
        self.factor = float(factor)
        self.offset = float(offset)

    def __call__(self, progress: float) -> float:
        return self.offset + self.factor * self.inner[0](progress)

    def reaches(self) -> list[tuple[str, float]]:
        return [(setting, self.offset + self.factor * value) for setting, value in super().reaches()]


class Held(_Wrapper):
    """Runs another scheduler between two points of progress and holds its ends before and after.

    Args:
        scheduler: the scheduler that runs from its start to its end between the two points.
        begin: progress at which it starts, in [0, 1). Default 0.
        until: progress at which it ends, in (begin, 1]. Default 1.
    """

    def __init__(self, *, scheduler: Scheduler, begin: float = 0.0, until: float = 1.0) -> None:
        super().__init__([scheduler])
        require_span("Held", begin=begin, until=until)
        self.begin = float(begin)
        self.until = float(until)

    def __call__(self, progress: float) -> float:
        x = (progress - self.begin) / (self.until - self.begin)
        return self.inner[0](min(1.0, max(0.0, x)))


class Chained(_Wrapper):
    """Runs schedulers one after the other, each from its start to its end within its share of the run.

    Args:
        schedulers: the schedulers in order, at least one.
        boundaries: progress at which each but the first begins, ascending in (0, 1); None for equal shares. Default
            None.
    """

    def __init__(self, *, schedulers: Sequence[Scheduler], boundaries: Sequence[float] | None = None) -> None:
        super().__init__(schedulers, setting="schedulers")
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
    """Moves another scheduler in steps: the run is cut into equal stretches, each with the value of its middle.

    It serves scalars that must not move all the time, such as a mask ratio, each value of which is another shape to a
    compiled model.

    Args:
        scheduler: the scheduler to move in steps.
        steps: how many values it takes, at least 1. Default 5.
    """

    def __init__(self, *, scheduler: Scheduler, steps: int = 5) -> None:
        super().__init__([scheduler])
        require_at_least("Stepped", 1, steps=steps)
        self.steps = steps

    def __call__(self, progress: float) -> float:
        # Progress is in (0, 1]: a stretch holds its own end.
        stretch = min(self.steps - 1, max(0, math.ceil(progress * self.steps - 1e-9) - 1))
        return self.inner[0]((stretch + 0.5) / self.steps)

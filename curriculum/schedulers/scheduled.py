"""Scheduled: parts of a curriculum whose scalars may be scheduled."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Self

from curriculum.schedulers.base import Scheduler

Scalar = float | Scheduler


class Scheduled:
    """Base of the parts of a curriculum.

    A number that such a part was given may be a scheduler instead, and so may those of the parts within it.
    """

    def at(self, progress: float) -> Self:
        """Return this part as it is at `progress`: a copy with numbers for schedulers, or itself where it has none."""
        moved = {name: _at(value, progress) for name, value in vars(self).items()}
        if all(value is vars(self)[name] for name, value in moved.items()):
            return self
        part = copy.copy(self)
        vars(part).update(moved)
        return part

    def schedulers(self) -> dict[str, Scheduler]:
        """Return the schedulers of this part and of those within, by name: `{"temperature": ...}`."""
        return dict(_found(vars(self)))


def restore_states(schedulers: Mapping[str, Scheduler], states: Mapping[str, Any]) -> None:
    """Give schedulers what they had observed, by name; one whose state is another kind's keeps its own.

    Raises:
        ValueError: naming those, after all others are restored.
    """
    misfits = []
    for name, scheduler in schedulers.items():
        before = scheduler.state_dict()
        try:
            scheduler.load_state_dict(states.get(name, {}))
        except (LookupError, TypeError, ValueError) as error:
            scheduler.load_state_dict(before)
            misfits.append(f"{name} = {type(scheduler).__name__} ({type(error).__name__}: {error})")
    if misfits:
        raise ValueError(f"what was observed does not fit {', '.join(misfits)}")


def values_of(scalar: Scalar) -> list[float]:
    """Return a number in a list, or a scheduler's values at every percent of progress, before it observes anything."""
    return [scalar(percent / 100) for percent in range(101)] if isinstance(scalar, Scheduler) else [scalar]


def _at(value: Any, progress: float) -> Any:
    if isinstance(value, Scheduler):
        return value(progress)
    if isinstance(value, Scheduled):
        return value.at(progress)
    if isinstance(value, tuple) and any(isinstance(item, Scheduled) for item in value):
        moved = tuple(_at(item, progress) for item in value)
        return value if all(new is old for new, old in zip(moved, value, strict=True)) else moved
    return value


def _found(values: dict[str, Any]) -> Iterator[tuple[str, Scheduler]]:
    for name, value in values.items():
        if isinstance(value, Scheduler):
            yield name, value
        elif isinstance(value, Scheduled):
            yield from ((f"{name}.{inner}", scheduler) for inner, scheduler in value.schedulers().items())
        elif isinstance(value, tuple):
            yield from _found({f"{name}.{place}": item for place, item in enumerate(value)})

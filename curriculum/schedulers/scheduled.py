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

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedulers that a checkpoint has to hold, as numbers, strings and lists."""
        return {name: scheduler.state_dict() for name, scheduler in self.schedulers().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: naming the schedulers of which it is not the state; all others are restored.
        """
        restore_states(self.schedulers(), state)


def require_time_alone(setting: str, scalar: Scalar | None) -> None:
    """Refuse a scheduler that watches metrics, where nobody tells it any.

    Args:
        setting: as a config writes it, "PatchContrast.beta".
        scalar: its value; numbers and None pass.

    Raises:
        ValueError: naming the setting and the scheduler.
    """
    if isinstance(scalar, Scheduler) and scalar.watches:
        raise ValueError(
            f"{setting} = {type(scalar).__name__} follows what is learned; it can follow time alone, e.g. @Ramp()"
        )


def restore_states(schedulers: Mapping[str, Scheduler], states: Mapping[str, Any]) -> None:
    """Give schedulers what they had observed, by name; one whose state is another kind's keeps its own.

    Raises:
        ValueError: naming those, after all others are restored.
    """
    misfits = []
    for name, scheduler in schedulers.items():
        before = scheduler.state_dict()
        try:
            _require_like(before, states.get(name, {}))
            scheduler.load_state_dict(states.get(name, {}))
        except (LookupError, TypeError, ValueError) as error:
            scheduler.load_state_dict(before)
            misfits.append(f"{name} = {type(scheduler).__name__} ({type(error).__name__}: {error})")
    if misfits:
        raise ValueError(f"what was observed does not fit {', '.join(misfits)}")


def _require_like(own: Any, given: Any) -> None:
    """Refuse a state whose numbers, texts and lists stand in other places than in a scheduler's own.

    Raises:
        TypeError: naming the first.
    """
    if isinstance(own, Mapping) and isinstance(given, Mapping):
        for name in own.keys() & given.keys():
            _require_like(own[name], given[name])
    elif isinstance(own, list) and isinstance(given, list):
        for place, value in enumerate(given):
            _require_like(own[min(place, len(own) - 1)] if own else None, value)
    elif not _is_like(own, given):
        raise TypeError(f"{given!r} stands in the place of {own!r}")


def _is_like(own: Any, given: Any) -> bool:
    if isinstance(own, bool) or isinstance(given, bool):
        return isinstance(own, bool) and isinstance(given, bool)
    if own is None or isinstance(own, int | float):  # before anything is observed there may be no number
        return given is None or isinstance(given, int | float) or (own is None and isinstance(given, list))
    return isinstance(given, type(own))


def values_of(scalar: Scalar) -> list[float]:
    """Return a number in a list, or a scheduler's values at every percent of progress, and where feedback leads it."""
    if not isinstance(scalar, Scheduler):
        return [scalar]
    return [*(scalar(percent / 100) for percent in range(101)), *(value for _, value in scalar.reaches())]


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

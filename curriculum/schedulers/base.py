"""The interface of a scheduler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

Feedback = Mapping[str, float]
"""Reduced training metrics of the last interval, e.g. `{"reconstruction_loss": 0.41}`."""


class Scheduler(ABC):
    """Maps training progress to a scalar.

    Attributes:
        watches: the metrics that `observe` needs, so that one that a run does not measure is found before training.
    """

    watches: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the value at `progress` in [0, 1], without a side effect: the same state gives the same value."""

    def reaches(self) -> list[tuple[str, float]]:
        """Return the values farthest apart that feedback may lead to, each after the setting that says so.

        By default there are none: progress alone tells the value.
        """
        return []

    def observe(self, feedback: Feedback) -> None:  # noqa: B027 - optional
        """Learn from an interval's metrics; called at fixed global steps. Most schedulers ignore them."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `observe` has accumulated, as numbers, strings and lists only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")

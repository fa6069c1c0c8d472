"""The conformance tests of schedulers."""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from curriculum.schedulers import Feedback, Scheduler

_PROGRESS = tuple(step / 200 for step in range(201))


def typical_feedback(intervals: int = 40) -> list[Feedback]:
    """Return metrics under the names that a trainer gives: falling losses with jitter and one bad interval.

    They are read-only: a scheduler that writes into its feedback raises.
    """
    stream: list[Feedback] = []
    for interval in range(intervals):
        reconstruction = 0.4 + 0.6 * math.exp(-interval / 10) + 0.02 * math.sin(7 * interval)
        if interval == intervals // 2:
            reconstruction *= 2
        prediction = 0.3 + 0.4 * math.exp(-interval / 5)
        metrics = {
            "loss": reconstruction + prediction,
            "reconstruction_loss": reconstruction,
            "prediction_loss": prediction,
            "prediction_accuracy": 1 - 0.5 * math.exp(-interval / 15),
            "probe_loss": 0.5 + 0.5 * math.exp(-interval / 12) + 0.01 * math.sin(5 * interval),
        }
        stream.append(MappingProxyType(metrics))
    return stream


def _values(scheduler: Scheduler) -> list[float]:
    return [scheduler(progress) for progress in _PROGRESS]


def _through_checkpoint(state: Mapping[str, Any]) -> dict[str, Any]:
    """Save and load a state as a checkpoint does: `weights_only` refuses everything but plain data and tensors."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _check_plain(value: Any, where: str) -> None:
    """Assert that a value holds only numbers, strings, lists and dictionaries of these."""
    if type(value) is dict:
        for key, item in value.items():
            assert type(key) is str, f"{where} has the key {key!r}: keys must be strings"
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) is list:
        for place, item in enumerate(value):
            _check_plain(item, f"{where}[{place}]")
    else:
        plain = value is None or type(value) in (bool, int, float, str)
        assert plain, f"{where} is a {type(value).__name__}: keep numbers, strings and lists only"


class SchedulerConformance(ABC):
    """The tests that every scheduler must pass: subclass it as `Test...` and define how to `build` the scheduler.

    Attributes:
        low: the lower bound of the values; None where they have none.
        high: the upper bound of the values; None where they have none.
        feedback: the metrics that it observes; override them where it needs metrics of its own.
    """

    low: ClassVar[float | None] = None
    high: ClassVar[float | None] = None
    feedback: ClassVar[list[Feedback]] = typical_feedback()

    @abstractmethod
    def build(self) -> Scheduler:
        """Build a new scheduler, configured the same each time."""

    def test_values_are_finite_numbers_within_the_bounds(self) -> None:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        scheduler = self.build()
        for interval in range(len(self.feedback) + 1):
            for progress, value in zip(_PROGRESS, _values(scheduler), strict=True):
                where = f"the value at progress {progress} after {interval} observations, {value!r},"
                assert isinstance(value, int | float), f"{where} is a {type(value).__name__} instead of a float"
                assert math.isfinite(value), f"{where} is not finite"
                assert low <= value <= high, f"{where} is not in the declared [{low}, {high}]"
            if interval < len(self.feedback):
                scheduler.observe(self.feedback[interval])

    def test_calling_is_pure(self) -> None:
        """The same state gives the same value, in any order and however often it is asked."""
        scheduler = self.build()
        for observed in [None, *self.feedback[:3]]:
            if observed is not None:
                scheduler.observe(observed)
            before = _through_checkpoint(scheduler.state_dict())
            values = _values(scheduler)
            backwards = [scheduler(progress) for progress in reversed(_PROGRESS)]
            assert backwards[::-1] == values, "the values depend on the order in which they are asked for"
            assert scheduler.state_dict() == before, "calling changes the state"

    def test_observations_alone_decide_the_state(self) -> None:
        """Nothing but `observe` changes the state: neither calls nor what other instances observe."""
        asked, silent = self.build(), self.build()
        for feedback in self.feedback:
            asked.observe(feedback)
            _values(asked)
        values, state = _values(asked), _through_checkpoint(asked.state_dict())
        for feedback in self.feedback:
            silent.observe(feedback)
        for name, scheduler in (("one that is never called", silent), ("the first", asked)):
            same = _values(scheduler) == values and scheduler.state_dict() == state
            assert same, f"of two instances that observe the same, {name} ends elsewhere"

    def test_state_is_plain_data(self) -> None:
        scheduler = self.build()
        _check_plain(scheduler.state_dict(), "state_dict() of a new scheduler")
        for feedback in self.feedback:
            scheduler.observe(feedback)
        _check_plain(scheduler.state_dict(), "state_dict()")

    def test_state_is_a_snapshot(self) -> None:
        """Observations after `state_dict` do not change what it returned."""
        scheduler = self.build()
        half = len(self.feedback) // 2
        for feedback in self.feedback[:half]:
            scheduler.observe(feedback)
        values, state = _values(scheduler), scheduler.state_dict()
        for feedback in self.feedback[half:]:
            scheduler.observe(feedback)
        restored = self.build()
        restored.load_state_dict(state)
        assert _values(restored) == values, "observing more changes a state that was returned before"

    def test_resuming_changes_nothing(self) -> None:
        """A run that is saved and resumed at any time continues exactly as one that never stopped."""
        for stop in sorted(
            {0, 1, 2, 7, len(self.feedback) // 2, len(self.feedback)} & {*range(len(self.feedback) + 1)}
        ):
            original, resumed = self.build(), self.build()
            for feedback in self.feedback[:stop]:
                original.observe(feedback)
            resumed.load_state_dict(_through_checkpoint(original.state_dict()))
            assert _values(resumed) == _values(original), f"restored after {stop} observations, the values differ"
            for feedback in self.feedback[stop:]:
                original.observe(feedback)
                resumed.observe(feedback)
                same = _values(resumed) == _values(original)
                assert same, f"restored after {stop} observations, it learns differently from then on"
            assert resumed.state_dict() == original.state_dict(), f"restored after {stop} observations, states differ"

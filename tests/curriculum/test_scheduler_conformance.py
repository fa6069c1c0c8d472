"""The conformance suite notices broken schedulers, and says so by the right test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from broken_parts import failures

from curriculum import MetricPaced, Scheduler
from curriculum.testing import (
    SchedulerConformance,
)


class Half(Scheduler):
    """A healthy scheduler, for others to break."""

    def __call__(self, progress: float) -> float:
        return progress / 2


class NotANumber(Half):
    def __call__(self, progress: float) -> float:
        return float("nan")


class ReturnsTensor(Half):
    def __call__(self, progress: float) -> Any:
        return torch.tensor(progress)


class CountsItsCalls(Half):
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, progress: float) -> float:
        self.calls += 1
        return self.calls / 1e6


class ForgetsItsState(MetricPaced):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class ForgetsItsAverage(MetricPaced):
    """What is restored looks right until the next observation."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict({**state, "average": state["reference"] or 0.0})


class KeepsTensors(MetricPaced):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"extra": torch.zeros(1)}


class History(Half):
    """Keeps what it saw; `state_dict` gives away the list itself."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def __call__(self, progress: float) -> float:
        return sum(self.losses) / 1000

    def observe(self, feedback: Mapping[str, float]) -> None:
        self.losses.append(feedback["loss"])

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses = state["losses"]


class SharesItsHistory(History):
    shared: list[float] = []  # noqa: RUF012 - the bug

    def __init__(self) -> None:
        self.losses = self.shared


class WritesFeedback(Half):
    def observe(self, feedback: Mapping[str, float]) -> None:
        feedback["seen"] = 1.0  # type: ignore[index]


VALUES = "test_values_are_finite_numbers_within_the_bounds"


PURE = "test_calling_is_pure"


OBSERVATIONS = "test_observations_alone_decide_the_state"


PLAIN = "test_state_is_plain_data"


SNAPSHOT = "test_state_is_a_snapshot"


RESUME = "test_resuming_changes_nothing"


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (Half, set()),
        (MetricPaced, set()),
        (NotANumber, {VALUES}),
        (ReturnsTensor, {VALUES}),
        (CountsItsCalls, {PURE}),
        (ForgetsItsState, {RESUME, SNAPSHOT}),
        (ForgetsItsAverage, {RESUME}),
        (KeepsTensors, {PLAIN}),
        (History, {SNAPSHOT}),
        (SharesItsHistory, {OBSERVATIONS}),
        (WritesFeedback, {VALUES, PURE, OBSERVATIONS, PLAIN, SNAPSHOT, RESUME}),
    ],
)
def test_broken_schedulers_are_caught(plugin: type[Scheduler], expected: set[str]) -> None:
    failed = failures(SchedulerConformance, plugin)
    assert expected <= failed
    assert bool(expected) == bool(failed)


def test_declared_bounds_are_checked() -> None:
    class Bounded(SchedulerConformance):
        low, high = 0.0, 0.4

        def build(self) -> Scheduler:
            return Half()

    with pytest.raises(AssertionError, match=r"at progress 0\.805 .* is not in the declared \[0\.0, 0\.4\]"):
        Bounded().test_values_are_finite_numbers_within_the_bounds()

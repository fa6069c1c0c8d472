"""Schedulers that follow what the learner achieves instead of time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from curriculum.schedulers.base import Feedback, Scheduler
from curriculum.validation import require_at_least, require_in, require_positive


class MetricPaced(Scheduler):
    """Goes from `start` to `end` as a metric improves, whatever the time.

    The metric is smoothed exponentially. Its first value is the reference; at `goal` times the reference the value
    reaches `end`. The value never goes back: a harder mask raises the loss, which must not be mistaken for forgetting.

    The rule is our own. In self-paced learning (Kumar et al. 2010, "Self-Paced Learning for Latent Variable Models")
    the learner's loss also decides what it is shown next, but for each sample: one takes part while its own loss is
    below 1 / K, and K is annealed in time until all do. Here one number follows the mean over all samples.

    Args:
        start: value at first. Default 0.
        end: value once the goal is reached. Default 0.5.
        metric: name of the metric in the feedback. Default "reconstruction_loss", which falls as the learner improves.
        goal: the metric's share of its first value at which `end` is reached, at least 0; above 1 for a metric that
            rises. Default 0.5.
        smoothing: weight of the past in the exponential average, in [0, 1). Default 0.9.
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
            raise ValueError(f"MetricPaced.goal = {goal} must be at least 0 and not 1: the metric has to move")
        require_in("MetricPaced", "[0, 1)", smoothing=smoothing)
        self.start = float(start)
        self.end = float(end)
        self.metric = metric
        self.watches = (metric,)
        self.goal = float(goal)
        self.smoothing = float(smoothing)
        self._reference: float | None = None
        self._average = 0.0
        self._achieved = 0.0

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * self._achieved

    def reaches(self) -> list[tuple[str, float]]:
        return [("MetricPaced.start", self.start), ("MetricPaced.end", self.end)]

    def observe(self, feedback: Feedback) -> None:
        if self.metric not in feedback:
            raise ValueError(f"MetricPaced.metric = {self.metric!r} is not measured; choose one of {sorted(feedback)}")
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
        self._reference = state["reference"]
        self._average = state["average"]
        self._achieved = state["achieved"]


class Plateau(Scheduler):
    """Moves from `start` towards `end` by a step whenever a metric has stopped improving.

    Args:
        start: value at first. Default 0.
        end: value beyond which it never goes. Default 0.5.
        step: how far the value moves at a time, positive. Default 0.1.
        metric: name of the metric in the feedback. Default "reconstruction_loss".
        rises: whether the metric improves by rising, as an accuracy does. Default False.
        patience: intervals without improvement after which the value moves, at least 1. Default 5.
        threshold: the smallest change of the metric that is an improvement, relative to the best so far. Default 0.01.
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        end: float = 0.5,
        step: float = 0.1,
        metric: str = "reconstruction_loss",
        rises: bool = False,
        patience: int = 5,
        threshold: float = 0.01,
    ) -> None:
        require_positive("Plateau", step=step)
        require_at_least("Plateau", 1, patience=patience)
        require_at_least("Plateau", 0, threshold=threshold)
        self.start = float(start)
        self.end = float(end)
        self.step = float(step)
        self.metric = metric
        self.rises = rises
        self.patience = patience
        self.threshold = float(threshold)
        self.watches = (metric,)
        self._best: float | None = None
        self._since = 0
        self._steps = 0

    def __call__(self, progress: float) -> float:
        distance = self.end - self.start
        return self.start + math.copysign(min(abs(distance), self._steps * self.step), distance)

    def reaches(self) -> list[tuple[str, float]]:
        return [("Plateau.start", self.start), ("Plateau.end", self.end)]

    def observe(self, feedback: Feedback) -> None:
        if self.metric not in feedback:
            raise ValueError(f"Plateau.metric = {self.metric!r} is not measured; choose one of {sorted(feedback)}")
        value = feedback[self.metric] if self.rises else -feedback[self.metric]
        if not math.isfinite(value):
            return
        if self._best is None or value > self._best + self.threshold * abs(self._best):
            self._best = value
            self._since = 0
            return
        self._since += 1
        if self._since >= self.patience:
            # A harder mask raises the loss: what counts is progress from here on.
            self._best = value
            self._since = 0
            self._steps = self._steps + 1

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "since": self._since, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best = state["best"]
        self._since = state["since"]
        self._steps = state["steps"]

"""The scheduler that follows a metric."""

from __future__ import annotations

import math

import pytest

from curriculum.schedulers import MetricPaced, Scheduler
from curriculum.testing import SchedulerConformance, typical_feedback


class TestMetricPaced(SchedulerConformance):
    low, high = 0.0, 0.5

    def build(self) -> Scheduler:
        return MetricPaced()


class TestMetricPacedOnARisingMetric(SchedulerConformance):
    low, high = 0.2, 0.9

    def build(self) -> Scheduler:
        return MetricPaced(start=0.9, end=0.2, metric="prediction_accuracy", goal=1.5, smoothing=0.0)


def achieve(scheduler: MetricPaced, *losses: float) -> float:
    for loss in losses:
        scheduler.observe({"reconstruction_loss": loss})
    return scheduler(0.0)


def test_metric_paced_follows_the_metric() -> None:
    scheduler = MetricPaced(start=0.1, end=0.5, goal=0.5, smoothing=0.0)
    assert scheduler(0.0) == scheduler(1.0) == 0.1
    assert achieve(scheduler, 2.0) == 0.1
    assert achieve(scheduler, 1.5) == pytest.approx(0.3)
    assert achieve(scheduler, 1.0) == pytest.approx(0.5)
    assert achieve(scheduler, 0.1) == pytest.approx(0.5)
    assert scheduler(0.0) == scheduler(1.0)


def test_metric_paced_never_returns() -> None:
    scheduler = MetricPaced(goal=0.5, smoothing=0.0)
    reached = achieve(scheduler, 2.0, 1.5)
    assert achieve(scheduler, 2.5, 1.6) == reached
    assert achieve(scheduler, 1.25) > reached


def test_metric_paced_smooths() -> None:
    scheduler = MetricPaced(end=1.0, goal=0.5, smoothing=0.9)
    # The average is 2, 1.9 and 1.81; the goal is 1.
    assert achieve(scheduler, 2.0, 1.0) == pytest.approx(0.1)
    assert achieve(scheduler, 1.0) == pytest.approx(0.19)


def test_metric_paced_on_a_metric_that_rises() -> None:
    scheduler = MetricPaced(end=1.0, metric="prediction_accuracy", goal=1.5, smoothing=0.0)
    for accuracy, expected in ((0.6, 0.0), (0.5, 0.0), (0.75, 0.5), (0.9, 1.0)):
        scheduler.observe({"prediction_accuracy": accuracy})
        assert scheduler(0.5) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_metric_paced_passes_over_what_is_not_finite(bad: float) -> None:
    scheduler = MetricPaced(end=1.0, goal=0.5, smoothing=0.0)
    assert achieve(scheduler, bad, 2.0, bad, 1.5, bad) == pytest.approx(0.5)


def test_metric_paced_names_the_metrics_there_are() -> None:
    message = r"MetricPaced.metric = 'accuracy' is not measured; choose one of \['loss', 'prediction_accuracy', .*\]"
    with pytest.raises(ValueError, match=message):
        MetricPaced(metric="accuracy").observe(typical_feedback()[0])


def test_metric_paced_state_is_restored() -> None:
    scheduler = MetricPaced()
    achieve(scheduler, 2.0, 1.5, 1.0)
    restored = MetricPaced()
    restored.load_state_dict(scheduler.state_dict())
    assert 0 < restored(0.0) == scheduler(0.0)
    assert achieve(restored, 1.0) == achieve(scheduler, 1.0)

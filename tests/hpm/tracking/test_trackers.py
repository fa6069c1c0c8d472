"""What every tracker has, and a run without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpm.tracking import NoTracker, Tracker
from hpm.tracking.mlflow import MLflowTracker
from hpm.training.settings import Monitoring


@pytest.mark.parametrize("tracker", [NoTracker(), MLflowTracker(enabled=False), MLflowTracker()])
def test_trackers_keep_the_protocol(tracker: Tracker) -> None:
    assert isinstance(tracker, Tracker)
    assert Monitoring(tracker=tracker).tracker is tracker


@pytest.mark.parametrize("tracker", [NoTracker(), MLflowTracker(enabled=False)])
def test_one_that_is_off_does_nothing(tracker: Tracker, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    tracker.start(tmp_path, name="run", parameters={}, tags={})
    tracker.send([{"step": 1, "time": 1.0, "kind": "train", "loss": 1.0}], [tmp_path / "config.gin"])
    tracker.finish("FINISHED")
    assert not tracker.enabled
    assert tracker.problem is None
    assert tracker.has_all_of(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not recwarn.list


def test_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Monitoring.tracker must be a Tracker, got 'mlflow'"):
        Monitoring(tracker="mlflow")  # type: ignore[arg-type]

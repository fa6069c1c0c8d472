"""Runs without training, sent to real stores, and what the stores have of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

from hpm.runs.metrics_file import Row
from hpm.tracking.mlflow import MLflowTracker


class Eager(MLflowTracker):
    """Tries again at every send."""

    SECONDS_BETWEEN_TRIES = 0.0


def rows_of(count: int) -> list[Row]:
    return [{"step": n, "time": 1e9 + n, "kind": "train", "loss": 1 / n, "alpha": 0.5} for n in range(1, count + 1)]


def start(tracker: MLflowTracker, folder: Path, **parameters: str) -> MLflowTracker:
    tracker.start(folder, name="run", parameters={"Ramp.end": "0.5", **parameters}, tags={"seed": "0"})
    return tracker


def track(uri: str, folder: Path, rows: list[Row]) -> MLflowTracker:
    """A whole run."""
    tracker = start(Eager(uri=uri), folder)
    tracker.send(rows)
    tracker.finish("FINISHED")
    return tracker


def runs(uri: str) -> list[str]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("curriculum-masking").experiment_id
    return [run.info.run_id for run in client.search_runs([experiment])]


def steps(uri: str, run_id: str, metric: str = "Training/loss") -> list[int]:
    return [point.step for point in MlflowClient(tracking_uri=uri).get_metric_history(run_id, metric)]


def until(condition: Callable[[], object]) -> None:
    """Wait for another thread or process, but not for ever."""
    last = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < last, "waited for minutes"
        threading.Event().wait(0.02)


def sent(folder: Path) -> int:
    return json.loads((folder / "mlflow.json").read_text())["sent"]

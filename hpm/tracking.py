"""Tracking with MLflow. The run's own files are the truth; MLflow is a copy that may be late.

Rows are sent when a checkpoint has been written, so that MLflow never sees a step that a resumed run will take
again. Every row carries its time, and MLflow's store keeps one of two metrics that are equal in name, step, time
and value: sending a row twice changes nothing, so whatever was not sent, for whatever reason, is sent next time.
"""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpm.runfolder import Row

_METRICS_A_CALL, _PARAMETERS_A_CALL, _VALUE_LENGTH = 1000, 100, 500
_NOT_METRICS = {"step", "time", "kind"}


class MLflowTracker:
    """Copies a run to MLflow: parameters, metrics, pictures and files. Failing never ends a run.

    Args:
        uri: tracking server or database; None for the environment variable MLFLOW_TRACKING_URI, else the file
            `mlflow.db` in the current folder, which plain `mlflow ui` opens.
        experiment: name of the experiment that runs are put under.
        enabled: False to do without.
    """

    def __init__(self, *, uri: str | None = None, experiment: str = "curriculum-masking", enabled: bool = True) -> None:
        self.uri, self.experiment, self.enabled = uri, experiment, enabled
        self.problem: str | None = None
        self._client: Any = None
        self._run_id: str | None = None
        self._sent = 0
        self._files: list[Path] = []
        self._state = Path()

    @property
    def where(self) -> str:
        """The address that runs are sent to."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"

    def start(self, folder: Path, *, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Open the run, or go on with the one that `folder` belongs to."""
        self._state = folder / "mlflow.json"
        if not self.enabled:
            return
        with self._survive("MLflow cannot be used"):
            # A server that is not there is noticed in seconds, not in the minutes of MLflow's own retries.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
            logging.getLogger("alembic").setLevel(logging.WARNING)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.where)
            known = json.loads(self._state.read_text()) if self._state.is_file() else {}
            if known.get("uri") == self.where:
                self._run_id, self._sent = known["run_id"], known["sent"]
                self._client.update_run(self._run_id, status="RUNNING")
            else:
                self._create(name, parameters, tags)

    def _create(self, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        experiment = self._client.get_experiment_by_name(self.experiment)
        identifier = experiment.experiment_id if experiment else self._client.create_experiment(self.experiment)
        run = self._client.create_run(identifier, run_name=name, tags=dict(tags))
        self._run_id, self._sent = run.info.run_id, 0
        self._remember()
        items = [Param(key, value[:_VALUE_LENGTH]) for key, value in parameters.items()]
        for first in range(0, len(items), _PARAMETERS_A_CALL):
            self._client.log_batch(self._run_id, params=items[first : first + _PARAMETERS_A_CALL])

    def send(self, rows: Sequence[Row], files: Sequence[Path] = ()) -> None:
        """Send the rows that were not sent yet, and files; what cannot be sent now waits for the next call."""
        if self._client is None or self._run_id is None:
            return
        self._files += files
        with self._survive("MLflow is not reachable; metrics are kept in the run folder and sent later"):
            for metrics in _batches(rows[self._sent :]):
                self._client.log_batch(self._run_id, metrics=metrics)
            # A run that lost its newest checkpoint takes some steps again, to the same figures: those stay sent.
            self._sent = max(self._sent, len(rows))
            self._remember()
            while self._files:
                folder = "pictures" if self._files[0].suffix == ".png" else None
                self._client.log_artifact(self._run_id, str(self._files[0]), folder)
                self._files.pop(0)
            self.problem = None

    def finish(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        if self._client is not None and self._run_id is not None:
            with self._survive("MLflow could not be told that the run has ended"):
                self._client.set_terminated(self._run_id, status)

    def _remember(self) -> None:
        partial = self._state.with_suffix(".partial")
        partial.write_text(json.dumps({"uri": self.where, "run_id": self._run_id, "sent": self._sent}))
        partial.replace(self._state)

    def _survive(self, message: str) -> _Survive:
        return _Survive(self, message)


class _Survive:
    """Tracking is a convenience: whatever goes wrong in it is told once, and the run goes on."""

    def __init__(self, tracker: MLflowTracker, message: str) -> None:
        self.tracker, self.message = tracker, message

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if isinstance(error, ImportError):
            reason = "MLflow is not installed; `pip install mlflow` adds it"
        if self.tracker.problem is None:
            warnings.warn(f"{self.message}: {reason}", stacklevel=3)
        self.tracker.problem = f"{self.message}: {reason}"
        return True


def _batches(rows: Sequence[Row]) -> Iterator[list[Any]]:
    from mlflow.entities import Metric

    batch: list[Any] = []
    for row in rows:
        metrics = [
            Metric(key, float(value), int(row["time"] * 1000), int(row["step"]))
            for key, value in row.items()
            if key not in _NOT_METRICS and isinstance(value, int | float) and math.isfinite(value)
        ]
        if len(batch) + len(metrics) > _METRICS_A_CALL:
            yield batch
            batch = []
        batch += metrics
    if batch:
        yield batch

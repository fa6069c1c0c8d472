"""Tracking with MLflow. The run's own files are the truth; MLflow is a copy that may be late.

A thread of its own talks to the server, so training never waits for it. Rows are sent when a checkpoint has been
written, so that MLflow never sees a step that a resumed run will take again. Every row carries its time, and MLflow's
store keeps one of two metrics that are equal in name, step, time and value: sending a row twice changes nothing, so
whatever was not sent, for whatever reason, is sent next time.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from hpm.errors import Notice
from hpm.runfolder import Row

_METRICS_A_CALL, _PARAMETERS_A_CALL, _VALUE_LENGTH = 1000, 100, 500
_NOT_METRICS = {"step", "time", "kind"}
_SECONDS_BETWEEN_TRIES = 30.0
_PATIENCE = 60.0  # seconds, at the end of a run


class _Opening(NamedTuple):
    """What a run is started with."""

    folder: Path
    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]


class MLflowTracker:
    """Copies a run to MLflow: parameters, metrics, pictures and files. Failing never ends a run.

    Args:
        uri: tracking server or database; None for the environment variable MLFLOW_TRACKING_URI, else the file
            `mlflow.db` in the current folder, which plain `mlflow ui` opens.
        experiment: name of the experiment that runs are put under.
        enabled: False to do without.

    Attributes:
        problem: why the server does not have everything yet, or None.
    """

    def __init__(self, *, uri: str | None = None, experiment: str = "curriculum-masking", enabled: bool = True) -> None:
        self.uri, self.experiment, self.enabled = uri, experiment, enabled
        self.problem: str | None = None
        self._client: Any = None
        self._run_id: str | None = None
        self._sent = 0
        self._rows: Sequence[Row] = ()
        self._files: list[Path] = []
        self._status = "RUNNING"
        self._opening: _Opening | None = None
        self._thread: threading.Thread | None = None
        self._news = threading.Condition()
        self._work = self._closing = False
        self._next_try = 0.0

    @property
    def where(self) -> str:
        """The address that runs are sent to, without password."""
        return without_password(self._uri)

    @property
    def _uri(self) -> str:
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"

    def start(self, folder: Path, *, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Open the run, or go on with the one that `folder` belongs to."""
        if not self.enabled:
            return
        # A server that is not there is noticed in seconds, not in the minutes of MLflow's own retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        try:
            import mlflow  # noqa: F401 - here, since a thread that imports and a process that forks do not go together
        except ImportError:
            self._fail(ImportError("MLflow is not installed; `pip install mlflow` adds it"))
            return
        self._opening = _Opening(folder, name, dict(parameters), dict(tags))
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()
        self._wake()

    def send(self, rows: Sequence[Row], files: Sequence[Path] = ()) -> None:
        """Hand over all rows that there are, and files; returns at once. What is behind is sent together."""
        with self._news:
            self._rows = rows if len(rows) >= len(self._rows) else self._rows
            self._files += [path for path in files if path not in self._files]
        self._wake()

    def finish(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; waits for what is outstanding, for a minute at most."""
        if self._thread is None:
            return
        self._status = status
        with self._news:
            self._closing = True
        self._wake()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive() and self.problem is None:
            self._fail(TimeoutError(f"{self.where} did not answer within {_PATIENCE:.0f} s"))
        if self.problem is not None and self._opening is not None:
            warnings.warn(
                f"MLflow does not have all of this run; hpm pretrain --resume --output {self._opening.folder} sends "
                "what is missing",
                Notice,
                stacklevel=2,
            )

    def has_all_of(self, folder: Path) -> bool:
        """Whether a run that has ended was sent completely, or need not be."""
        return not self.enabled or bool(_read(folder / "mlflow.json").get("ended"))

    # The thread

    def _wake(self) -> None:
        with self._news:
            self._work = True
            self._news.notify()

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._work)
                self._work, closing = False, self._closing
            if closing or time.monotonic() >= self._next_try:
                try:
                    self._deliver(closing)
                    self.problem = None
                except Exception as error:  # whatever goes wrong in tracking, training goes on
                    self._fail(error)
            if closing:
                return

    def _deliver(self, closing: bool) -> None:
        if self._run_id is None:
            self._open()
        with self._news:
            rows, files = self._rows, list(self._files)
        for metrics in _batches(rows[self._sent :]):
            self._client.log_batch(self._run_id, metrics=metrics)
        # A run that lost its newest checkpoint takes some steps again, to the same figures: those stay sent.
        self._sent = max(self._sent, len(rows))
        self._remember()
        for path in files:
            if path.is_file():
                self._client.log_artifact(self._run_id, str(path), "pictures" if path.suffix == ".png" else None)
            with self._news:
                self._files.remove(path)
        if closing:
            self._client.set_terminated(self._run_id, self._status)
            self._remember(ended=self._status == "FINISHED")

    def _open(self) -> None:
        from mlflow import MlflowClient

        assert self._opening is not None
        self._client = MlflowClient(tracking_uri=self._uri)
        known = _read(self._opening.folder / "mlflow.json")
        if known.get("uri") == self.where and isinstance(known.get("run_id"), str) and self._is_there(known["run_id"]):
            self._client.update_run(known["run_id"], status="RUNNING")
            self._run_id, self._sent = known["run_id"], int(known.get("sent", 0))
        else:
            self._create(self._opening)

    def _is_there(self, run_id: str) -> bool:
        """Whether the server has the run; an error that says something else is passed on."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            warnings.warn(f"{self.where} no longer has this run; it is sent anew", Notice, stacklevel=2)
            return False

    def _create(self, opening: _Opening) -> None:
        from mlflow.entities import Param

        experiment = self._client.get_experiment_by_name(self.experiment)
        identifier = experiment.experiment_id if experiment else self._client.create_experiment(self.experiment)
        run = self._client.create_run(identifier, run_name=opening.name, tags=dict(opening.tags))
        items = [Param(key, value[:_VALUE_LENGTH]) for key, value in opening.parameters.items()]
        for first in range(0, len(items), _PARAMETERS_A_CALL):
            self._client.log_batch(run.info.run_id, params=items[first : first + _PARAMETERS_A_CALL])
        self._run_id, self._sent = run.info.run_id, 0
        self._remember()

    def _remember(self, *, ended: bool = False) -> None:
        assert self._opening is not None
        state = self._opening.folder / "mlflow.json"
        partial = state.with_suffix(".partial")
        try:
            text = json.dumps({"uri": self.where, "run_id": self._run_id, "sent": self._sent, "ended": ended})
            partial.write_text(text)
            partial.replace(state)
        except OSError:
            pass  # a full disk: a resumed run would send the rows again, which changes nothing

    def _fail(self, error: Exception) -> None:
        self._next_try = time.monotonic() + _SECONDS_BETWEEN_TRIES
        reason = (str(error).splitlines() or [type(error).__name__])[0].replace(self._uri, self.where)
        secret = urlsplit(self._uri).password
        reason = reason.replace(secret, "***") if secret else reason
        told, self.problem = self.problem, f"MLflow cannot be used: {reason[:200]}"
        if told is None:
            warnings.warn(f"{self.problem}; metrics are kept in the run folder and sent later", Notice, stacklevel=2)


def without_password(uri: str) -> str:
    """The address with `***` in the place of a password."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    user, host = parts.netloc.rsplit("@", 1)
    return urlunsplit(parts._replace(netloc=f"{user.split(':')[0]}:***@{host}"))


def _read(state: Path) -> dict[str, Any]:
    """What was remembered; nothing where the file is missing or damaged."""
    try:
        known = json.loads(state.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


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

"""Tracking with MLflow. The run's own files are the truth; MLflow is a copy that may be late.

A thread of its own talks to the server, so training never waits for it. Rows are sent when a checkpoint has been
written, so that MLflow never sees a step that a resumed run will take again. Every row carries its time, and MLflow's
store keeps one of two metrics that are equal in name, step, time and value: sending a row twice changes nothing, so
whatever was not sent, for whatever reason, is sent next time.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote

from hpm.errors import Notice
from hpm.runs.run_folder import Row
from hpm.runtime.locks import locked_beside
from hpm.tracking.outbox import TrackingState

EXPERIMENT = "curriculum-masking"
_METRICS_A_CALL = 1000
_PARAMETERS_A_CALL = 100
_VALUE_LENGTH = 500
_NOT_METRICS = {"step", "time", "kind"}
_NOT_IN_A_NAME = re.compile(r"[^\w/.\- :]")  # MLflow refuses a whole batch for one of these
_KEY = "run_key"  # tag of our runs in MLflow
_PASSWORDS = re.compile(
    r"(?<=://)(?P<user>[^:/@\s]*:)\S*(?=@)|(?P<query>[?&]\w*(?:password|passwd|pwd|token|secret)\w*=)[^&\s]+", re.I
)


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
            `mlflow.db` in the current folder, which plain `mlflow ui` opens. A password belongs into the environment:
            what a config holds is saved with the run.
        experiment: name of the experiment that runs are put under.
        tags: more tags of the run, e.g. `{'mlflow.parentRunId': '...'}` to put it under another.
        system_metrics: whether to measure processors, memory, disk and network, every ten seconds.
        enabled: False to do without.

    Attributes:
        problem: why the server does not have everything yet, or None.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"uri", "experiment", "tags", "system_metrics", "enabled"})

    SECONDS_BETWEEN_TRIES = 30.0
    PATIENCE = 60.0  # seconds, at the end of a run
    PATIENCE_WHEN_KILLED = 10.0  # whoever sends a signal does not wait long

    def __init__(
        self,
        *,
        uri: str | None = None,
        experiment: str = EXPERIMENT,
        tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
        enabled: bool = True,
    ) -> None:
        self.uri = uri
        self.experiment = experiment
        self.enabled = enabled
        self.tags = dict(tags or {})
        self.system_metrics = system_metrics
        self._monitor: Any = None
        self.problem: str | None = None
        self._client: Any = None
        self._state = TrackingState(self.where)
        self._is_open = False
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

    def client(self) -> Any:
        """An `MlflowClient` of the server."""
        _quiet_and_quick()
        from mlflow import MlflowClient

        file = _sqlite_file(self._uri)
        with ExitStack() as alone:  # processes that make or upgrade the tables of one file at once damage it
            if file is not None:
                with suppress(OSError):  # nothing can be written there, or there are no locks: MLflow may still read
                    alone.enter_context(locked_beside(file))
            return MlflowClient(tracking_uri=self._uri)

    def reason(self, error: Exception) -> str:
        """An error's first line, without passwords and not too long."""
        reason = (str(error).splitlines() or [type(error).__name__])[0].replace(self._uri.rstrip("/"), self.where)
        for secret in _secrets(self._uri):
            reason = reason.replace(secret, "***")
        return reason[:200]

    def start(self, folder: Path, *, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Open the run, or go on with the one that `folder` belongs to."""
        if not self.enabled:
            return
        _quiet_and_quick()
        try:
            import mlflow  # noqa: F401 - here, since a thread that imports and a process that forks do not go together
        except Exception as error:  # a broken installation can raise anything
            missing = getattr(error, "name", None) == "mlflow"
            self._fail(ImportError("MLflow is not installed; `pip install mlflow` adds it") if missing else error)
            return
        if self.uri is not None and self.where != self.uri:
            _warn(
                "MLflowTracker.uri holds a password, which config.gin and the checkpoints keep; the environment "
                "variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD keep it out of them"
            )
        self._opening = _Opening(folder, name, dict(parameters), {**tags, **self.tags})
        self._state = self._known(folder)
        self._remember()
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
        """End the run as FINISHED, FAILED or KILLED; waits for what is outstanding, but not for long."""
        if self._thread is None:
            return
        self._status, patience = status, self.PATIENCE_WHEN_KILLED if status == "KILLED" else self.PATIENCE
        with self._news:
            self._closing = True
        self._wake()
        self._thread.join(patience)
        if self._thread.is_alive() and self.problem is None:
            self._fail(TimeoutError(f"{self.where} did not answer within {patience:.0f} s"))
        if self.problem is not None and self._opening is not None:
            missing = max(0, len(self._rows) - self._state.sent)
            _warn(
                f"MLflow lacks {missing} of {len(self._rows)} rows of metrics and {len(self._files)} files of this "
                f"run; hpm pretrain --resume --output {self._opening.folder} sends what is missing"
            )

    def has_all_of(self, folder: Path) -> bool:
        """Whether a run that has ended was sent completely, or need not be."""
        with suppress(OSError, ValueError):
            return not self.enabled or TrackingState.read(folder).ended
        return False

    def _known(self, folder: Path) -> TrackingState:
        """How far the server is, as far as the run folder remembers it."""
        try:
            known = TrackingState.read(folder)
        except FileNotFoundError:
            return TrackingState(self.where)
        except (OSError, ValueError) as error:
            _warn(f"{folder / 'mlflow.json'} is damaged ({error}); the run is sent to MLflow anew")
            return TrackingState(self.where)
        if known.uri != self.where:
            _warn(f"this run was sent to {known.uri} before; it is sent to {self.where} anew")
            return TrackingState(self.where)
        known.ended = False
        return known

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
                    self._is_open = False  # the next try finds out whether the run is still there
                    self._fail(error)
            if closing:
                return

    def _deliver(self, closing: bool) -> None:
        state = self._state
        if not self._is_open:
            self._open()
        with self._news:
            rows, files = self._rows, list(self._files)
        for metrics in _batches(rows[state.sent :]):
            self._client.log_batch(state.run_id, metrics=metrics)
        # A run that lost its newest checkpoint takes some steps again, to the same figures: those stay sent.
        state.sent = max(state.sent, len(rows))
        self._remember()
        if closing:
            if self._monitor is not None:
                self._monitor.finish()
            self._client.set_terminated(state.run_id, self._status)
        for path in files:
            if path.is_file():
                self._send_file(path)
            with self._news:
                self._files.remove(path)
        state.ended = closing and self._status == "FINISHED"
        self._remember()

    def _send_file(self, path: Path) -> None:
        run_id, text = self._state.run_id, path.read_text() if path.suffix == ".gin" else ""
        if self._uri != self.where and self._uri in text:
            self._client.log_text(run_id, text.replace(self._uri, self.where), path.name)
        else:
            self._client.log_artifact(run_id, str(path), "pictures" if path.suffix == ".png" else None)

    def _open(self) -> None:
        """Find the run or make it, and give it the parameters that it lacks."""
        from mlflow.entities import Param

        assert self._opening is not None
        self._client, state = self.client(), self._state
        run = self._find() or self._create()
        if run.info.run_id != state.run_id:
            if state.run_id is not None:
                _warn(f"{self.where} no longer has this run; it is sent anew")
            state.run_id = run.info.run_id
            state.sent = 0
            self._remember()
        if run.info.status != "RUNNING":
            self._client.update_run(state.run_id, status="RUNNING")
        parameters = [
            Param(name, value.replace(self._uri, self.where)[:_VALUE_LENGTH])
            for name, value in self._opening.parameters.items()
            if name not in run.data.params
        ]
        for first in range(0, len(parameters), _PARAMETERS_A_CALL):
            self._client.log_batch(state.run_id, params=parameters[first : first + _PARAMETERS_A_CALL])
        self._is_open = True
        if self.system_metrics:
            self._watch_system()

    def _watch_system(self) -> None:
        """Let MLflow measure the machine; its monitor ends by itself when the server goes away."""
        if self._monitor is not None and self._monitor._process is not None and self._monitor._process.is_alive():
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        try:
            self._monitor = SystemMetricsMonitor(self._state.run_id, resume_logging=True, tracking_uri=self._uri)
            self._monitor.start()
        except Exception as error:  # psutil is missing, or cannot read this machine
            self.system_metrics = False
            _warn(f"MLflowTracker.system_metrics cannot be measured: {error}")

    def _find(self) -> Any:
        """The run that is remembered, or None where the server does not have it; other errors are passed on."""
        from mlflow.exceptions import MlflowException

        if self._state.run_id is None:
            return None
        try:
            run = self._client.get_run(self._state.run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _create(self) -> Any:
        """A new run; or one that was made just before a kill, or before its answer was lost."""
        assert self._opening is not None
        experiment = self._client.get_experiment_by_name(self.experiment)
        identifier = experiment.experiment_id if experiment else self._client.create_experiment(self.experiment)
        made = self._client.search_runs([identifier], f"tags.{_KEY} = '{self._state.key}'", max_results=1)
        tags = {**self._opening.tags, _KEY: self._state.key}
        return made[0] if made else self._client.create_run(identifier, run_name=self._opening.name, tags=tags)

    def _remember(self) -> None:
        if self._opening is not None:
            self._state.write(self._opening.folder)

    def _fail(self, error: Exception) -> None:
        self._next_try = time.monotonic() + self.SECONDS_BETWEEN_TRIES
        told, self.problem = self.problem, f"MLflow cannot be used: {self.reason(error)}"
        if told is None:
            _warn(f"{self.problem}; metrics are kept in the run folder and sent later")


def _quiet_and_quick() -> None:
    """A server that is not there is noticed in seconds, not in the minutes of MLflow's own retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the password
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # `problem` says it, once


def _sqlite_file(uri: str) -> str | None:
    from sqlalchemy.engine import make_url

    return make_url(uri).database if uri.startswith("sqlite") else None


def without_password(uri: str) -> str:
    """The address with `***` in the place of passwords."""
    return _PASSWORDS.sub(lambda found: f"{found['user'] or found['query']}***", uri)


def metric_name(name: str) -> str:
    """A name that MLflow takes."""
    return _NOT_IN_A_NAME.sub("_", name)


def _secrets(uri: str) -> list[str]:
    """The passwords of an address, as they stand there and as a person knows them."""
    found = [match[0].removeprefix(match["user"] or match["query"]) for match in _PASSWORDS.finditer(uri)]
    return [secret for raw in found if raw for secret in (raw, unquote(raw))]


def _warn(message: str) -> None:
    warnings.warn(message, Notice, stacklevel=3)


def _batches(rows: Sequence[Row]) -> Iterator[list[Any]]:
    from mlflow.entities import Metric

    batch: list[Any] = []
    for row in rows:
        metrics = [
            Metric(metric_name(key), float(value), int(row["time"] * 1000), int(row["step"]))
            for key, value in row.items()
            if key not in _NOT_METRICS and isinstance(value, int | float) and math.isfinite(value)
        ]
        if len(batch) + len(metrics) > _METRICS_A_CALL:
            yield batch
            batch = []
        batch += metrics
    if batch:
        yield batch

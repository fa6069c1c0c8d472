"""Tracking with MLflow. The run's own files are the truth; MLflow is a copy that may be late.

A thread of its own talks to the server, so training never waits for it. Rows are sent when a checkpoint has been
written, so that MLflow never sees a step that a resumed run will take again. Every row carries its time, and MLflow's
store keeps one of two metrics that are equal in name, step, time and value: sending a row twice changes nothing, so
whatever was not sent, for whatever reason, is sent next time.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from hpm.errors import Notice, UserError
from hpm.runs.metrics_file import Row
from hpm.tracking.base import TrackingError
from hpm.tracking.client import connect, connect_to_read, is_for_good, is_new, quiet_mlflow, with_home
from hpm.tracking.datasets import send_datasets
from hpm.tracking.destination import Destination
from hpm.tracking.entry import (
    Opening,
    create_run,
    find_run,
    metrics_of,
    metrics_of_rows,
    send_file,
    send_metrics,
    send_parameters,
)
from hpm.tracking.outbox import Outbox, TrackingState
from hpm.tracking.redact import redact_address, redact_message, without_password
from hpm.tracking.settings import require_usable, with_own_tags
from hpm.tracking.system import SystemMonitor


class MLflowTracker:
    """Copies a run to MLflow: parameters, metrics, pictures and files. Failing never ends a run.

    Args:
        uri: tracking server or database; None for the environment variable MLFLOW_TRACKING_URI, else the file
            `mlflow.db` in the current folder, which plain `mlflow ui` opens. A password belongs into the environment:
            what a config holds is saved with the run.
        experiment: name of the experiment that runs are put under; None for MLflow's environment variables
            MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME, else "curriculum-masking". Where it is None, MLFLOW_RUN_ID
            names the MLflow run that a new run becomes; one that is resumed goes on with its own.
        tags: more tags of the run, e.g. `{'mlflow.parentRunId': '...'}` to put it under another.
        system_metrics: whether to measure processors, memory, disk and network, every ten seconds.
        enabled: False to do without.

    Raises:
        ValueError: for an address or a name that can never be used.

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
        experiment: str | None = None,
        tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
        enabled: bool = True,
    ) -> None:
        require_usable(uri, experiment, tags or {})
        self.uri = uri
        self.experiment = experiment
        self.enabled = enabled
        self.tags = dict(tags or {})
        self.system_metrics = system_metrics
        self.problem: str | None = None
        self._outbox = Outbox()
        self._opening: Opening | None = None
        self._state = TrackingState(self.where)
        self._client: Any = None
        self._is_open = False
        self._monitor: SystemMonitor | None = None
        self._thread: threading.Thread | None = None
        self._next_try = 0.0

    @property
    def where(self) -> str:
        """The address that runs are sent to, without its secrets."""
        return without_password(self._uri)

    @property
    def _uri(self) -> str:
        return with_home(self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}")

    def client(self, *, to_read: bool = False) -> Any:
        """An `MlflowClient` of the server; one that is only to read makes nothing, and is None where nothing is."""
        return connect_to_read(self._uri) if to_read else connect(self._uri)

    def reason(self, error: Exception) -> str:
        """An error's first line, without the secrets of the address."""
        return redact_message((str(error).strip().splitlines() or [type(error).__name__])[0], self._uri)

    def start(self, folder: Path, *, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Open the run, or go on with the one that `folder` belongs to.

        Raises:
            UserError: for settings with which no run could ever be sent.
        """
        if not self.enabled:
            return
        quiet_mlflow()
        try:
            import mlflow  # noqa: F401 - here, since a thread that imports and a process that forks do not go together
        except Exception as error:  # a broken installation can raise anything
            missing = getattr(error, "name", None) == "mlflow"
            self._fail(ImportError("MLflow is not installed; `pip install mlflow` adds it") if missing else error)
            return
        if self.uri is not None and self.where != with_home(self.uri):
            _warn(
                "MLflowTracker.uri holds a password or a token, which config.gin and checkpoints keep; the environment "
                "variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, keep it out"
            )
        destination = Destination.of(self.experiment)
        self._opening = Opening(folder, name, destination, dict(parameters), with_own_tags(self.tags, tags))
        self._monitor = SystemMonitor(self._uri) if self.system_metrics else None
        self._state = TrackingState.known(folder, self.where)
        self._state.name = name
        self._state.parameters = {key: redact_address(value, self._uri) for key, value in parameters.items()}
        self._state.tags = self._opening.tags
        self._check(self._opening)
        self._remember()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()
        self._outbox.put()

    def _check(self, opening: Opening) -> None:
        """Refuse what trying again does not change, before hours of training."""
        try:
            if is_new(self._uri) and not opening.destination.must_be_there:
                return  # making it takes seconds, and is done beside training
            client = self.client()
            if find_run(client, self._state.run_id) is None:
                opening.destination.find_run(client, opening.folder)
                opening.destination.find(client)
        except Exception as error:  # the thread tells of others
            if (refusal := self.refusal(error)) is not None:
                raise UserError(refusal) from error

    def refusal(self, error: Exception) -> str | None:
        """What is said of an error of settings, which trying again does not change; None of any other."""
        if not is_for_good(error, self._uri):
            return None
        told = f"MLflow at {self.where} cannot be used: {self.reason(error).rstrip('.')}"
        return f"{told}; change MLflowTracker's bindings, or do without by MLflowTracker.enabled = False"

    def send(self, rows: Sequence[Row], files: Sequence[Path] = ()) -> None:
        """Hand over all rows that there are, and files; returns at once. What is behind is sent together."""
        self._outbox.put(rows, files)

    def finish(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; waits for what is outstanding, but not for long."""
        if self._thread is None:
            return
        patience = self.PATIENCE_WHEN_KILLED if status == "KILLED" else self.PATIENCE
        self._outbox.close(status)
        self._thread.join(patience)
        if self._thread.is_alive() and self.problem is None:
            self._fail(TimeoutError(f"{self.where} did not answer within {patience:.0f} s"))
        if self.problem is not None and self._opening is not None:
            rows = len(self._outbox.rows)
            missing = max(0, rows - self._state.sent)
            _warn(
                f"MLflow lacks {missing} of {rows} rows of metrics and {len(self._outbox.files)} files of this "
                f"run; hpm pretrain --resume --output {self._opening.folder} sends what is missing"
            )

    def has_all_of(self, folder: Path) -> bool:
        """Whether a run that has ended was sent completely, or need not be."""
        with suppress(OSError, UserError):
            return not self.enabled or TrackingState.read(folder).ended
        return False

    def add_metrics(
        self, folder: Path, metrics: Mapping[str, float], *, step: int, files: Sequence[Path] = ()
    ) -> str | None:
        """Add figures to the entry of a run that has ended; waits until they are there.

        They go to the server that the run was sent to, which need not be the one that is configured now.

        Args:
            folder: the run's.
            metrics: figures, by name; those that are not finite are left out.
            step: steps that the measured model had taken.
            files: pictures and others that go with them. Default none.

        Returns:
            Where they went, without its secrets; None where the run has no entry, or tracking is not enabled.

        Raises:
            TrackingError: if they could not be sent.
        """
        known = TrackingState.of_entry(folder) if self.enabled else None
        if known is None or known.run_id is None:
            return None
        # The file has no passwords; where it means the address that is configured, that one has.
        uri = self._uri if without_password(known.uri) == self.where else known.uri
        try:
            client = connect(uri)
            send_metrics(client, known.run_id, metrics_of(metrics, seconds=time.time(), step=step))
            for file in files:
                send_file(client, known.run_id, file, uri)
        except Exception as error:  # whatever goes wrong in tracking
            raise TrackingError(self.reason(error)) from error
        return known.uri

    # The thread

    def _run(self) -> None:
        while True:
            closing = self._outbox.wait()
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
        """Send everything that is outstanding."""
        state = self._state
        if not self._is_open:
            self._open()
        assert state.run_id is not None
        rows = self._outbox.rows
        files = self._outbox.files
        send_metrics(self._client, state.run_id, metrics_of_rows(rows[state.sent :]))
        # A run that lost its newest checkpoint takes some steps again, to the same figures: those stay sent.
        state.sent = max(state.sent, len(rows))
        self._remember()
        if closing:
            if self._monitor is not None:
                self._monitor.finish()
            self._client.set_terminated(state.run_id, self._outbox.status)
        for path in files:
            if path.is_file():
                send_file(self._client, state.run_id, path, self._uri)
            self._outbox.remove(path)
        state.ended = closing and self._outbox.status == "FINISHED"
        self._remember()

    def _open(self) -> None:
        """Find the run or make it, and give it the parameters that it lacks."""
        assert self._opening is not None
        state = self._state
        self._client = self.client()
        run = find_run(self._client, state.run_id) or create_run(self._client, self._opening, state.key)
        if run.info.run_id != state.run_id:
            if state.run_id is not None:
                _warn(f"{self.where} no longer has this run; it is sent anew")
            state.run_id = run.info.run_id
            state.sent = 0
            self._remember()
        if run.info.status != "RUNNING":
            self._client.update_run(state.run_id, status="RUNNING")
        send_parameters(self._client, run, self._opening.parameters, self._uri)
        send_datasets(self._client, run, self._opening, self._uri)
        self._is_open = True
        if self._monitor is not None:
            self._monitor.watch(run.info.run_id)

    def _remember(self) -> None:
        if self._opening is not None:
            self._state.write(self._opening.folder)

    def _fail(self, error: Exception) -> None:
        self._next_try = time.monotonic() + self.SECONDS_BETWEEN_TRIES
        warned, self.problem = self.problem is not None, f"MLflow cannot be used: {self.reason(error)}"
        if not warned:
            _warn(f"{self.problem}; metrics are kept in the run folder and sent later")


def _warn(message: str) -> None:
    warnings.warn(message, Notice, stacklevel=3)

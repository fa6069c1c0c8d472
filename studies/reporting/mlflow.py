"""A study in MLflow: the study, its variants or trials, and their seeds as nested runs.

Every run sends its own metrics while it trains. What is made here stands above them, and is made from Optuna's storage,
so that it can be made again: a server that was away gets it with the next trial, or at the end.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpm.errors import Notice
from hpm.evaluation.base import half_interval
from hpm.runtime.version import source_version
from hpm.tracking.entry import metric_name
from hpm.tracking.mlflow import EXPERIMENT, MLflowTracker
from hpm.tracking.outbox import TrackingState
from studies.definition.base import PlannedRun
from studies.execution.storage import key_of, root_number

_KEY = "study_key"  # tag of what this module makes
_PARENT = "mlflow.parentRunId"
_STATES = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
_PATIENCE = 60.0  # seconds between tries


class StudyTracker:
    """Copies a study to MLflow. Failing never ends a study.

    Args:
        tracker: the runs' own; says where MLflow is, and whether it is wanted.
        study: the study's name; also the experiment's, unless the runs' configuration names one.
    """

    def __init__(self, tracker: MLflowTracker, study: str) -> None:
        self.enabled = tracker.enabled
        self.experiment = study if tracker.experiment == EXPERIMENT else tracker.experiment
        self.study = study
        self._tracker = tracker
        self._client: Any = None
        self._experiment_id: str | None = None
        self._known: dict[str, str] = {}  # run ids by variant; the study's own under ""
        self._next_try = 0.0
        self._told = False

    @property
    def where(self) -> str:
        """The server, without password."""
        return self._tracker.where

    def bindings(self, study: optuna.Study, run: PlannedRun, number: int) -> list[str]:
        """What a run is told, so that it appears in its place."""
        if not self.enabled:
            return []
        tags = {"study": self.study, "variant": run.variant, "trial": str(number)}
        parent = self._attempt(lambda: self._parent_of(study, run.variant))
        if parent is not None:
            tags[_PARENT] = parent
        return [
            f"MLflowTracker.experiment = {self.experiment!r}",
            f"MLflowTracker.tags = {tags!r}",
            "MLflowTracker.system_metrics = True",
        ]

    def prepare(self, study: optuna.Study, variants: Sequence[str]) -> None:
        """Make the study's run and those of its variants, before workers ask for them at the same time."""
        if self.enabled:
            self._attempt(lambda: [self._parent_of(study, variant) for variant in variants])

    def update(self, study: optuna.Study, number: int) -> None:
        """Copy what came of a trial."""
        if self.enabled:
            self._attempt(lambda: self._copy(study, study.get_trials(deepcopy=False)[number]))

    def complete(self, study: optuna.Study, files: list[Path]) -> None:
        """Copy everything there is, what a server that was away has missed too, and files."""
        if not self.enabled:
            return
        self._next_try = 0.0

        def copy() -> None:
            for trial in study.get_trials(deepcopy=False):
                self._copy(study, trial)
            top = self._run(study)
            for path in files:
                if path.is_file():
                    self._client.log_artifact(top, str(path))
            self._client.set_terminated(top, "FINISHED")

        self._attempt(copy)

    def _attempt(self, work: Any) -> Any:
        """The work's result; None where MLflow cannot be used, which is told once."""
        if time.monotonic() < self._next_try:
            return None
        try:
            return work()
        except Exception as error:  # whatever goes wrong in tracking, the study goes on
            self._next_try = time.monotonic() + _PATIENCE
            if not self._told:
                reason = self._tracker.reason(error)
                warnings.warn(
                    f"MLflow at {self.where} does not show the study: {reason}; it is sent later", Notice, stacklevel=2
                )
            self._told = True
            return None

    def _connect(self) -> None:
        if self._client is not None:
            return
        self._client = self._tracker.client()
        found = self._client.get_experiment_by_name(self.experiment)
        self._experiment_id = found.experiment_id if found else self._client.create_experiment(self.experiment)

    def _parent_of(self, study: optuna.Study, variant: str) -> str:
        return self._run(study, variant, parent=self._run(study))

    def _run(self, study: optuna.Study, variant: str = "", *, parent: str | None = None) -> str:
        """The run of the study, or of a variant; made where there is none."""
        self._connect()
        if variant not in self._known:
            key = f"{key_of(study)}/{variant}"
            made = self._client.search_runs([self._experiment_id], f"tags.{_KEY} = '{key}'", max_results=1)
            if not made:
                tags = {_KEY: key, "study": self.study, "commit": source_version()}
                if parent is not None:
                    tags |= {_PARENT: parent, "variant": variant}
                name = variant or self.study
                made = [self._client.create_run(self._experiment_id, run_name=name, tags=tags)]
            self._known[variant] = made[0].info.run_id
        return self._known[variant]

    def _copy(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """A finished trial's parameters and results; sending them again changes nothing."""
        if not trial.state.is_finished():
            return
        results = trial.user_attrs.get("results", [])
        variant = _variant(trial)
        parent = self._parent_of(study, variant)
        for result in results:
            with suppress(OSError, ValueError, subprocess.SubprocessError):  # of a run that is elsewhere
                self._nest(Path(result["folder"]), parent)
        complete = [result for result in _results_of(study) if result["variant"] == variant]
        for name, values in _by_metric(complete or results).items():
            self._client.log_metric(parent, f"mean/{metric_name(name)}", statistics.fmean(values), step=len(values))
            if len(values) > 1:
                self._client.log_metric(
                    parent, f"interval/{metric_name(name)}", half_interval(values), step=len(values)
                )
        self._parameters(parent, {name: value for name, value in trial.params.items() if name != "seed"})
        others = [other for other in study.get_trials(deepcopy=False) if _variant(other) == variant]
        if all(other.state.is_finished() for other in others):
            self._client.set_terminated(parent, _STATES[trial.state])

    def _parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        known = self._client.get_run(run_id).data.params
        for name, value in parameters.items():
            if name not in known:
                self._client.log_param(run_id, name, value)

    def _nest(self, folder: Path, parent: str) -> None:
        """Send what a run still lacks, and put it under its parent, where it began while MLflow was away."""
        state = TrackingState.read(folder)
        if not state.ended:
            command = [sys.executable, "-m", "hpm", "pretrain", "--resume", "--output", str(folder)]
            subprocess.run(command, check=False, capture_output=True, timeout=600)
            state = TrackingState.read(folder)
        if state.run_id is not None:
            tags = self._client.get_run(state.run_id).data.tags
            if tags.get(_PARENT) != parent:
                self._client.set_tag(state.run_id, _PARENT, parent)


def _variant(trial: FrozenTrial) -> str:
    """What a trial's run in MLflow is called."""
    return trial.user_attrs.get("variant") or f"trial-{root_number(trial):04d}"


def _results_of(study: optuna.Study) -> list[dict[str, Any]]:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [result for trial in complete for result in trial.user_attrs.get("results", [])]


def _by_metric(results: list[dict[str, Any]]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in {**result["metrics"], **result["cost"]}.items():
            values.setdefault(name, []).append(value)
    return values

"""A study in MLflow: the study, its variants or trials, and their seeds as nested runs.

Every run sends its own metrics while it trains. What is made here stands above them, and is made from Optuna's storage,
so that it can be made again: a server that was away gets it with the next trial, or at the end.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpm.config import parse_config
from hpm.errors import Notice, UserError
from hpm.metrics import half_interval
from hpm.runs.run_folder import RunFolder
from hpm.runtime.version import source_version
from hpm.tracking.destination import Destination
from hpm.tracking.entry import metric_name
from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.outbox import TrackingState
from hpm.tracking.resend import send_rest
from hpm.tracking.settings import with_own_tags
from studies.analysis.results import RESULTS
from studies.definition.base import Definition, PlannedRun
from studies.definition.identity import key_of
from studies.definition.settings import is_repeat

T = TypeVar("T")

_KEY = "study_key"  # tag of what this module makes
_PARENT = "mlflow.parentRunId"
_STATES = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
_SECONDS_BETWEEN_TRIES = 60.0


class StudyTracker:
    """Copies a study to MLflow. Failing never ends a study.

    Args:
        tracker: the runs' own, which says where MLflow is, and whether it is wanted.
        study: the study's name; also the experiment's, unless the runs' configuration names one.
        definition: says which variant a trial belongs to.

    Attributes:
        enabled: whether the study is copied at all.
    """

    def __init__(self, tracker: MLflowTracker, study: str, definition: Definition) -> None:
        self.enabled = tracker.enabled
        self._study = study
        self._definition = definition
        self._tracker = tracker
        # One run of MLflow's cannot hold the many of a study: MLFLOW_RUN_ID is not for them.
        self._destination = Destination.of(tracker.experiment, default=study)._replace(run_id=None)
        self._client: Any = None
        self._experiment_id: str | None = None
        self._run_ids: dict[str, str] = {}  # by variant; the study's own under ""
        self._next_try = 0.0
        self._warned = False

    @property
    def where(self) -> str:
        """The server's address, without its secrets."""
        return self._tracker.where

    def bindings(self, study: optuna.Study, run: PlannedRun, number: int) -> list[str]:
        """The bindings that have a run appear in its place, beside what it binds of the tracker itself.

        Args:
            study: the study.
            run: one of its runs.
            number: of the run's trial, or of the first that it tries again.
        """
        if not self.enabled:
            return []
        config = parse_config(run.configs, run.bindings)
        own, tracker = config.bindings_of("MLflowTracker"), config.parameter("Monitoring", "tracker")
        if not isinstance(tracker, MLflowTracker) or not tracker.enabled:
            return []
        parent = self._attempt(lambda: self._variant_run(study, run.variant))
        ours = {"study": self._study, "variant": run.variant, "trial": str(number)}
        tags = with_own_tags(tracker.tags, ours | ({} if parent is None else {_PARENT: parent}))
        # What is bound already, or what MLflow's variables say, reaches the runs by itself.
        wanted: dict[str, Any] = {"tags": tags}
        if "experiment" not in own and self._destination == Destination(self._study):
            wanted["experiment"] = self._study
        if "system_metrics" not in own:
            wanted["system_metrics"] = True
        return [f"MLflowTracker.{name} = {value!r}" for name, value in wanted.items()]

    def prepare(self, study: optuna.Study) -> None:
        """Make the study's run and those of its variants, before workers ask for them at the same time.

        Raises:
            UserError: for settings with which nothing could ever be sent.
        """
        if not self.enabled:
            return
        names = self._definition.variant_names
        self._attempt(lambda: [self._run(study), *(self._variant_run(study, name) for name in names)], refuse=True)

    def update(self, study: optuna.Study, number: int) -> None:
        """Copy what came of the trial with this number."""
        if self.enabled:
            self._attempt(lambda: self._copy(study, study.get_trials(deepcopy=False)[number]))

    def complete(self, study: optuna.Study, files: Sequence[Path]) -> None:
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

    def _attempt(self, work: Callable[[], T], *, refuse: bool = False) -> T | None:
        """The work's result; None where MLflow cannot be used, of which the first time is reported.

        Raises:
            UserError: if that is for good and to be refused.
        """
        if time.monotonic() < self._next_try:
            return None
        try:
            return work()
        except Exception as error:  # whatever goes wrong in tracking, the study goes on
            if refuse and (refusal := self._tracker.refusal(error)) is not None:
                raise UserError(refusal) from error
            self._next_try = time.monotonic() + _SECONDS_BETWEEN_TRIES
            if not self._warned:
                reason = self._tracker.reason(error)
                warnings.warn(
                    f"MLflow at {self.where} does not show the study: {reason}; it is sent later", Notice, stacklevel=2
                )
            self._warned = True
            return None

    def _connect(self) -> None:
        if self._client is not None:
            return
        self._client = self._tracker.client()
        self._experiment_id = self._destination.find_or_make(self._client)

    def _variant_run(self, study: optuna.Study, variant: str) -> str:
        return self._run(study, variant, parent=self._run(study))

    def _run(self, study: optuna.Study, variant: str = "", *, parent: str | None = None) -> str:
        """The run of the study, or of a variant; made where there is none."""
        self._connect()
        if variant not in self._run_ids:
            key = f"{key_of(study)}/{variant}"
            made = self._client.search_runs([self._experiment_id], f"tags.{_KEY} = '{key}'", max_results=1)
            if not made:
                tags = {_KEY: key, "study": self._study, "commit": source_version()}
                if parent is not None:
                    tags |= {_PARENT: parent, "variant": variant}
                name = variant or self._study
                made = [self._client.create_run(self._experiment_id, run_name=name, tags=tags)]
            self._run_ids[variant] = made[0].info.run_id
        return self._run_ids[variant]

    def _copy(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """A finished trial's parameters and results; sending them again changes nothing."""
        if not trial.state.is_finished():
            return
        results = trial.user_attrs.get(RESULTS, [])
        variant = self._definition.variant_of(trial)
        parent = self._variant_run(study, variant)
        for result in results:
            with suppress(OSError, ValueError):  # of a run that is elsewhere
                self._nest(Path(result["folder"]), parent)
        complete = [result for result in _complete_results(study) if result["variant"] == variant]
        for name, values in _by_metric(complete or results).items():
            count = len(values)
            self._client.log_metric(parent, f"mean/{metric_name(name)}", statistics.fmean(values), step=count)
            if count > 1:
                self._client.log_metric(parent, f"interval/{metric_name(name)}", half_interval(values), step=count)
        self._log_parameters(parent, {name: value for name, value in trial.params.items() if name != "seed"})
        trials = study.get_trials(deepcopy=False)
        if all(other.state.is_finished() for other in trials if self._definition.variant_of(other) == variant):
            self._client.set_terminated(parent, _STATES[trial.state])

    def _log_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        known = self._client.get_run(run_id).data.params
        for name, value in parameters.items():
            if name not in known:
                self._client.log_param(run_id, name, value)

    def _nest(self, folder: Path, parent: str) -> None:
        """Send what a run still lacks, and put it under its parent, where it began while MLflow was away."""
        state = TrackingState.read(folder)
        if not state.ended:
            # By its name, also where the environment has its number: MLFLOW_RUN_ID is not for one run of many.
            experiment = self._client.get_experiment(self._experiment_id).name
            send_rest(RunFolder(folder), MLflowTracker(uri=self._tracker.uri, experiment=experiment))
            state = TrackingState.read(folder)
        if state.run_id is not None:
            tags = self._client.get_run(state.run_id).data.tags
            if tags.get(_PARENT) != parent:
                self._client.set_tag(state.run_id, _PARENT, parent)


def _complete_results(study: optuna.Study) -> list[dict[str, Any]]:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    own = [trial for trial in complete if not is_repeat(trial)]  # others have a copy
    return [result for trial in own for result in trial.user_attrs.get(RESULTS, [])]


def _by_metric(results: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in {**result["metrics"], **result["cost"]}.items():
            values.setdefault(name, []).append(value)
    return values

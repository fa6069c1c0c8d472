"""A study in MLflow: the study, its variants or trials, and their seeds as nested runs.

Every run sends its own metrics while it trains. What is made here stands above them, and is made from Optuna's storage,
so that it can be made again: a server that was away gets it with the next trial, or at the end.
"""

from __future__ import annotations

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
from hpm.runs.run_folder import RunFolder
from hpm.runtime.version import source_version
from hpm.tracking.datasets import share_datasets
from hpm.tracking.destination import Destination
from hpm.tracking.entry import metric_name, metrics_of, send_metrics, send_parameters
from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.note import NOTE, note_of, origin_tags
from hpm.tracking.outbox import TrackingState
from hpm.tracking.resend import send_rest
from hpm.tracking.settings import with_own_tags
from studies.analysis.results import RESULTS
from studies.definition.base import Definition, PlannedRun
from studies.definition.identity import key_of
from studies.reporting.mlflow_rows import cost_metrics, study_metrics, study_note, variant_metrics, variant_note

T = TypeVar("T")

_KEY = "study_key"  # tag of what this module makes
_PARENT, _NAME = "mlflow.parentRunId", "mlflow.runName"
_FIGURES = "figures"  # folder of artifacts
_SHOWN = ("differences.png", "history.png")  # in the description
_STATES = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
_SECONDS_BETWEEN_TRIES = 60.0


class StudyTracker:
    """Copies a study to MLflow. Failing never ends a study.

    Args:
        tracker: the runs' own, which says where MLflow is, and whether it is wanted.
        study: the study's name; also the experiment's, unless the runs' configuration names one.
        definition: says which variant a trial belongs to.
        about: what the study is, in Markdown; empty in workers, which leave its description alone.

    Attributes:
        enabled: whether the study is copied at all.
    """

    def __init__(self, tracker: MLflowTracker, study: str, definition: Definition, about: str = "") -> None:
        self.enabled = tracker.enabled
        self._study = study
        self._definition = definition
        self._tracker = tracker
        self._about = about
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

        def find_or_make() -> str:
            known = study.get_trials(deepcopy=False)[number : number + 1]
            return self._variant_run(study, run.variant, known[0] if known else None)

        parent = self._attempt(find_or_make)
        ours = {"study": self._study, "variant": run.variant, "trial": str(number)}
        ours[_NAME] = f"seed {run.seed} of {run.variant}"
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

        def make() -> None:
            self._study_run(study)
            for name in self._definition.variant_names:
                self._send_parameters(self._variant_run(study, name), self._definition.varied(name))
            if self._about:
                self._describe(study, "", [])

        self._attempt(make, refuse=True)

    def update(self, study: optuna.Study, number: int) -> None:
        """Copy what came of the trial with this number."""
        if not self.enabled:
            return
        trial = study.get_trials(deepcopy=False)[number]
        if not trial.state.is_finished():
            return

        def copy() -> None:
            self._nest_runs(study, trial)
            self._show_variant(study, self._definition.variant_of(trial))
            self._show_study(study)

        self._attempt(copy)

    def complete(self, study: optuna.Study, files: Sequence[Path], *, table: str = "") -> None:
        """Copy everything there is, what a server that was away has missed too, and files.

        Args:
            study: the study.
            files: its report, tables and figures.
            table: the results in Markdown, for the descriptions of the study and of its experiment.
        """
        if not self.enabled:
            return
        self._next_try = 0.0

        def copy() -> None:
            trials = study.get_trials(deepcopy=False)
            for trial in trials:
                self._nest_runs(study, trial)
            for variant in dict.fromkeys(map(self._definition.variant_of, trials)):
                self._show_variant(study, variant)
            self._show_study(study)
            top = self._study_run(study)
            for path in files:
                if path.is_file():
                    self._client.log_artifact(top, str(path), _FIGURES if path.suffix == ".png" else None)
            self._describe(study, table, [f"{_FIGURES}/{path.name}" for path in files if path.name in _SHOWN])
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

    def _variant_run(self, study: optuna.Study, variant: str, trial: FrozenTrial | None = None) -> str:
        """The run of a variant; made where there is none."""
        if variant in self._run_ids:
            return self._run_ids[variant]
        top = self._study_run(study)
        name = variant if trial is None else self._definition.label_of(trial)
        note = note_of(variant_note(self._definition, variant, trial))
        tags = {_PARENT: top, "variant": variant, NOTE: note}
        return self._find_or_make(study, variant, name, tags)

    def _study_run(self, study: optuna.Study) -> str:
        """The run of the study; made where there is none."""
        return self._run_ids.get("") or self._find_or_make(study, "", self._study, {NOTE: self._about})

    def _find_or_make(self, study: optuna.Study, variant: str, name: str, tags: Mapping[str, str]) -> str:
        self._connect()
        key = f"{key_of(study)}/{variant}"
        made = self._client.search_runs([self._experiment_id], f"tags.{_KEY} = '{key}'", max_results=1)
        if not made:
            common = {_KEY: key, "study": self._study, "commit": source_version()}
            own = origin_tags(f"hpm-study {self._definition.command}") | common | dict(tags)
            made = [self._client.create_run(self._experiment_id, run_name=name, tags=own)]
        self._run_ids[variant] = made[0].info.run_id
        return self._run_ids[variant]

    def _describe(self, study: optuna.Study, table: str, figures: Sequence[str]) -> None:
        """Give the study's run, and the experiment that is its own, their descriptions."""
        top = self._study_run(study)
        note = note_of(self._about, study_note(table, figures, top))
        self._client.set_tag(top, NOTE, note)
        if self._destination == Destination(self._study):
            self._client.set_experiment_tag(self._experiment_id, NOTE, note)

    def _nest_runs(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Put the runs of a finished trial under its variant, with what they lack."""
        if not trial.state.is_finished():
            return
        parent = self._variant_run(study, self._definition.variant_of(trial), trial)
        for result in trial.user_attrs.get(RESULTS, []):
            with suppress(OSError, ValueError):  # of a run that is elsewhere
                self._nest(Path(result["folder"]), parent, trial, result)

    def _show_variant(self, study: optuna.Study, variant: str) -> None:
        """Give a variant's row its figures and parameters; sending them again changes nothing."""
        own = [trial for trial in study.get_trials(deepcopy=False) if self._definition.variant_of(trial) == variant]
        finished = [trial for trial in own if trial.state.is_finished()]
        if not finished:
            return
        last = finished[-1]
        row = self._variant_run(study, variant, last)
        metrics = variant_metrics(study, self._definition, variant)
        self._send_metrics(row, metrics, step=int(metrics["study/seeds"]))
        self._send_parameters(row, {**self._definition.varied(variant), **_parameters_of(last)})
        if len(finished) == len(own):
            self._client.set_terminated(row, _STATES[last.state])

    def _show_study(self, study: optuna.Study) -> None:
        """Give the study's row its figures, and say whose they are."""
        top = self._study_run(study)
        metrics, whose = study_metrics(study, self._definition)
        self._send_metrics(top, metrics, step=int(metrics["study/finished_runs"]))
        self._client.set_tag(top, "figures_of", whose)

    def _send_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        """Send what is new of a row's metrics, with the number of runs that they are means of as their step."""
        known = self._client.get_run(run_id).data.metrics
        news = {name: value for name, value in metrics.items() if known.get(metric_name(name)) != value}
        send_metrics(self._client, run_id, metrics_of(news, seconds=time.time(), step=step))

    def _send_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        texts = {name: str(value) for name, value in parameters.items()}
        send_parameters(self._client, self._client.get_run(run_id), texts, "")

    def _nest(self, folder: Path, parent: str, trial: FrozenTrial, result: Mapping[str, Any]) -> None:
        """Send what a run still lacks, and put it under its parent, where it began while MLflow was away."""
        state = TrackingState.read(folder)
        if not state.ended:
            # By its name, also where the environment has its number: MLFLOW_RUN_ID is not for one run of many.
            experiment = self._client.get_experiment(self._experiment_id).name
            send_rest(RunFolder(folder), MLflowTracker(uri=self._tracker.uri, experiment=experiment))
            state = TrackingState.read(folder)
        if state.run_id is None:
            return
        entry = self._client.get_run(state.run_id)
        if entry.data.tags.get(_PARENT) != parent:
            self._client.set_tag(state.run_id, _PARENT, parent)
        for row in (parent, self._run_ids[""]):
            share_datasets(self._client, entry, row)
        self._send_metrics(state.run_id, cost_metrics(result), step=0)
        self._send_parameters(state.run_id, _parameters_of(trial))


def _parameters_of(trial: FrozenTrial) -> dict[str, Any]:
    return {name: value for name, value in trial.params.items() if name != "seed"}

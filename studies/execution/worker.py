"""Worker: takes trials from the study's queue, has them run, and records in Optuna what came of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.planning.units import duration
from hpm.tracking.mlflow import MLflowTracker
from studies.analysis.results import RESULTS
from studies.definition.base import Definition, PlannedRun
from studies.definition.loading import load_definition
from studies.definition.trials import root_number
from studies.execution.options import StudyOptions
from studies.execution.placement import Placement
from studies.execution.queue import ERROR, fail_dead_trials, give_back, is_anybody_at_work, retry, take
from studies.execution.retrying_storage import OUTAGES, RetryingStorage, TrialLost
from studies.execution.signals import Stopped, StopSignals
from studies.execution.storage import exclusively, load_study, open_storage, storage_errors
from studies.execution.trial_runner import Repeated, RunDied, RunFailed, TrialPruned, TrialRunner
from studies.reporting.mlflow import StudyTracker

_LONGEST_ERROR = 1000  # characters that the storage keeps


def run_worker(
    kind: str,
    options: StudyOptions,
    number: int,
    report: Callable[[str], None],
    *,
    definition: Definition | None = None,
) -> None:
    """Do one worker's share of a study.

    Args:
        kind: "ablation" or "search".
        options: what the study was started with.
        number: the worker's, from 0.
        report: takes lines for people.
        definition: the study's, where it has been loaded already.

    Raises:
        Stopped: after SIGINT, SIGTERM or SIGHUP.
        UserError: for a storage that cannot be used.
    """
    definition = definition or load_definition(kind, options.configs, options.bindings)
    tracker = study_tracker(definition, options.name)
    placement = Placement.of_worker(number, workers=options.workers, processes=options.processes)
    with storage_errors(options.storage):
        storage = open_options_storage(options)
        study = load_study(storage, options.name)
        Worker(study, storage, definition, options, tracker=tracker, placement=placement, report=report).work()


def open_options_storage(options: StudyOptions) -> RDBStorage:
    """Open the storage that a study was started with."""
    return open_storage(options.storage, heartbeat=options.heartbeat, grace=options.grace, retries=options.retries)


def study_tracker(definition: Definition, name: str, about: str = "") -> StudyTracker:
    """The tracker that sends a study where its runs are sent.

    Args:
        definition: the study's.
        name: the study's.
        about: what it is, in Markdown; empty in workers.
    """
    tracker = parse_config(definition.base, definition.bindings).parameter("Monitoring", "tracker")
    # A study's own entries are MLflow's: it has none where its runs are sent elsewhere.
    wanted = tracker if isinstance(tracker, MLflowTracker) else MLflowTracker(enabled=False)
    return StudyTracker(wanted, name, definition, about)


class Worker:
    """Works until the queue is empty and nobody else is at work either.

    Args:
        study: whose trials it takes.
        storage: that holds the study.
        definition: what a trial is.
        options: the folder of the runs, and how long and how often to look.
        tracker: copies the study to MLflow.
        placement: where runs compute.
        report: takes lines for people.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: RDBStorage,
        definition: Definition,
        options: StudyOptions,
        *,
        tracker: StudyTracker,
        placement: Placement,
        report: Callable[[str], None],
    ) -> None:
        self._study = study
        self._definition = definition
        self._tracker = tracker
        self._report = report
        self._poll = options.poll
        self._deadline = None if options.timeout is None else time.monotonic() + options.timeout
        self._started, self._done_before = time.monotonic(), 0
        self._stop = StopSignals()
        self._storage = RetryingStorage(storage, self._stop, report, options.poll)
        self._runner = TrialRunner(
            study,
            definition,
            options.folder,
            storage=self._storage,
            tracker=tracker,
            placement=placement,
            stop=self._stop,
            poll=options.poll,
        )
        if definition.pruner is not None:
            study.pruner = definition.pruner

    def work(self) -> None:
        """Take trials until none is left.

        Raises:
            Stopped: after SIGINT, SIGTERM or SIGHUP.
        """
        self._started, self._done_before = time.monotonic(), _count_done(self._trials())
        with self._stop:
            while self._stop.received is None and not self._is_late():
                self._fail_dead_trials()
                trial = self._storage.ask(self._take)
                if trial is not None:
                    self._try(trial)
                elif self._storage.ask(lambda: is_anybody_at_work(self._study)):
                    time.sleep(self._poll)  # whose trial comes back, should they die
                else:
                    break
        self._stop.check()

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.ask(lambda: self._study.get_trials(deepcopy=False))

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _fail_dead_trials(self) -> None:
        # After an outage the others get time to show that they live.
        if time.monotonic() > self._storage.last_outage + 2 * self._storage.heartbeat_interval:
            self._storage.ask(lambda: fail_dead_trials(self._study, self._storage.storage))

    def _take(self) -> optuna.Trial | None:
        return take(self._study, self._storage.storage, self._definition)

    def _try(self, trial: optuna.Trial) -> None:
        """Run a trial, and record whatever may become of it."""
        number = self._storage.ask(lambda: root_number(self._storage.storage.get_trial(trial._trial_id)))
        if (sampler := self._definition.sampler_of(number)) is not None:
            self._study.sampler = sampler
        try:
            values, runs = self._runner.run(trial, number)
        except Repeated as repeated:
            self._repeat(trial, repeated.other)
        except TrialPruned:
            self._record(trial, TrialState.PRUNED)
            self._report(f"trial {trial.number}: pruned")
        except (RunFailed, UserError) as error:
            self._fail(trial, str(error))
        except RunDied as error:
            self._retry(trial, str(error))
        except (TrialLost, optuna.exceptions.UpdateFinishedTrialError):
            self._report(f"trial {trial.number}: was taken for dead and is left to others")
        except Stopped:
            self._storage.ask(lambda: give_back(trial, self._storage.storage))
        except OUTAGES:
            raise
        except Exception as error:  # one trial that cannot be run is not the end of the study
            self._fail(trial, f"{type(error).__name__}: {error}")
        else:
            self._record(trial, TrialState.COMPLETE, values=values)
            self._report(f"trial {trial.number}, {_describe(runs)}: {self._format(values)}{self._left()}")
        self._tracker.update(self._study, trial.number)

    def _left(self) -> str:
        """How many trials of the study are done, by whom ever, and how long the others take at the pace since."""
        trials = self._trials()
        done = _count_done(trials)
        if done == len(trials):
            return ""
        hours = (time.monotonic() - self._started) / 3600 / max(1, done - self._done_before) * (len(trials) - done)
        return f"  ({done} of {len(trials)} trials done, about {duration(hours)} left)"

    def _format(self, values: Sequence[float]) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in zip(self._definition.objectives, values, strict=True))

    def _fail(self, trial: optuna.Trial, reason: str) -> None:
        self._record(trial, TrialState.FAIL, error=reason)
        self._report(f"trial {trial.number}: failed, {reason}")

    def _retry(self, trial: optuna.Trial, reason: str) -> None:
        """Try a run that died again, like the trial of a worker that died, from its newest checkpoint."""

        def fail_and_enqueue() -> bool:
            with exclusively(self._storage.storage):
                return self._record_once(trial, TrialState.FAIL, error=reason) and retry(
                    self._study, self._storage.storage, trial._trial_id
                )

        again = self._storage.ask(fail_and_enqueue)
        self._report(f"trial {trial.number}: {reason}{'; it is tried again' if again else ''}")

    def _repeat(self, trial: optuna.Trial, other: FrozenTrial) -> None:
        """Record what came of the trial that has the same setting, or wait until that is known."""
        if not other.state.is_finished():
            self._storage.ask(lambda: give_back(trial, self._storage.storage))
            self._report(f"trial {trial.number}: waits for trial {other.number}, which has the same setting")
            return

        def copy() -> None:
            trial.set_user_attr(RESULTS, other.user_attrs.get(RESULTS, []))
            for step, value in other.intermediate_values.items():
                trial.report(value, step)

        try:
            self._storage.ask(copy)
        except optuna.exceptions.UpdateFinishedTrialError:
            self._report(f"trial {trial.number}: was taken for dead and is left to others")
            return
        complete = other.state == TrialState.COMPLETE
        self._record(trial, other.state, values=other.values if complete else None)
        outcome = self._format(other.values) if complete else "pruned"
        self._report(f"trial {trial.number}: has the setting of trial {other.number} and so its outcome, {outcome}")

    def _record(self, trial: optuna.Trial, state: TrialState, **outcome: Any) -> None:
        self._storage.ask(lambda: self._record_once(trial, state, **outcome))

    def _record_once(
        self, trial: optuna.Trial, state: TrialState, *, values: list[float] | None = None, error: str | None = None
    ) -> bool:
        """Record what became of a trial.

        Returns:
            Whether it was still this worker's.
        """
        try:
            if error is not None:
                trial.set_user_attr(ERROR, error[:_LONGEST_ERROR])
            self._study.tell(trial, values, state=state)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as reason:
            self._report(f"trial {trial.number}: was taken for dead; another worker finds its run ({reason})")
            return False
        return True


def _count_done(trials: Sequence[FrozenTrial]) -> int:
    return sum(trial.state.is_finished() for trial in trials)


def _describe(runs: Sequence[PlannedRun]) -> str:
    seeds = f" seed {runs[0].seed}" if len(runs) == 1 else f", {len(runs)} seeds"
    return f"{runs[0].variant}{seeds}"

"""A worker: takes trials from the study's queue, lets `hpm pretrain` train them, and tells Optuna what came of it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import InterfaceError, OperationalError

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.planning.plan import make_plan
from hpm.tracking.redact import without_password
from studies.definition.base import Definition, PlannedRun, Search
from studies.execution.run_process import Placement, RunProcess
from studies.execution.storage import ERROR, exclusively, fail_dead_trials, give_back, retry, root_number, take
from studies.reporting.mlflow import StudyTracker

Say = Callable[[str], None]
_INTERRUPTED = 75  # exit code of a run that was told to stop, and saved
_IN_USE = "is being written by another process"
_AWAY = (OperationalError, InterfaceError, optuna.exceptions.StorageInternalError)
_PATIENCE_WITH_STORAGE, _PATIENCE_WHEN_STOPPED = 600.0, 20.0  # seconds that a storage may be away


class Stopped(Exception):
    """The worker was told to stop; its trial is back in the queue."""


class _Lost(Exception):
    """The trial is no longer this worker's: it was taken for dead."""


class _Failed(Exception):
    """The run ended with an error that trying again would repeat."""


class _Died(Exception):
    """The run ended without saying why, e.g. killed for memory."""


class _Pruned(Exception):
    """The pruner sees no hope."""


class Worker:
    """Works until the queue is empty and nobody else is at work either.

    Args:
        study: whose trials.
        storage: that holds it.
        definition: what a trial is.
        folder: of the study; runs go to folders of their own in it.
        tracker: copies the study to MLflow.
        placement: where runs compute.
        report: takes lines for people.
        poll: seconds between looks at a run and at the queue.
        deadline: `time.monotonic()` after which no trial is started; None for none.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: RDBStorage,
        definition: Definition,
        folder: Path,
        *,
        tracker: StudyTracker,
        placement: Placement,
        report: Say,
        poll: float = 1.0,
        deadline: float | None = None,
    ) -> None:
        self.study = study
        self.storage = storage
        self.definition = definition
        self.folder = folder
        self.tracker = tracker
        self.placement = placement
        self.report = report
        self.poll = poll
        self.deadline = deadline
        self._stop: str | None = None
        self._outage = -math.inf  # when the storage was last away
        self._root = -1  # number of the trial at hand, or of the first that it tries again
        if isinstance(definition, Search) and definition.pruner is not None:
            study.pruner = definition.pruner

    def work(self) -> None:
        """Take trials until none is left.

        Raises:
            Stopped: after SIGINT or SIGTERM.
        """
        with self._signals():
            while self._stop is None and (self.deadline is None or time.monotonic() < self.deadline):
                if time.monotonic() > self._outage + 2 * self._interval:
                    # After an outage the others get time to show that they live.
                    self._retry_storage(lambda: fail_dead_trials(self.study, self.storage))
                trial = self._retry_storage(self._take)
                if trial is not None:
                    self._try(trial)
                elif self._retry_storage(lambda: self._others_at_work()):
                    time.sleep(self.poll)  # whose trial comes back, should they die
                else:
                    break
        if self._stop is not None:
            raise Stopped(self._stop)

    @property
    def _interval(self) -> int:
        return self.storage.get_heartbeat_interval() or 60

    def _take(self) -> optuna.Trial | None:
        trial = take(self.study, self.storage, self.definition)
        if trial is not None:
            self._root = root_number(self.storage.get_trial(trial._trial_id))
            if isinstance(self.definition, Search):
                self.study.sampler = self.definition.sampler_of(self._root)
        return trial

    def _others_at_work(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _try(self, trial: optuna.Trial) -> None:
        """Everything that can become of a trial."""
        try:
            values, runs = self._runs(trial)
        except _Pruned:
            self._tell(trial, TrialState.PRUNED)
            self.report(f"trial {trial.number}: pruned")
        except (_Failed, UserError) as error:
            self._tell(trial, TrialState.FAIL, error=str(error))
            self.report(f"trial {trial.number}: failed, {error}")
        except _Died as error:
            self._retry(trial, str(error))
        except (_Lost, optuna.exceptions.UpdateFinishedTrialError):
            self.report(f"trial {trial.number}: was taken for dead and is left to others")
        except Stopped:
            self._retry_storage(lambda: give_back(trial, self.storage))
        except _AWAY:
            raise
        except Exception as error:  # one trial that cannot be run is not the end of the study
            self._tell(trial, TrialState.FAIL, error=f"{type(error).__name__}: {error}")
            self.report(f"trial {trial.number}: failed, {type(error).__name__}: {error}")
        else:
            self._tell(trial, TrialState.COMPLETE, values=values)
            shown = "  ".join(
                f"{name} {value:.4g}" for name, value in zip(self.definition.objectives, values, strict=True)
            )
            self.report(f"trial {trial.number}, {runs[0].variant}{_seeds(runs)}: {shown}")
        self.tracker.update(self.study, trial.number)

    def _runs(self, trial: optuna.Trial) -> tuple[list[float], list[PlannedRun]]:
        """Train a trial's runs, one after the other; the objectives are means over them."""
        runs = self._retry_storage(lambda: self.definition.plan(trial, self._root))
        results: list[dict[str, Any]] = []
        for number, run in enumerate(runs):
            results.append(self._train(trial, run, first=number == 0))
            self._retry_storage(lambda: trial.set_user_attr("results", results))
            if isinstance(self.definition, Search) and self.definition.by_seed:
                last = number == len(runs) - 1  # a trial that is complete is not pruned
                self._report(trial, results[-1]["metrics"][self.definition.metric], number, prune=not last)
        values = [sum(result["metrics"][self.definition.metric] for result in results) / len(results)]
        if isinstance(self.definition, Search) and self.definition.cost is not None:
            values.append(sum(result["cost"][self.definition.cost] for result in results) / len(results))
        return values, runs

    def _train(self, trial: optuna.Trial, run: PlannedRun, *, first: bool) -> dict[str, Any]:
        """Train one run, or find it trained.

        Returns:
            What the study keeps of it.
        """
        counted = self._count(run)
        extra = self.tracker.bindings(self.study, run, self._root)
        process = RunProcess(
            run,
            self.folder / run.name,
            self.folder / "logs" / f"{run.name}.txt",
            extra,
            self.placement,
            imports=self._imports(),
        )
        try:
            code = self._watch(trial, process, first=first)
        finally:
            process.stop()
        summary = process.summary()
        if code == 0 and summary is not None:
            return self._result(run, process, summary, counted)
        told = process.log_tail()
        # Under torchrun every error is exit code 1; what the run said tells them apart.
        own = code in (2, 3) or (code == 1 and told.startswith(("error:", "stopped:")) and "SIG" not in told)
        if own and _IN_USE not in told:
            raise _Failed(f"{run.name}: {told}")
        raise _Died(f"{run.name}: exit code {code}, {told}")

    def _imports(self) -> Path | None:
        """A config with the study's own imports, for its runs."""
        if not self.definition.imports:
            return None
        path = self.folder / "imports.gin"
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(self.definition.imports) + "\n")
        return path

    def _watch(self, trial: optuna.Trial, process: RunProcess, *, first: bool) -> int:
        """The run's exit code; meanwhile show that the trial lives, and prune it."""
        beat, prunes = 0.0, first and isinstance(self.definition, Search) and not self.definition.by_seed
        while True:
            code = process.wait(self.poll)
            if code is None and self._stop is not None:
                process.stop()
                raise Stopped(self._stop)
            if code == _INTERRUPTED and self._stop is not None:  # the signal reached the run before us
                raise Stopped(self._stop)
            if code is not None:
                return code
            if time.monotonic() - beat > self._interval and self._sign_of_life(trial):
                beat = time.monotonic()
            if prunes:
                for row in process.new_probes():
                    self._report(trial, row.get(self.definition.probe), row["step"])  # type: ignore[attr-defined]

    def _sign_of_life(self, trial: optuna.Trial) -> bool:
        """Neither a storage that is away for a moment nor one that comes back ends a run.

        Returns:
            Whether the storage knows.
        """
        try:
            state = self.storage.get_trial(trial._trial_id).state
            if state == TrialState.RUNNING:
                self.storage.record_heartbeat(trial._trial_id)
        except _AWAY as error:
            if time.monotonic() > self._outage + self._interval:
                self.report(f"the storage does not answer: {_reason(error)}; the run goes on")
            self._outage = time.monotonic()
            return False
        if state != TrialState.RUNNING:
            raise _Lost
        return True

    def _report(self, trial: optuna.Trial, value: float | None, step: int, *, prune: bool = True) -> None:
        if value is None or not isinstance(self.definition, Search) or self.definition.pruner is None:
            return
        self._retry_storage(lambda: trial.report(value, step))
        if prune and self._retry_storage(trial.should_prune):
            raise _Pruned

    def _count(self, run: PlannedRun) -> tuple[float, str]:
        """FLOPs of the training for an image, counted from the configuration; and what tells that from others."""
        config = parse_config(run.configs, run.bindings)
        plan = make_plan(config)
        return plan.step_flops / plan.batch_size, config.fingerprint()

    def _result(
        self, run: PlannedRun, process: RunProcess, summary: dict[str, Any], counted: tuple[float, str]
    ) -> dict[str, Any]:
        metrics = {name: value for name, value in summary["metrics"].items() if math.isfinite(value)}
        if self.definition.metric not in metrics:
            raise _Failed(f"{run.name} has no {self.definition.metric}; it has {', '.join(sorted(metrics)) or 'none'}")
        return {
            "name": run.name,
            "variant": run.variant,
            "seed": run.seed,
            "folder": str(process.folder.path.resolve()),
            "metrics": metrics,
            "data": summary["data"],
            "device": summary["device"],
            "commit": summary["commit"],
            "config": counted[1],
            "cost": {
                "images": summary["images"],
                "training_seconds": summary["training_seconds"],
                "flops": counted[0] * summary["images"],
            },
        }

    # Nothing lost

    def _tell(
        self, trial: optuna.Trial, state: TrialState, *, values: list[float] | None = None, error: str | None = None
    ) -> None:
        self._retry_storage(lambda: self._record_outcome(trial, state, values=values, error=error))

    def _record_outcome(
        self, trial: optuna.Trial, state: TrialState, *, values: list[float] | None = None, error: str | None = None
    ) -> bool:
        """Whether the trial was still this worker's to tell of."""
        try:
            if error is not None:
                trial.set_user_attr(ERROR, error[:1000])
            self.study.tell(trial, values, state=state)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as reason:
            self.report(f"trial {trial.number}: was taken for dead; another worker finds its run ({reason})")
            return False
        return True

    def _retry(self, trial: optuna.Trial, reason: str) -> None:
        """A run that died is tried again, like the trial of a worker that died, from its newest checkpoint."""

        def fail_and_enqueue() -> bool:
            with exclusively(self.storage):
                return self._record_outcome(trial, TrialState.FAIL, error=reason) and retry(
                    self.study, self.storage, trial._trial_id
                )

        again = self._retry_storage(fail_and_enqueue)
        self.report(f"trial {trial.number}: {reason}{'; to be tried again' if again else ''}")

    def _retry_storage(self, ask: Callable[[], Any]) -> Any:
        """Ask the storage; where it is away, again, for some minutes."""
        start, told = time.monotonic(), False
        while True:
            try:
                return ask()
            except _AWAY as error:
                patience = _PATIENCE_WITH_STORAGE if self._stop is None else _PATIENCE_WHEN_STOPPED
                self._outage = time.monotonic()
                if self._outage > start + patience:
                    raise
                if not told:
                    self.report(f"the storage does not answer: {_reason(error)}; trying again")
                told = True
                time.sleep(self.poll)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def notice(number: int, frame: FrameType | None) -> None:
            self._stop = signal.Signals(number).name

        before = {number: signal.signal(number, notice) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def stop_signals() -> list[signal.Signals]:
    """What ends a study in order; not what is ignored, as a closing terminal is under nohup."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]


def _reason(error: Exception) -> str:
    return without_password(str(error.__cause__ or error).splitlines()[0])[:200]


def _seeds(runs: list[PlannedRun]) -> str:
    return f" seed {runs[0].seed}" if len(runs) == 1 else f", {len(runs)} seeds"

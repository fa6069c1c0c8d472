"""TrialRunner: has `hpm pretrain` train the runs of a trial, and finds out what came of each."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.planning.plan import make_plan
from hpm.runtime.files import write_text
from studies.analysis.results import RESULTS
from studies.definition.base import Definition, PlannedRun
from studies.execution.placement import Placement
from studies.execution.repeats import settle
from studies.execution.retrying_storage import RetryingStorage
from studies.execution.run_process import RunProcess
from studies.execution.signals import StopSignals
from studies.reporting.mlflow import StudyTracker


class RunFailed(Exception):
    """The run ended with an error that trying again would repeat."""


class RunDied(Exception):
    """The run ended in a way that trying again may not repeat, e.g. killed for memory."""


class TrialPruned(Exception):
    """The pruner sees no hope."""


class Repeated(Exception):
    """Another trial has the same setting.

    Args:
        other: that trial, as it stands.
    """

    def __init__(self, other: FrozenTrial) -> None:
        super().__init__(f"trial {other.number} has the same setting")
        self.other = other


class _Budget(NamedTuple):
    """What a run's configuration says before it is trained.

    Args:
        flops_per_image: of the training, counted; what an image curriculum computes between epochs too.
        config: tells the configuration from others.
    """

    flops_per_image: float
    config: str


class TrialRunner:
    """Trains the runs of a trial, one after the other.

    Args:
        study: whose trials.
        definition: what a trial is.
        folder: of the study; runs go to folders of their own in it.
        storage: is told what came of each run.
        tracker: says where in MLflow a run appears.
        placement: where runs compute.
        stop: the signals that end a run.
        poll: seconds between looks at a run.
    """

    def __init__(
        self,
        study: optuna.Study,
        definition: Definition,
        folder: Path,
        *,
        storage: RetryingStorage,
        tracker: StudyTracker,
        placement: Placement,
        stop: StopSignals,
        poll: float,
    ) -> None:
        self._study = study
        self._definition = definition
        self._folder = folder
        self._storage = storage
        self._tracker = tracker
        self._placement = placement
        self._stop = stop
        self._poll = poll

    def run(self, trial: optuna.Trial, number: int) -> tuple[list[float], list[PlannedRun]]:
        """Train the runs of a trial.

        Args:
            trial: the trial.
            number: its number, or that of the first that it tries again.

        Returns:
            The objectives, and the runs.

        Raises:
            RunFailed: if trying again would not help.
            RunDied: if it may.
            Repeated: if another trial has trained the same, or does so now.
            TrialPruned: if the pruner says so.
            TrialLost: if the trial was taken for dead.
            Stopped: after a signal.
        """
        runs = self._storage.ask(lambda: self._definition.plan(trial, number))
        other = self._storage.ask(lambda: settle(self._study, self._storage.storage, self._definition, trial))
        if other is not None:
            raise Repeated(other)
        results: list[dict[str, Any]] = []
        for place, run in enumerate(runs):
            results.append(self._train(trial, run, number, first=place == 0))
            self._storage.ask(lambda: trial.set_user_attr(RESULTS, results))
            if self._definition.reports_seeds:
                last = place == len(runs) - 1  # a trial that is complete is not pruned
                self._report(trial, results[-1]["metrics"][self._definition.metric], place, prune=not last)
        return self._definition.objective_values(results), runs

    def _train(self, trial: optuna.Trial, run: PlannedRun, number: int, *, first: bool) -> dict[str, Any]:
        """Train one run, or find it trained.

        Returns:
            What the study keeps of it.
        """
        budget = _count_budget(run, self._placement.processes)
        process = RunProcess(
            run,
            self._folder / run.name,
            self._folder / "logs" / f"{run.name}.txt",
            self._tracker.bindings(self._study, run, number),
            self._placement,
            imports=self._imports(run),
        )
        try:
            code = self._watch(trial, process, probes=first and self._definition.reports_probes)
        finally:
            process.stop()
        outcome = process.outcome()
        if outcome is None:
            self._stop.check()
            raise RunDied(f"{run.name} died with exit code {code}: {process.log_tail()}")
        if outcome.kind == "complete":
            return self._result(run, process, budget)
        if not outcome.retryable:
            raise RunFailed(f"{run.name}: {outcome.message}")
        self._stop.check()  # the signal may have reached the run before this process
        raise RunDied(f"{run.name}: {outcome.message}")

    def _imports(self, run: PlannedRun) -> Path | None:
        """A config with the study's own imports, for a run; one for each, as several workers may write at a time."""
        if not self._definition.imports:
            return None
        path = self._folder / "logs" / f"{run.name}.imports.gin"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(self._definition.imports) + "\n")
        return path

    def _watch(self, trial: optuna.Trial, process: RunProcess, *, probes: bool) -> int:
        """Wait for the run's end and return its exit code; meanwhile show that the trial lives, and prune it."""
        last_sign = -math.inf
        while (code := process.wait(self._poll)) is None:
            self._stop.check()
            now = time.monotonic()
            if now - last_sign > self._storage.heartbeat_interval and self._storage.show_life(trial):
                last_sign = now
            if probes:
                self._report_probes(trial, process.new_probes())
        return code

    def _report_probes(self, trial: optuna.Trial, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            if self._definition.probe in row:
                self._report(trial, row[self._definition.probe], row["step"])

    def _report(self, trial: optuna.Trial, value: float, step: int, *, prune: bool = True) -> None:
        """Tell the pruner how a trial does."""
        self._storage.ask(lambda: trial.report(value, step))
        if prune and self._storage.ask(trial.should_prune):
            raise TrialPruned

    def _result(self, run: PlannedRun, process: RunProcess, budget: _Budget) -> dict[str, Any]:
        try:
            summary, fingerprints = process.summary(), process.fingerprints()
        except UserError as error:
            raise RunFailed(f"{run.name}: {error}") from error
        measured = {name: value for name, value in summary["metrics"].items() if value is not None}
        metrics = {name: value for name, value in measured.items() if math.isfinite(value)}
        if self._definition.metric not in metrics:
            known = ", ".join(sorted(metrics)) or "none"
            raise RunFailed(f"{run.name} has no {self._definition.metric}; it has {known}")
        return {
            "name": run.name,
            "variant": run.variant,
            "seed": run.seed,
            "folder": str(process.folder.path.resolve()),
            "metrics": metrics,
            "scored_images": summary.get("scored_images", {}),
            "skipped_steps": summary.get("skipped_steps"),
            "data": summary["data"],
            "fingerprints": fingerprints,
            "device": summary["device"],
            "commit": summary["commit"],
            "config": budget.config,
            "cost": {
                "images": summary["images"],
                "training_seconds": summary["training_seconds"],
                "flops": budget.flops_per_image * summary["images"],
            },
        }


def _count_budget(run: PlannedRun, processes: int) -> _Budget:
    config = parse_config(run.configs, run.bindings)
    plan = make_plan(config, gpus=processes)
    return _Budget(plan.flops / (plan.steps * plan.batch_size), config.fingerprint())

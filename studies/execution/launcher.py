"""Starting a study: check its definition, open its storage, fill the queue and set workers to work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import optuna
from rich.console import Console

from hpm.config import find_config
from hpm.errors import OUTCOME_VARIABLE, Interrupted, UserError
from hpm.runs.title import header_of
from hpm.runtime.signals import end_with_parent
from hpm.tracking.note import note_of
from studies.definition.base import Definition
from studies.definition.loading import load_definition
from studies.execution.options import StudyOptions
from studies.execution.placement import Placement
from studies.execution.queue import enqueue
from studies.execution.signals import Stopped, StopSignals
from studies.execution.storage import exclusively, open_storage_to_read, open_study, storage_errors, study_names
from studies.execution.worker import open_options_storage, run_worker, study_tracker
from studies.reporting.files import check_study_folder
from studies.reporting.mlflow import StudyTracker


class WorkedStudy(NamedTuple):
    """A study that has been worked through.

    Args:
        study: with its results.
        definition: as it was when the study was started.
        tracker: copies it to MLflow.
    """

    study: optuna.Study
    definition: Definition
    tracker: StudyTracker


def work_through(kind: str, options: StudyOptions, console: Console, *, trials: int | None = None) -> WorkedStudy:
    """Work through a study, or go on with it.

    Args:
        kind: "ablation" or "search".
        options: what it is started with.
        console: where a person reads.
        trials: of a search, how many it is to have in all.

    Raises:
        UserError: before anything is trained, for whatever is wrong with it.
        Interrupted: after SIGINT, SIGTERM or SIGHUP; every trial that was running is back in the queue.
    """
    options.check()
    _check_folder(options)
    Placement.of_worker(0, workers=options.workers, processes=options.processes)
    with console.status("checking ..."):
        definition = load_definition(kind, options.configs, options.bindings)
        identity = definition.check()
        definition.read_images()
        about = note_of(header_of(find_config(options.configs[0])), command=options.command(definition.command, trials))
        tracker = study_tracker(definition, options.name, about)
    with storage_errors(options.storage):
        storage = open_options_storage(options)
        with exclusively(storage):
            study = open_study(storage, options.name, definition, identity)
            added = enqueue(study, definition, trials=trials)
    tracker.prepare(study)
    console.print(
        f"study {options.name}: {_count_states(study)}; {added} added\nruns: {options.folder}; MLflow: "
        f"{tracker.where if tracker.enabled else 'off'}",
    )
    if options.workers == 1:
        try:
            run_worker(kind, options, 0, line_printer(console), definition=definition)
        except Stopped as stopped:
            raise Interrupted(f"{stopped}: {_count_states(study)}; go on with the same command") from stopped
    else:
        _work_together(kind, options, study, console)
    return WorkedStudy(study, definition, tracker)


def _check_folder(options: StudyOptions) -> None:
    """Refuse a folder that holds other things than a study's.

    Raises:
        UserError: naming it, or the storage where that cannot be read.
    """
    with storage_errors(options.storage):
        storage = open_storage_to_read(options.storage)
        is_new = storage is None or options.name not in study_names(storage)
    check_study_folder("--output" if options.output else "the study's folder", options.folder, is_new=is_new)


def _work_together(kind: str, options: StudyOptions, study: optuna.Study, console: Console) -> None:
    """Have workers work as processes of their own; one that dies leaves its trial to the others."""
    workers: list[subprocess.Popen[str]] = []

    def terminate() -> None:
        for process in workers:
            if process.poll() is None:
                process.terminate()

    with StopSignals(terminate) as stop:
        for number in range(options.workers):
            if stop.received is None:
                workers.append(_start_worker(kind, options, number))
        codes = [worker.wait() for worker in workers]
    if stop.received is not None:
        raise Interrupted(f"{stop.received}: {_count_states(study)}; go on with the same command")
    for number, code in enumerate(codes):
        if code:
            console.print(f"worker {number} ended early, exit code {code}; the others went on", style="yellow")
    if all(codes):
        raise UserError(
            f"all workers ended early, exit codes {codes}; {_count_states(study)}; go on with the same command"
        )


def _start_worker(kind: str, options: StudyOptions, number: int) -> subprocess.Popen[str]:
    """Start a worker; its options, with the storage's password, go where other users do not see them."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "studies", "worker", kind, str(number)],
        stdin=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != OUTCOME_VARIABLE},
        start_new_session=True,
        preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),
    )
    assert worker.stdin is not None
    with suppress(BrokenPipeError):  # it ended at once, which its exit code tells
        worker.stdin.write(options.to_json())
        worker.stdin.close()
    return worker


def line_printer(console: Console, prefix: str = "") -> Callable[[str], None]:
    """A function that prints lines as they are.

    Args:
        console: where a person reads.
        prefix: what stands before each line.
    """
    return lambda text: console.print(f"{prefix}{text}")


def _count_states(study: optuna.Study) -> str:
    counts = Counter(trial.state.name.lower() for trial in study.get_trials(deepcopy=False))
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no trials yet"

"""Starting a study: read and check its definition, open its storage, fill the queue and set workers to work."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import gin
import optuna
import torch
from optuna import pruners, samplers
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from hpm.config import parse_config, register_configurables
from hpm.errors import Interrupted, UserError
from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.redact import without_password
from studies.definition.base import Ablation, Definition, Search
from studies.execution.run_process import Placement, end_with_parent
from studies.execution.storage import enqueue, exclusively, load_study, open_storage, open_study, quiet_optuna
from studies.execution.worker import Stopped, Worker, stop_signals
from studies.reporting.mlflow import StudyTracker

_KINDS = {"ablation": Ablation, "search": Search}
_OPTUNAS = (
    samplers.TPESampler,
    samplers.RandomSampler,
    samplers.GPSampler,
    samplers.NSGAIISampler,
    pruners.MedianPruner,
    pruners.PercentilePruner,
    pruners.HyperbandPruner,
    pruners.SuccessiveHalvingPruner,
    pruners.WilcoxonPruner,
    pruners.PatientPruner,
)


@dataclass(frozen=True)
class Launch:
    """What a study is started with on a machine.

    Args:
        kind: "ablation" or "search".
        configs: gin files that define it.
        bindings: over them.
        study: its name; None for the first config's.
        storage: URL.
        output: the folder of its runs; None for `runs/STUDY`.
        workers: processes that take trials.
        processes: of each run; more than one through torchrun, each with a device of its own where there are some.
        heartbeat: seconds between signs of life.
        grace: seconds without one after which a trial counts as dead.
        retries: of a dead worker's trial.
        timeout: seconds after which no trial is started; None for none.
        poll: seconds between a worker's looks at its run.
    """

    kind: str
    configs: tuple[str, ...]
    bindings: tuple[str, ...]
    study: str | None
    storage: str
    output: Path | None
    workers: int = 1
    processes: int = 1
    heartbeat: int = 60
    grace: int = 300
    retries: int = 3
    timeout: float | None = None
    poll: float = 1.0

    @property
    def name(self) -> str:
        """The study's."""
        return self.study or Path(self.configs[0]).stem

    @property
    def folder(self) -> Path:
        """Of its runs."""
        return self.output or Path("runs") / self.name

    def open(self) -> RDBStorage:
        """Its storage."""
        return open_storage(self.storage, heartbeat=self.heartbeat, grace=self.grace, retries=self.retries)

    def command(self, worker: int) -> list[str]:
        """What starts a worker of it."""
        words = [sys.executable, "-m", "studies", "work", self.kind, *self.configs]
        for text in self.bindings:
            words += ["--binding", text]
        timeout = [] if self.timeout is None else ["--timeout", str(self.timeout)]
        return [
            *words,
            "--study",
            self.name,
            "--output",
            str(self.folder),
            "--workers",
            str(self.workers),
            "--processes",
            str(self.processes),
            "--heartbeat",
            str(self.heartbeat),
            "--grace",
            str(self.grace),
            "--retries",
            str(self.retries),
            "--poll",
            str(self.poll),
            "--worker",
            str(worker),
            *timeout,
        ]


def define(kind: str, configs: Sequence[str], bindings: Sequence[str]) -> Definition:
    """Read a study's definition.

    Raises:
        UserError: naming the binding at fault.
    """
    quiet_optuna()
    register_configurables([Ablation, Search, *_OPTUNAS])
    part = _KINDS[kind].__name__
    config = parse_config(configs, bindings)
    if not any(statement.key[1].endswith(f".{part}") for statement in config.statements):
        raise UserError(
            f"{configs[0]} binds nothing of {part}; `ablate` takes a file of an Ablation, `search` of a Search"
        )
    definition = config.build(part)
    definition.imports = config.imports
    if isinstance(definition, Search):
        # What the config says of the sampler is kept: the next config that is parsed clears it.
        bound = gin.get_bindings(definition.sampler_name)
        definition.sampler = functools.partial(definition.sampler, **bound)
    return definition


class Started(NamedTuple):
    """A study that has been worked through.

    Args:
        study: with its results.
        definition: as it was when it was started.
        tracker: copies it to MLflow.
    """

    study: optuna.Study
    definition: Definition
    tracker: StudyTracker


def start(launch: Launch, console: Console, *, trials: int | None = None) -> Started:
    """Work through a study, or go on with it.

    Raises:
        UserError: before anything is trained, for whatever is wrong with it.
        Interrupted: after SIGINT or SIGTERM; every trial that was running is back in the queue.
    """
    if launch.workers < 1 or launch.processes < 1:
        raise UserError(f"--workers {launch.workers} and --processes {launch.processes} must be at least 1")
    placement_of(launch, 0)
    with console.status("checking ..."):
        definition = define(launch.kind, launch.configs, launch.bindings)
        identity = definition.check()
        tracker = tracker_of(definition, launch.name)
    with _storage_errors(launch):
        storage = launch.open()
        with exclusively(storage):
            study = open_study(storage, launch.name, definition, identity)
            added = enqueue(study, definition, trials=trials)
    tracker.prepare(study, list(definition.variants) if isinstance(definition, Ablation) else [])
    console.print(
        f"study {launch.name}: {_states(study)}; {added} added\nruns: {launch.folder}; MLflow: "
        f"{tracker.where if tracker.enabled else 'off'}",
        highlight=False,
        soft_wrap=True,
    )
    if launch.workers == 1:
        try:
            work(launch, 0, _line(console), definition=definition)
        except Stopped as stopped:
            raise Interrupted(f"{stopped}: {_states(study)}; go on with the same command") from stopped
    else:
        _work_together(launch, study, console)
    return Started(study, definition, tracker)


@contextmanager
def _storage_errors(launch: Launch) -> Iterator[None]:
    """A storage that fails is the user's to mend, not ours to trace back."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        reason = without_password(str(error.__cause__ or error).splitlines()[0])
        raise UserError(f"--storage {without_password(launch.storage)} cannot be used: {reason}") from error


def tracker_of(definition: Definition, name: str) -> StudyTracker:
    """Sends the study where its runs are sent."""
    trainer = parse_config(definition.base, definition.bindings).build()
    return StudyTracker(trainer.tracker or MLflowTracker(enabled=False), name)


def work(launch: Launch, number: int, report: Callable[[str], None], *, definition: Definition | None = None) -> None:
    """One worker's share.

    Raises:
        Stopped: after SIGINT or SIGTERM.
    """
    definition = definition or define(launch.kind, launch.configs, launch.bindings)
    tracker = tracker_of(definition, launch.name)
    deadline = None if launch.timeout is None else time.monotonic() + launch.timeout
    with _storage_errors(launch):
        storage = launch.open()
        study = load_study(storage, launch.name)
        Worker(
            study,
            storage,
            definition,
            launch.folder,
            tracker=tracker,
            placement=placement_of(launch, number),
            report=report,
            poll=launch.poll,
            deadline=deadline,
        ).work()


def placement_of(launch: Launch, number: int) -> Placement:
    """A worker's devices: its own where there are GPUs, its share of the cores where there are none.

    Raises:
        UserError: where there are fewer devices than workers and processes.
    """
    count = torch.cuda.device_count()
    if count:
        wanted = launch.workers * launch.processes
        if wanted > count:
            raise UserError(
                f"--workers {launch.workers} with --processes {launch.processes} needs {wanted} GPUs, this machine has "
                f"{count}"
            )
        first = number * launch.processes
        return Placement(devices=tuple(range(first, first + launch.processes)), processes=launch.processes)
    cores = os.cpu_count() or 1
    return Placement(processes=launch.processes, threads=max(1, cores // (launch.workers * launch.processes)))


def _work_together(launch: Launch, study: optuna.Study, console: Console) -> None:
    """Workers as processes; one that dies leaves its trial to the others."""
    environment = {**os.environ, "HPM_STUDY_STORAGE": launch.storage}
    workers: list[subprocess.Popen[bytes]] = []
    stopped: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(signal.Signals(number).name)
        for process in workers:
            if process.poll() is None:
                process.terminate()

    before = {number: signal.signal(number, stop) for number in stop_signals()}
    try:
        for number in range(launch.workers):
            if not stopped:
                workers.append(
                    subprocess.Popen(
                        launch.command(number), env=environment, start_new_session=True, preexec_fn=end_with_parent
                    )
                )
        codes = [worker.wait() for worker in workers]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise Interrupted(f"{stopped[0]}: {_states(study)}; go on with the same command")
    for worker, code in enumerate(codes):
        if code:
            console.print(f"worker {worker} ended early, exit code {code}; the others went on", style="yellow")
    if all(codes):
        raise UserError(f"all workers ended early, exit codes {codes}; {_states(study)}; go on with the same command")


def _states(study: optuna.Study) -> str:
    counts = Counter(trial.state.name.lower() for trial in study.get_trials(deepcopy=False))
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no trials yet"


def _line(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)

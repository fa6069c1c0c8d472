"""Where a study lives: Optuna's storage, which is the truth; runs and MLflow hold more about the same trials.

A trial is a place in the queue that workers take from: all are enqueued when a study starts, a search's without
parameters. So their number is exact with any number of workers, and what a dead worker left goes back to the queue.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from hpm.errors import UserError
from hpm.tracking.redact import without_password
from studies.definition.base import Ablation, Definition, Search

_DEFINITION, _KEY, _WORKER, ERROR = "definition", "key", "worker", "error"  # user attributes
_TRIES = 3
_ADVISORY_LOCK = 7_236_711_905_481  # of all studies of a database; any number that nobody else uses


def quiet_optuna() -> None:
    """Keep to what a user can act on: the heartbeat has been called experimental since 2021."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(url: str, *, heartbeat: int = 60, grace: int = 300, retries: int = 3) -> RDBStorage:
    """Open a storage, or create it.

    Args:
        url: SQLite's serves one machine; several share PostgreSQL's.
        heartbeat: seconds between signs of life of a running trial.
        grace: seconds without one after which a trial counts as dead.
        retries: how often the trial of a dead worker is tried again.

    Raises:
        UserError: if it cannot be reached.
    """
    quiet_optuna()
    if heartbeat < 1 or grace <= heartbeat:
        raise UserError(f"--grace {grace} must be more than --heartbeat {heartbeat}, and that at least 1 second")
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        options["connect_args"] = {"timeout": 60}
    elif url.startswith("postgresql"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)  # else SQLAlchemy's version would choose
        options["connect_args"] = {"connect_timeout": 10}
    for tries in range(1, _TRIES + 1):
        try:
            return RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=heartbeat,
                grace_period=grace,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=retries),
            )
        except ImportError as error:
            raise UserError(
                f"--storage {without_password(url)} needs a driver that is not installed; "
                "pip install 'curriculum-masking[postgresql]' adds PostgreSQL's"
            ) from error
        except Exception as error:  # whoever creates the tables at the same time makes the first try fail
            if tries == _TRIES:
                reason = without_password(str(error).splitlines()[0])
                raise UserError(
                    f"--storage {without_password(url)} cannot be opened: {reason}; is the server running, and is the "
                    "address of the form sqlite:///FILE or postgresql://USER@HOST/DATABASE?"
                ) from error
            time.sleep(0.5 * tries)
    raise AssertionError


@contextmanager
def exclusively(storage: RDBStorage) -> Iterator[None]:
    """Keep other processes from changing the queue meanwhile.

    SQLite lets two processes read that a trial waits before either writes that it took it; a lock beside its file does
    not. PostgreSQL has locks of its own, which all machines see.
    """
    if storage.engine.dialect.name == "sqlite":
        with FileLock(f"{storage.engine.url.database}.lock"):
            yield
    elif storage.engine.dialect.name == "postgresql":
        with storage.engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            yield
    else:
        yield


def study_names(storage: RDBStorage) -> list[str]:
    """All studies of a storage."""
    return sorted(optuna.get_all_study_names(storage))


def load_study(storage: RDBStorage, name: str) -> optuna.Study:
    """A study that exists.

    Raises:
        UserError: naming those that do, where it does not.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        known = ", ".join(study_names(storage)) or "it holds none"
        raise UserError(f"there is no study {name!r} in the storage; {known}") from error


def open_study(storage: RDBStorage, name: str, definition: Definition, identity: dict[str, Any]) -> optuna.Study:
    """The study of this name and definition; created where there is none.

    Raises:
        UserError: if there is one of another definition.
    """
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=definition.directions)
    except optuna.exceptions.DuplicatedStudyError:
        study = load_study(storage, name)
    known = study.user_attrs.get(_DEFINITION)
    if known is None:
        study.set_user_attr(_KEY, uuid.uuid4().hex)
        study.set_user_attr(_DEFINITION, identity)
        study.set_metric_names(definition.objectives)
    elif (different := _difference(known, identity)) is not None:
        raise UserError(f"study {name!r} exists already with {different}; give this one another --study name")
    return study


def _difference(known: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What of two definitions differs first, or None."""
    for key in now:
        before, after = known.get(key), now[key]
        if before == after or key == "baseline":
            continue
        if key in ("space", "variants") and isinstance(before, dict):
            for name in sorted(before.keys() | after.keys()):
                old, new = before.get(name), after.get(name)
                if old != new and key == "space":
                    return f"another space: {name} is {old or 'not in it'} there and {new or 'not in it'} here"
                if old != new:
                    what = "is not in it" if old is None else "is not here" if new is None else "is another there"
                    return f"other variants: {name} {what}"
        return "another base configuration" if key == "config" else f"another {key}: {before!r} there, {after!r} here"
    return None


def key_of(study: optuna.Study) -> str:
    """What tells a study from another of the same name, e.g. one that was deleted."""
    return study.user_attrs.get(_KEY, study.study_name)


def definition_of(study: optuna.Study) -> dict[str, Any]:
    """What the study was started with; empty for a study of other tools."""
    return study.user_attrs.get(_DEFINITION, {})


# The queue


def enqueue(study: optuna.Study, definition: Definition, *, trials: int | None = None) -> int:
    """Put what is still to be done into the queue; what failed is tried once more.

    Args:
        study: to which trials are added.
        definition: what it consists of.
        trials: of a search, how many it is to have in all.

    Returns:
        How many were added.
    """
    there = study.get_trials(
        deepcopy=False,
        states=(
            TrialState.WAITING,
            TrialState.RUNNING,
            TrialState.COMPLETE,
            TrialState.PRUNED,
        ),
    )
    if isinstance(definition, Ablation):
        cells = [(variant, seed) for seed in definition.seeds for variant in definition.variants]
        known = {cell_of(trial) for trial in there}
        missing = [cell for cell in cells if cell not in known]
        for variant, seed in missing:
            study.enqueue_trial({"variant": variant, "seed": seed}, user_attrs={"variant": variant, "run_seed": seed})
        return len(missing)
    assert isinstance(definition, Search)
    wanted: list[dict[str, Any]] = [*definition.first] if not study.get_trials(deepcopy=False) else []
    missing_count = max(0, (trials or 0) - len(there))
    wanted = [*wanted, *({} for _ in range(missing_count))][:missing_count]
    for setting in wanted:
        study.enqueue_trial(setting)
    return len(wanted)


def cell_of(trial: FrozenTrial) -> tuple[str, int]:
    """Variant and seed of an ablation's trial."""
    return trial.user_attrs.get("variant", ""), trial.user_attrs.get("run_seed", -1)


def take(study: optuna.Study, storage: RDBStorage, definition: Definition) -> optuna.Trial | None:
    """The first trial of the queue that the definition asks for, now this worker's; None where nobody waits."""
    with exclusively(storage):
        for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if isinstance(definition, Ablation) and not definition.asks_for(*cell_of(waiting)):
                continue  # e.g. of seeds that were asked for when the study was started
            # Whose it is comes first: a trial that runs and is nobody's would never come back.
            storage.set_trial_user_attr(waiting._trial_id, _WORKER, f"{_machine()}:{os.getpid()}")
            storage.record_heartbeat(waiting._trial_id)
            if storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING):
                return optuna.Trial(study, waiting._trial_id)
    return None


def give_back(trial: optuna.Trial, storage: RDBStorage) -> None:
    """Put a trial that was interrupted back into the queue; its run goes on from its checkpoint."""
    with suppress(optuna.exceptions.UpdateFinishedTrialError):  # taken for dead meanwhile, and so back already
        storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)


def root_number(trial: FrozenTrial) -> int:
    """The trial's number, or that of the first trial which it tries again."""
    history: Sequence[int] = trial.system_attrs.get("retry_history", [])
    return history[0] if history else trial.number


def fail_dead_trials(study: optuna.Study, storage: RDBStorage) -> None:
    """Fail the trials of workers that died, and enqueue them again.

    MainProcessError a worker counts as dead after the grace period; on this machine at once.
    """
    with exclusively(storage):
        optuna.storages.fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            host, _, process = trial.user_attrs.get(_WORKER, "").rpartition(":")
            if host == _machine() and process.isdigit() and not _alive(int(process)):
                storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
                retry(study, storage, trial._trial_id)


def retry(study: optuna.Study, storage: RDBStorage, trial_id: int) -> bool:
    """Enqueue a trial that died once more, unless it has died too often; whether it was."""
    callback, before = storage.get_heartbeat_stale_trial_callback(), storage.get_n_trials(study._study_id)
    if callback is not None:
        callback(study, storage.get_trial(trial_id))
    return storage.get_n_trials(study._study_id) > before


def _machine() -> str:
    """What tells the process numbers of this machine, or container, from those of others."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # Linux alone
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text()[:8],
            str(Path("/proc/self/ns/pid").readlink())[5:-1],
        ]
    return "/".join(parts)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A child that nobody has waited for is dead as well.
    stat = Path(f"/proc/{process}/stat")
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] != "Z"

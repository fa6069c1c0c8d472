"""The queue of a study's trials.

A trial is a place in the queue that workers take from: all are enqueued when a study starts, a search's without
parameters. So their number is exact with any number of workers, and what a dead worker left goes back to the queue.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from studies.definition.base import Definition
from studies.execution.repeats import waits_for_another
from studies.execution.storage import exclusively

ERROR = "error"
"""The user attribute in which a trial keeps why it failed."""

_WORKER = "worker"  # user attribute


def enqueue(study: optuna.Study, definition: Definition, *, trials: int | None = None) -> int:
    """Put what is still to be done into the queue; what failed is tried once more.

    Args:
        study: the study that trials are added to.
        definition: what it consists of.
        trials: of a search, how many it is to have in all.

    Returns:
        How many were added.
    """
    missing = definition.what_is_missing(study, trials)
    for trial in missing:
        study.enqueue_trial(dict(trial.parameters), user_attrs=dict(trial.attributes))
    return len(missing)


def take(study: optuna.Study, storage: RDBStorage, definition: Definition) -> optuna.Trial | None:
    """Take the first trial of the queue that the definition asks for; None where nobody waits."""
    with exclusively(storage):
        for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if not definition.asks_for(waiting) or waits_for_another(study, waiting):
                continue
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


def fail_dead_trials(study: optuna.Study, storage: RDBStorage) -> None:
    """Fail the trials of workers that died, and enqueue them again.

    A worker of another machine counts as dead after the grace period; one of this machine at once.
    """
    with exclusively(storage):
        optuna.storages.fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            host, _, process = trial.user_attrs.get(_WORKER, "").rpartition(":")
            if host == _machine() and process.isdigit() and not _alive(int(process)):
                storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
                retry(study, storage, trial._trial_id)


def retry(study: optuna.Study, storage: RDBStorage, trial_id: int) -> bool:
    """Enqueue a trial that died once more, unless it has died too often.

    Returns:
        Whether it was enqueued.
    """
    callback = storage.get_heartbeat_stale_trial_callback()
    before = storage.get_n_trials(study._study_id)
    if callback is not None:
        callback(study, storage.get_trial(trial_id))
    return storage.get_n_trials(study._study_id) > before


def is_anybody_at_work(study: optuna.Study) -> bool:
    """Whether some trial runs, which comes back to the queue should its worker die."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


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

"""RetryingStorage: a storage that is away for some minutes ends no run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import InterfaceError, OperationalError

from studies.execution.signals import StopSignals
from studies.execution.storage import reason_of

T = TypeVar("T")

OUTAGES = (OperationalError, InterfaceError, optuna.exceptions.StorageInternalError)
"""What a storage raises that does not answer."""

_PATIENCE = 600.0  # seconds that a storage may be away
_PATIENCE_WHEN_STOPPED = 20.0
_DEFAULT_HEARTBEAT = 60  # seconds


class TrialLost(Exception):
    """The trial is no longer this worker's: it was taken for dead."""


class RetryingStorage:
    """Asks a storage that does not answer again.

    Args:
        storage: Optuna's.
        stop: the signals that end the worker, and most of the patience.
        report: takes lines for people.
        poll: seconds between tries.

    Attributes:
        heartbeat_interval: seconds between a trial's signs of life.
        last_outage: `time.monotonic()` when the storage last did not answer.
    """

    def __init__(self, storage: RDBStorage, stop: StopSignals, report: Callable[[str], None], poll: float) -> None:
        self.storage = storage
        self.heartbeat_interval = storage.get_heartbeat_interval() or _DEFAULT_HEARTBEAT
        self.last_outage = -math.inf
        self._stop = stop
        self._report = report
        self._poll = poll

    def ask(self, question: Callable[[], T]) -> T:
        """Ask the storage, for some minutes if need be.

        Args:
            question: what is asked; it may be asked several times.

        Raises:
            Exception: one of `OUTAGES`, where patience ends.
        """
        start = time.monotonic()
        reported = False
        while True:
            try:
                return question()
            except OUTAGES as error:
                patience = _PATIENCE if self._stop.received is None else _PATIENCE_WHEN_STOPPED
                self.last_outage = time.monotonic()
                if self.last_outage > start + patience:
                    raise
                if not reported:
                    self._report(f"the storage does not answer: {reason_of(error, self.storage.url)}; trying again")
                reported = True
                time.sleep(self._poll)

    def show_life(self, trial: optuna.Trial) -> bool:
        """Record that a trial lives. A storage that does not answer is not waited for.

        Returns:
            Whether the storage knows.

        Raises:
            TrialLost: if the trial does not count as running any more.
        """
        try:
            state = self.storage.get_trial(trial._trial_id).state
            if state == TrialState.RUNNING:
                self.storage.record_heartbeat(trial._trial_id)
        except OUTAGES as error:
            if time.monotonic() > self.last_outage + self.heartbeat_interval:
                self._report(f"the storage does not answer: {reason_of(error, self.storage.url)}; the run goes on")
            self.last_outage = time.monotonic()
            return False
        if state != TrialState.RUNNING:
            raise TrialLost
        return True

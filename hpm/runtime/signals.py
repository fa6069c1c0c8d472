"""SIGTERM and SIGUSR1, with which clusters announce that a job's time is over."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from hpm.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Notices the signals while it is entered, so that training can finish its step and save.

    Attributes:
        received: the signal's name, or None.
        immediate: raise `Interrupted` at once, where there is nothing left to save.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.immediate = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        try:
            self._before = {number: signal.signal(number, self._notice) for number in _SIGNALS}
        except ValueError:  # not the main thread, as when a study trains in a thread: its owner handles signals
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A loader's worker, forked from here. Clusters signal every process of a job: the worker goes on, so that
            # its parent can, and ends with it.
            if number == signal.SIGTERM and os.getppid() != self._process:
                os._exit(1)
            return
        self.received = signal.Signals(number).name
        if self.immediate:
            raise Interrupted(f"{self.received} received")

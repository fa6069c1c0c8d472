"""What ends a study in order: SIGINT, SIGTERM, and SIGHUP, each unless it is ignored, as under nohup."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The study was told to stop. The trial at hand is back in the queue."""


class StopSignals:
    """Notices the signals while it is entered.

    Args:
        on_signal: called when one arrives; None for nothing.

    Attributes:
        received: the name of the last signal, or None.
    """

    def __init__(self, on_signal: Callable[[], None] | None = None) -> None:
        self.received: str | None = None
        self._on_signal = on_signal
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        wanted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._notice) for number in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """End the work at hand where a signal has arrived.

        Raises:
            Stopped: naming the signal.
        """
        if self.received is not None:
            raise Stopped(self.received)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if self._on_signal is not None:
            self._on_signal()

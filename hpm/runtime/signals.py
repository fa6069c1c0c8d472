"""What ends a run in order: the signals by which clusters, terminals and people say that its time is over."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hpm.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_PR_SET_PDEATHSIG = 1
_held: dict[signal.Signals, Any] = {}  # the handlers of signals that wait
_WORKERS_PATIENCE = 300  # seconds for which a loader's worker serves a run that was told to stop


class StopSignals:
    """Notices the signals while it is entered, so that training can finish its step and save.

    One that is ignored stays so, as SIGHUP under nohup. A second Ctrl-C ends the process at once.

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
        wanted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        try:
            self._before = {number: signal.signal(number, self._notice) for number in wanted}
        except ValueError:  # not the main thread, as when a study trains in a thread: its owner handles signals
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._notice_in_worker(number)
            return
        if number == signal.SIGINT and self.received == "SIGINT":
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if self.immediate:
            raise Interrupted(f"{self.received} received")

    def _notice_in_worker(self, number: int) -> None:
        """In a loader's worker, forked from here. Clusters and terminals signal every process of a job: the worker goes
        on, so that its parent can, and ends with it, or after a while.
        """
        if number == signal.SIGTERM and os.getppid() != self._process:
            os._exit(1)
        signal.alarm(_WORKERS_PATIENCE)


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """The signals end a command as Ctrl-C does, so that it leaves nothing half written, where it handles none itself.

    One that is ignored or handled stays so. In a forked process it does what it does without us.

    Raises:
        KeyboardInterrupt: with the signal's name, wherever the command is.
    """
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt(signal.Signals(number).name)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    wanted = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in wanted:
            signal.signal(number, end)
    except ValueError:  # not the main thread, whose owner handles signals
        wanted = []
    try:
        yield
    finally:
        for number in wanted:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def holding_signals() -> Iterator[None]:
    """The signals wait until this is left, as where processes are forked: Python prints and forgets what a handler
    raises in the middle of a fork. Outside of the main thread, where no handler runs, it does nothing, nor within
    itself.
    """
    if _held or threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if before:  # being left, where another handler may raise and leave this one in its place
            before[signal.Signals(number)](number, frame)
        else:
            noted.append(number)

    try:
        _held.update((number, signal.getsignal(number)) for number in _SIGNALS if callable(signal.getsignal(number)))
        for number in _held:
            signal.signal(number, note)
        yield
    finally:
        before.update(_held)
        _held.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
        for received in noted:
            signal.raise_signal(received)


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the one that forked it dies; end it where that is dead already.

    Args:
        parent: the process that forked it.
        number: the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def start_loader_process(worker: int, *, parent: int) -> None:
    """Let a loader's process notice signals as its parent does, and end with it.

    Torch's own handler would end it by SIGTERM. And torch asks who the parent is when the process has started: where
    that was killed a moment before, the process would wait for ever, and hold its parent's connections open, for whose
    end other processes wait.

    Args:
        worker: its number; what `DataLoader.worker_init_fn` is called with.
        parent: the process that forked it.
    """
    end_with_parent(parent, signal.SIGKILL)
    for number in _SIGNALS:
        handler = _held.get(number, signal.getsignal(number))
        if callable(handler):
            signal.signal(number, handler)

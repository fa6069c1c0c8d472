"""Signals end a command wherever they come, in the middle of a fork too."""

from __future__ import annotations

import _signal
import os
import signal
import sys
import threading
from contextlib import nullcontext
from types import FrameType

import pytest
import torch

from hpm.data.workers import load_in_workers
from hpm.runtime.signals import holding_signals, raising_on_signals

ARMED: list[int] = []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_comes_in_the_meantime_is_heard_afterwards(number: signal.Signals) -> None:
    reached = False

    def hold() -> None:
        nonlocal reached
        with holding_signals():
            signal.raise_signal(number)
            reached = True

    with raising_on_signals():
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt):
            hold()
        assert signal.getsignal(number) is before
    assert reached


def test_within_itself_it_waits_for_the_outer_one() -> None:
    reached = False

    def hold() -> None:
        nonlocal reached
        with holding_signals():
            with holding_signals():
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            reached = True

    with raising_on_signals():
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            hold()
        assert signal.getsignal(signal.SIGTERM) is before
    assert reached


def test_one_that_comes_while_it_is_left_takes_no_other_its_handler() -> None:
    """Those that it has not given back yet would be deaf from then on."""
    left = False

    def profile(frame: FrameType, event: str, called: object) -> None:
        if left and event == "c_return" and called is _signal.signal:
            signal.raise_signal(signal.SIGTERM)

    def hold() -> None:
        nonlocal left
        with holding_signals():
            sys.setprofile(profile)
            left = True

    with raising_on_signals():
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            hold()
        with pytest.raises(KeyboardInterrupt, match="SIGHUP"):
            signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize("held", [False, True])
def test_in_another_thread_it_does_nothing(held: bool) -> None:
    """While the main one holds them neither."""
    done: list[bool] = []

    def enter() -> None:
        with holding_signals():
            done.append(True)

    thread = threading.Thread(target=enter)
    with raising_on_signals(), holding_signals() if held else nullcontext():
        thread.start()
        thread.join()
    assert done == [True]


class Numbers(torch.utils.data.Dataset):
    """Batches of their own numbers."""

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_fork_is_not_forgotten(number: signal.Signals) -> None:
    """Python prints and forgets what is raised in what it calls after a fork."""
    os.register_at_fork(after_in_parent=lambda: signal.raise_signal(ARMED.pop()) if ARMED else None)
    seen: list[list[int]] = []
    ARMED.append(number)

    def load() -> None:
        settings = {"num_workers": 1, "collate": list, "pin_memory": False}
        seen.extend(load_in_workers(Numbers(), [[1, 2], [3]], **settings))

    with raising_on_signals(), pytest.raises(KeyboardInterrupt):
        load()
    assert not ARMED
    assert seen == []
    load()
    assert seen == [[1, 2], [3]]

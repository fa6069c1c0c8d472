"""Batches from processes of their own. One that dies, as the system kills processes for memory, is started again."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from hpm.errors import Notice, TrainingError
from hpm.runtime.signals import holding_signals, start_loader_process

_DEATHS = 3  # of one call, after which it is no accident


def load_in_workers(
    dataset: Dataset,
    batches: Sequence[list[int]],
    *,
    num_workers: int,
    collate: Callable[[Any], Any],
    pin_memory: bool,
) -> Iterator[Any]:
    """What a data set gives for batches of indices, in their order.

    Args:
        dataset: whose `__getitems__` loads a batch at once.
        batches: the indices of each.
        num_workers: processes, 1 or more.
        collate: what is done in the process with what was loaded.
        pin_memory: whether tensors are put where a CUDA device copies from.

    Raises:
        TrainingError: if processes die again and again.
    """
    done = deaths = 0
    while done < len(batches):
        loader = _Processes(
            dataset,
            batch_sampler=batches[done:],
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=partial(start_loader_process, parent=os.getpid()),
            generator=torch.Generator(),  # else it would draw its workers' seeds from the global generator
        )
        try:
            for loaded in _noticing_late(loader):
                done += 1
                yield loaded
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            if not reason.startswith("DataLoader worker"):
                raise
            deaths += 1
            if deaths > _DEATHS:
                raise TrainingError(
                    f"{deaths} loader processes have died, the last one so: {reason}. Often the memory is full: lower "
                    "the num_workers that are bound"
                ) from error
            warnings.warn(Notice(f"a loader process died and is started again: {reason}"), stacklevel=2)


class _Processes(DataLoader):
    """One that takes the number of its processes as it is bound; torch warns of more than there are cores."""

    def check_worker_number_rationality(self) -> None:
        """Nothing: processes that wait for files are no burden, and configs give a number for many machines."""


def _noticing_late(loader: DataLoader) -> Iterator[Any]:
    """Its batches; that a process died is told when the next batch is asked for.

    As torch has it, the signal of a process's death raises in whatever line the main process is at, which may be the
    middle of a step of the optimizer.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if main else None
    try:
        with holding_signals():
            return iter(loader)
    finally:  # also where a signal that waited raises
        if main:
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)

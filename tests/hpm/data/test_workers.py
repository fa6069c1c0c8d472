"""Loader processes that are killed are started again, and nothing is lost or comes twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from hpm.data.workers import load_in_workers
from hpm.errors import Notice, TrainingError

BATCHES = [[2 * k, 2 * k + 1] for k in range(12)]


@pytest.fixture(autouse=True)
def _looked_after_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch looks every five seconds whether processes live."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.3,))


FORKING = """
import os, signal, sys, time
from hpm.runtime.signals import start_loader_process

parent, late = os.getpid(), sys.argv[1] == "late"
if os.fork():
    if late:
        sys.stdin.readline()
    os.kill(parent, signal.SIGKILL)
while not late and os.getppid() == parent:
    time.sleep(0.01)
start_loader_process(0, parent=parent)
print("lives", flush=True)
time.sleep(60)
"""


class Killed(Dataset):
    """Gives indices; the process that is asked for one of some is killed, once for each."""

    def __init__(self, folder: Path, killed_at: tuple[int, ...]) -> None:
        self.folder = folder
        self.killed_at = killed_at

    def __getitems__(self, indices: list[int]) -> list[int]:
        killed = self.folder / str(indices[0])
        if indices[0] in self.killed_at and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return indices


def as_it_is(loaded: list[int]) -> list[int]:
    return loaded


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_killed_process_is_started_again(tmp_path: Path, num_workers: int) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.warns(Notice, match=r"a loader process died and is started again: .*") as told:
        loaded = list(
            load_in_workers(
                Killed(tmp_path, (6, 14)), BATCHES, num_workers=num_workers, collate=as_it_is, pin_memory=False
            )
        )
    assert loaded == BATCHES
    assert sum(warning.category is Notice for warning in told) in (1, 2)  # two may die before one is missed
    assert signal.getsignal(signal.SIGCHLD) == before


def test_processes_that_die_again_and_again(tmp_path: Path) -> None:
    dataset = Killed(tmp_path, (0, 4, 8, 12))
    with pytest.warns(Notice), pytest.raises(TrainingError, match=r"4 loader processes have died.* lower the num_work"):
        list(load_in_workers(dataset, BATCHES, num_workers=1, collate=as_it_is, pin_memory=False))


def test_torch_does_not_warn_of_more_processes_than_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    dataset = Killed(tmp_path, ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = list(load_in_workers(dataset, BATCHES, num_workers=2, collate=as_it_is, pin_memory=False))
    assert loaded == BATCHES


@pytest.mark.parametrize("moment", ["early", "late"])
def test_a_process_ends_with_its_parent(moment: str) -> None:
    """Also where that is killed before the process has looked at anything."""
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKING, moment], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    if moment == "late":
        assert parent.stdout.readline() == "lives\n"
    rest, _ = parent.communicate("\n", timeout=30)  # until nobody holds the pipe any more
    assert rest == ""
    assert parent.returncode == -signal.SIGKILL

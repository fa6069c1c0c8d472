"""Where workers' runs compute, on machines with any number of GPUs; only that number stands in for a machine's own."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpm.errors import UserError
from studies.execution.placement import Placement


def _with_gpus(count: int, number: int, *, workers: int, processes: int = 1) -> Placement:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: count)
        return Placement.of_worker(number, workers=workers, processes=processes)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4))
def test_gpus_of_their_own_where_there_are_enough(spare: int, workers: int, processes: int) -> None:
    count = workers * processes + spare - 1
    devices = [_with_gpus(count, n, workers=workers, processes=processes).devices for n in range(workers)]
    used = [device for own in devices for device in own]
    assert len(set(used)) == len(used) == workers * processes
    assert set(used) <= set(range(count))


@given(st.integers(1, 4), st.integers(1, 16))
def test_more_workers_than_gpus_share_them_evenly(count: int, more: int) -> None:
    workers = count + more
    placements = [_with_gpus(count, n, workers=workers) for n in range(workers)]
    per_gpu = [sum(place.devices == (gpu,) for place in placements) for gpu in range(count)]
    assert sum(per_gpu) == workers
    assert max(per_gpu) - min(per_gpu) <= 1
    cores = os.cpu_count() or 1
    assert all(place.threads == max(1, cores // workers) for place in placements)


def test_runs_of_several_processes_share_no_gpu() -> None:
    with pytest.raises(UserError, match=r"--workers 2 with --processes 2 needs 4 GPUs, this machine has 3"):
        _with_gpus(3, 0, workers=2, processes=2)


def test_a_share_of_the_cores_without_gpus() -> None:
    place = _with_gpus(0, 1, workers=2)
    assert place.devices == ()
    assert place.threads == max(1, (os.cpu_count() or 1) // 2)


def test_a_run_sees_its_own_gpu_of_those_that_the_machine_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    place = _with_gpus(2, 3, workers=4)
    assert place.environment()["CUDA_VISIBLE_DEVICES"] == "6"
    assert place.environment()["OMP_NUM_THREADS"] == str(place.threads)


def test_a_studys_runs_are_none_of_mlflows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    environment = Placement().environment()
    assert "MLFLOW_RUN_ID" not in environment
    assert environment["MLFLOW_EXPERIMENT_NAME"] == "mine"

"""What a benchmark ran on, and how it waits for a device and times it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import timm
import torch

from hpm.runtime.devices import device_name
from hpm.runtime.version import source_version


def describe_machine(device: str) -> dict[str, object]:
    """Device, versions and commit: what a figure means nothing without."""
    return {
        "device": device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "commit": source_version(),
    }


def synchronize(device: str) -> None:
    """Wait until the device has done everything; a CPU always has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds_of(action: Callable[[], object], device: str, *, repeats: int = 10, warm_up: int = 3) -> float:
    """Seconds of an action: the mean of `repeats` in a row, after `warm_up` that are not timed."""
    for _ in range(warm_up):
        action()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        action()
    synchronize(device)
    return (time.perf_counter() - started) / repeats

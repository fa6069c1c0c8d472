"""What a benchmark ran on, and how it waits for a device."""

from __future__ import annotations

import platform

import timm
import torch


def describe_machine(device: str) -> dict[str, object]:
    """Device, versions and commit: what a figure means nothing without."""
    # Here, since a benchmark's process may measure an older checkout, which has no such modules.
    from hpm.devices import device_name
    from hpm.version import source_version

    return {
        "device": device_name(torch.device(device)), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "timm": timm.__version__, "python": platform.python_version(), "commit": source_version(),
    }  # fmt: skip


def synchronize(device: str) -> None:
    """Wait until the device has done everything; a CPU always has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)

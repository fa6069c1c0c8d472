"""What a benchmark ran on, and how it waits for a device."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import timm
import torch


def describe_machine(device: str) -> dict[str, object]:
    """Device, versions and commit: what a figure means nothing without."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "timm": timm.__version__,
        "python": platform.python_version(), "commit": commit,
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def synchronize(device: str) -> None:
    """Wait until the device has done everything; a CPU always has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)

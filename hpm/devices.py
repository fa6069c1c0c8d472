"""Which device and which precision a run gets."""

from __future__ import annotations

import resource
import sys

import torch

_PRECISIONS = ("auto", "bf16", "fp32")


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first CUDA device where there is one, else the CPU.

    Raises:
        ValueError: for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"Trainer.device = {name!r} is no device; choose auto, cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"Trainer.device = {name!r}, but there are {torch.cuda.device_count()} CUDA devices here")
    return device


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast, or None for float32.

    Raises:
        ValueError: for an unknown precision.
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"Trainer.precision = {precision!r} is unknown; choose {', '.join(_PRECISIONS)}")
    if precision == "auto":
        return torch.bfloat16 if _computes_bf16(device) else None
    return torch.bfloat16 if precision == "bf16" else None


def _computes_bf16(device: torch.device) -> bool:
    """Whether the hardware itself computes in bf16; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def peak_memory(device: torch.device) -> int:
    """The most memory in use so far, in bytes: allocated on a CUDA device, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

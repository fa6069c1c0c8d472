"""Which device and which precision a run gets."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

import torch

PRECISIONS = ("bf16", "fp16", "tf32", "fp32")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, *, local_rank: int = 0) -> torch.device:
    """The device of a name; "auto" is this process's CUDA device where there is one, else the CPU.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:1".
        local_rank: this process's number on its machine; "auto" and "cuda" take the device of that number.

    Raises:
        ValueError: for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"Runtime.device = {name!r} is not a device; choose auto, cpu or cuda") from error
    if device.type not in ("cuda", "cpu") or (device.type == "cpu" and device.index):
        raise ValueError(f"Runtime.device = {name!r} is not supported; choose auto, cpu or cuda")
    if device.type == "cuda":
        index = local_rank if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"Runtime.device = {name!r}, process {local_rank} of this machine, but there are "
                f"{torch.cuda.device_count()} CUDA devices here; lower --nproc-per-node or choose another device"
            )
        return torch.device("cuda", index)
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """The precision of a name; "auto" is bf16 where a CUDA device computes in it, else fp32.

    Args:
        name: "auto"; "bf16" or "fp16", autocast, fp16 with a gradient scaler; "tf32", float32 with faster, coarser
            matrix products; "fp32".
        device: what it is for.

    Raises:
        ValueError: for an unknown precision, or one that the device does not have.
    """
    if name == "auto":
        # On a CPU always fp32, also where bf16 is faster, so that figures do not depend on the processor's kind.
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    if name not in PRECISIONS:
        raise ValueError(f"Runtime.precision = {name!r} is unknown; choose auto, {', '.join(PRECISIONS)}")
    if name in ("fp16", "tf32") and device.type != "cuda":
        raise ValueError(f"Runtime.precision = {name!r} needs a CUDA device, this is {device}; choose auto")
    return name


def autocast_dtype(precision: str) -> torch.dtype | None:
    """What autocast computes in, None where it is not used."""
    return _AUTOCAST.get(precision)


def set_up(device: torch.device, precision: str, *, deterministic: bool) -> None:
    """Process-wide settings: the current device, TF32 and, where asked for, deterministic algorithms.

    On a CUDA device, everything but "fp32" lets float32 matrix products and convolutions use TF32. CPUs have none:
    "high" would make them coarser, and where it is made of three products in bf16, half as fast. Deterministic
    algorithms are slower; the CPU's are deterministic anyway.
    """
    coarser = device.type == "cuda" and precision != "fp32"
    torch.set_float32_matmul_precision("high" if coarser else "highest")
    if device.type == "cuda":
        # cuBLAS reads it once, at the first product of the process, and a later run may want it: so it is always set.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = coarser
        torch.backends.cudnn.benchmark = not deterministic
        _allow_attention()
        _set_deterministic(deterministic)


def _allow_attention() -> None:
    """Every fused attention kernel may be taken, cuDNN's among them, which older versions of torch leave out.

    Which one is left to torch, which prefers cuDNN's on an H100, the fastest there for 197 and 257 tokens by
    `benchmarks/gpu.py --only attention`. It decides on that at the first call of a process, and overwrites an order
    that `sdpa_kernel(..., set_priority=True)` asks for just then: so nothing here asks for one.
    """
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)


def _set_deterministic(deterministic: bool) -> None:
    torch.use_deterministic_algorithms(deterministic)
    # Filling memory that is about to be written finds mistakes in torch, costs a pass, and makes nothing repeatable.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if deterministic:
        import torch._inductor.config as inductor  # a second of imports that other runs are spared

        if hasattr(inductor, "deterministic"):  # from torch 2.10 on: autotuning may not choose how sums are split
            inductor.deterministic = True


def peak_memory(device: torch.device) -> int:
    """The most memory in use so far, in bytes: allocated on a CUDA device, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def device_name(device: torch.device) -> str:
    """What the device is called, e.g. "NVIDIA H100 80GB HBM3"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

"""Calls that do not disturb each other, nor the program around them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from hpm.config import keeping_gin

_ATTENTION = tuple(
    (getattr(torch.backends.cuda, f"{kernel}_sdp_enabled"), getattr(torch.backends.cuda, f"enable_{kernel}_sdp"))
    for kernel in ("cudnn", "flash", "mem_efficient")
)  # what asks for, and what sets, each kernel that a run sets


@contextmanager
def isolated(*, compiled: bool = False) -> Iterator[None]:
    """Compute as in a process of its own, and leave the settings of this one as they were.

    That goes for gin's configuration, and for torch's default type and device, its gradient mode, autocast, its global
    generators of random numbers, the precision of matrix products, deterministic algorithms, cuDNN's settings and the
    kernels of attention.

    Args:
        compiled: whether models may be compiled. The compiler then forgets the models before, after which it would
            compile others differently; those of the program are compiled again when they are called.
    """
    if compiled and (compiler := sys.modules.get("torch._dynamo")) is not None:
        compiler.reset()
    device = torch.get_default_device()
    before = _Settings()
    if device.type != "cpu":
        torch.set_default_device(None)
    # Still another one where a program has entered `with torch.device(...)`.
    within = nullcontext() if (found := torch.get_default_device()).type == "cpu" else torch.device("cpu")
    torch.set_default_dtype(torch.float32)
    for kind in before.autocast:
        torch.set_autocast_enabled(kind, False)
    try:
        devices = [] if before.cuda is None else [before.cuda]
        with within, keeping_gin(), torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        before.restore()
        if device != found:
            torch.set_default_device(device)


class _Settings:
    """The settings of torch that a run makes, or depends on, as they are now.

    Attributes:
        autocast: the kinds of devices on which types are cast by themselves.
        cuda: the number of the current CUDA device; None where none is in use.
    """

    def __init__(self) -> None:
        self._dtype = torch.get_default_dtype()
        self._matmul = torch.get_float32_matmul_precision()
        self._deterministic = torch.are_deterministic_algorithms_enabled()
        self._warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
        self._fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        self._cudnn = (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)
        self._attention = [is_enabled() for is_enabled, _ in _ATTENTION]
        self.autocast = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        self.cuda = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        """Make them these again."""
        torch.set_default_dtype(self._dtype)
        torch.set_float32_matmul_precision(self._matmul)
        torch.use_deterministic_algorithms(self._deterministic, warn_only=self._warns_only)
        torch.utils.deterministic.fill_uninitialized_memory = self._fills  # type: ignore[attr-defined]
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = self._cudnn
        for (_, enable), enabled in zip(_ATTENTION, self._attention, strict=True):
            enable(enabled)
        for kind in self.autocast:
            torch.set_autocast_enabled(kind, True)
        if self.cuda is not None:
            torch.cuda.set_device(self.cuda)

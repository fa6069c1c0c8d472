"""Float32 kept whole: without TF32 for a part of the program, and whatever the autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor


@contextmanager
def full_float32() -> Iterator[None]:
    """Products and convolutions of float32 tensors keep all of its bits inside, whatever the process has set.

    On a CUDA device they may otherwise use TF32, which has 10 bits of mantissa where float32 has 23. What was set
    before is set again at the end, after an exception too. The setting is the process's, so no other thread may
    compute meanwhile. Autocast is not affected.
    """
    # The older of PyTorch's two interfaces: it refuses to answer once the newer one (fp32_precision) was used too.
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def full_precision(x: Tensor) -> Tensor:
    """Float32 or better: bf16 ties losses that differ, and its sums lose what they add."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Products on the device are of their inputs' dtype, whatever the autocast around.

    Args:
        device: "meta" too, which has no autocast.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)

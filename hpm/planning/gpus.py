"""GPUs that a run can be planned for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from hpm.errors import UserError


class Gpu(NamedTuple):
    """A GPU by its vendor's data sheet.

    Args:
        name: the vendor's.
        memory: GB.
        capability: CUDA's compute capability, by which what it can compute is known.
        peaks: dense matrix products in TFLOP/s by precision.
        measured: what `benchmarks/gpu.py` found of the same products, empty where it never ran.
    """

    name: str
    memory: float
    capability: tuple[int, int]
    peaks: Mapping[str, float]
    measured: Mapping[str, float] = MappingProxyType({})


def _gpu(
    name: str,
    memory: float,
    capability: tuple[int, int],
    *,
    half: float,
    tf32: float,
    fp32: float,
    measured: Mapping[str, float] = MappingProxyType({}),
) -> Gpu:
    return Gpu(name, memory, capability, {"bf16": half, "fp16": half, "tf32": tf32, "fp32": fp32}, measured)


# NVIDIA's data sheets; where they give figures with sparsity, half of those. The RTX 4090's are from the Ada
# architecture's white paper, accumulated in float32, as training does.
_H100_MEASURED = {"bf16": 794, "fp16": 762, "tf32": 413}
GPUS = {
    "h200": _gpu("H200 SXM", 141, (9, 0), half=989, tf32=494, fp32=67),
    "h100": _gpu("H100 SXM", 80, (9, 0), half=989, tf32=494, fp32=67, measured=_H100_MEASURED),
    "a100": _gpu("A100 SXM 80 GB", 80, (8, 0), half=312, tf32=156, fp32=19.5),
    "l40s": _gpu("L40S", 48, (8, 9), half=362, tf32=183, fp32=91.6),
    "rtx4090": _gpu("GeForce RTX 4090", 24, (8, 9), half=165, tf32=82.6, fp32=82.6),
    "v100": Gpu("V100 SXM2 32 GB", 32, (7, 0), {"fp16": 125, "fp32": 15.7}),
}


class Machine(NamedTuple):
    """What a run is planned for.

    Args:
        device: a key of `GPUS`.
        gpus: how many train together.
    """

    device: str
    gpus: int

    @property
    def gpu(self) -> Gpu:
        """One of them."""
        return GPUS[self.device]


_LEAST_MFU, _MOST_IMAGES = 0.001, 10**12  # beyond these, hours mean nothing


def require_machine(device: str, gpus: int) -> Machine:
    """The machine that `--device` and `--gpus` name.

    Raises:
        UserError: for a GPU that is unknown, or none.
    """
    if device not in GPUS:
        raise UserError(f"--device {device} is unknown; choose one of {', '.join(GPUS)}")
    if gpus < 1:
        raise UserError(f"--gpus {gpus} must be at least 1")
    return Machine(device, gpus)


def require_plannable(*, mfu: float, images: int | None) -> None:
    """Refuse what gives hours without meaning.

    Raises:
        UserError: naming the option.
    """
    if not _LEAST_MFU <= mfu <= 1:
        raise UserError(f"--mfu {mfu} must be a share of the peak, {_LEAST_MFU} to 1")
    if images is not None and not 1 <= images <= _MOST_IMAGES:
        raise UserError(f"--images {images} must be 1 to {_MOST_IMAGES:,}")

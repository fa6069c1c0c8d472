"""GPUs that a run can be planned for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Gpu(NamedTuple):
    """A GPU by its vendor's data sheet: memory in GB, dense matrix products in TFLOP/s by precision.

    `measured` has what `benchmarks/gpu.py` found of the same products, empty where it never ran.
    """

    name: str
    memory: float
    peaks: dict[str, float]
    measured: Mapping[str, float] = MappingProxyType({})


def _gpu(
    name: str,
    memory: float,
    *,
    half: float,
    tf32: float,
    fp32: float,
    measured: Mapping[str, float] = MappingProxyType({}),
) -> Gpu:
    return Gpu(name, memory, {"bf16": half, "fp16": half, "tf32": tf32, "fp32": fp32}, measured)


# NVIDIA's data sheets; where they give figures with sparsity, half of those. The RTX 4090's are from the Ada
# architecture's white paper, accumulated in float32, as training does.
GPUS = {
    "h200": _gpu("H200 SXM", 141, half=989, tf32=494, fp32=67),
    "h100": _gpu("H100 SXM", 80, half=989, tf32=494, fp32=67, measured={"bf16": 794, "fp16": 762, "tf32": 413}),
    "a100": _gpu("A100 SXM 80 GB", 80, half=312, tf32=156, fp32=19.5),
    "l40s": _gpu("L40S", 48, half=362, tf32=183, fp32=91.6),
    "rtx4090": _gpu("GeForce RTX 4090", 24, half=165, tf32=82.6, fp32=82.6),
    "v100": Gpu("V100 SXM2 32 GB", 32, {"fp16": 125, "fp32": 15.7}),
}

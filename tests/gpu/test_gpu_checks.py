"""The checks of `benchmarks/gpu.py`: parity with the CPU, no waiting, fp16, exact resume, no recompilation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gpu_checks


@pytest.mark.parametrize("name", ["parity", "no_sync", "fp16", "resume", "recompiles"])
def test_a_check_finds_nothing(name: str) -> None:
    found: gpu_checks.Result = {}
    for found in getattr(gpu_checks, name)(torch.device("cuda", 0), tiny=False):  # noqa: B007, the last is whole
        pass
    assert found["failed"] == []

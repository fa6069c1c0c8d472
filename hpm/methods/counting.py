"""Multiply-adds of a computation on PyTorch's meta device, where tensors have a shape and nothing else: PyTorch's own
counter watches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hpm.methods.teacher import StudentTeacher


class MetaTeacher(StudentTeacher):
    """A teacher whose passes are counted: autocast knows no meta device, and changes no count."""

    def _inference(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        return nullcontext()


@torch.no_grad()
def count_by_module(compute: Callable[[], object]) -> dict[str, float]:
    """Multiply-adds by the module that they happen in, and of all as "Global"."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return {name: sum(counts.values()) / 2 for name, counts in counter.get_flop_counts().items()} | {
        "Global": counter.get_total_flops() / 2
    }


def count_all(compute: Callable[[], object]) -> float:
    """Multiply-adds of all; NaN where that cannot be told: somebody's own part may do anything."""
    try:
        return count_by_module(compute)["Global"]
    except Exception:
        return math.nan

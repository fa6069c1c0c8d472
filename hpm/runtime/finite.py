"""Weights that are numbers, and of the kind that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hpm.errors import UserError


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of the weights that are infinite or NaN in float32: a pass over each, and one wait for their device."""
    there = {name: tensor for name, tensor in weights.items() if tensor.numel()}
    if not there:
        return []
    finite = torch.stack([_is_finite(tensor) for tensor in there.values()]).tolist()
    return [name for name, is_finite in zip(there, finite, strict=True) if not is_finite]


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are infinite or NaN: nothing that is measured of them would mean anything.

    Args:
        weights: by name.
        path: the file or folder that they are from.

    Raises:
        UserError: naming the first tensor, and how many there are.
    """
    broken = not_finite(weights)
    if broken:
        raise UserError(f"{path}: {subject(broken)} not finite; the training that wrote it has diverged")


def subject(tensors: Sequence[str]) -> str:
    """The first of some tensors, how many others there are, and "is" or "are"."""
    others = len(tensors) - 1
    return f"{tensors[0]} and {others} more tensors are" if others else f"{tensors[0]} is"


def require_kinds(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Refuse whole numbers where a model has others, and the reverse: torch would turn them into each other.

    Raises:
        UserError: naming the first.
    """
    for name, value in saved.items():
        if name in own and own[name].is_floating_point() != value.is_floating_point():
            raise UserError(
                f"{path} does not fit this model: {name} is {value.dtype} there, and {own[name].dtype} here"
            )


def _is_finite(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.isfinite().all()
    # NaN is less and more than anything here. Asking each number takes thirty times as long, and memory.
    least, most = (tensor.float() if tensor.element_size() == 1 else tensor).aminmax()
    return least.float().isfinite() & most.float().isfinite()

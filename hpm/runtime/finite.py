"""Weights that are numbers, and of the kind that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hpm.errors import UserError


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are infinite or NaN: nothing that is measured of them would mean anything.

    Args:
        weights: by name.
        path: the file or folder that they are from.

    Raises:
        UserError: naming the first tensor, and how many there are.
    """
    broken = [name for name, tensor in weights.items() if not _wide(tensor).isfinite().all()]
    if broken:
        more = f" and {len(broken) - 1} more tensors are" if len(broken) > 1 else " is"
        raise UserError(f"{path}: {broken[0]}{more} not finite; the training that wrote it has diverged")


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


def _wide(tensor: Tensor) -> Tensor:
    """Torch does not look into numbers of 8 bits."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor

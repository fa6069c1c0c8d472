"""Weights to start a run from: those of any trained model."""

from __future__ import annotations

from pathlib import Path

import torch

from hpm.data import ImageSource
from hpm.methods.method import Method
from hpm.methods.pretrained import load_weights, normalized_otherwise
from hpm.targets.find_model import find_model


def load_initial_weights(
    method: Method, path: Path, *, seed: int, source: ImageSource
) -> tuple[Path, dict[str, torch.Tensor], list[str]]:
    """The student's weights to start from.

    Args:
        method: whose student the weights are for.
        path: what names a trained model, as `find_model` takes it.
        seed: of what the weights do not cover.
        source: what is trained on.

    Returns:
        The checkpoint, file or folder that they are of, the weights, and what to tell the user.

    Raises:
        UserError: if there is no model, or another one.
    """
    student = method.student
    student.init_weights(torch.Generator().manual_seed(seed))
    found, lines = find_model(path)
    lines = [*lines, *load_weights(method, found).lines, *normalized_otherwise(source, found.said)]
    return found.path, {name: tensor.clone() for name, tensor in student.state_dict().items()}, lines

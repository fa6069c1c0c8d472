"""Weights to start a run from: those of any trained model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hpm.data import ImageSource
from hpm.methods.method import Method
from hpm.methods.pretrained import load_weights, normalized_otherwise
from hpm.targets.find_model import find_model


class InitialWeights(NamedTuple):
    """What a run starts from in the place of random numbers.

    Args:
        student: its weights, by name.
        target: what the target keeps, by name; empty where it keeps nothing.
    """

    student: dict[str, Tensor]
    target: dict[str, Tensor]

    def put_into(self, method: Method) -> None:
        """Give these to a method that is initialized."""
        method.student.load_state_dict(self.student)
        if method.target.module is not None:
            method.target.module.load_state_dict(self.target)


def load_initial_weights(
    method: Method, path: Path, *, seed: int, source: ImageSource
) -> tuple[Path, InitialWeights, list[str]]:
    """The weights to start from.

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
    method.target.init_weights(seed)
    found, lines = find_model(path)
    lines = [*lines, *load_weights(method, found).lines, *normalized_otherwise(source, found.said)]
    kept = {} if method.target.module is None else method.target.module.state_dict()
    start = InitialWeights(
        *({name: tensor.clone() for name, tensor in of.items()} for of in (student.state_dict(), kept))
    )
    return found.path, start, lines

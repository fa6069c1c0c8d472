"""Weights to start a run from: those of any trained model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hpm.data import ImageSource
from hpm.errors import UserError
from hpm.methods.method import Method
from hpm.methods.pretrained import load_weights, normalized_otherwise
from hpm.models.pretrained import same_positions
from hpm.optim.image_sizes import ImageSizes
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
    method: Method, path: Path, *, seed: int, source: ImageSource, sizes: ImageSizes
) -> tuple[Path, InitialWeights, list[str]]:
    """The weights to start from.

    Args:
        method: whose student the weights are for.
        path: what names a trained model, as `find_model` takes it.
        seed: of what the weights do not cover.
        source: what is trained on.
        sizes: of the images of each epoch.

    Returns:
        The checkpoint, file or folder that they are of, the weights, and what to tell the user.

    Raises:
        UserError: if there is no model, or another one; or one of positions of its own, for images of several sizes.
    """
    student = method.student
    student.init_weights(torch.Generator().manual_seed(seed))
    method.target.init_weights(seed)
    computed = {name: positions.clone() for name, positions in student.named_buffers()}
    found, lines = find_model(path)
    lines = [*lines, *load_weights(method, found).lines, *normalized_otherwise(source, found.said)]
    for name, positions in student.named_buffers():
        if sizes.has_others and not same_positions(positions, computed[name]):
            raise UserError(
                f"{found.path} has positions of its own, {name}, which are of one grid, and Trainer.image_size = "
                f"{sizes.describe()} needs sin-cos ones; set it to None"
            )
    kept = {} if method.target.module is None else method.target.module.state_dict()
    start = InitialWeights(
        *({name: tensor.clone() for name, tensor in of.items()} for of in (student.state_dict(), kept))
    )
    return found.path, start, lines

"""Weights to start a run from: those of any trained model."""

from __future__ import annotations

from pathlib import Path

import torch

from hpm.data import ImageSource
from hpm.errors import UserError
from hpm.methods.method import Method
from hpm.methods.pretrained import load_weights, normalized_otherwise
from hpm.models.pretrained import same_positions
from hpm.optim.image_sizes import ImageSizes
from hpm.targets.find_model import find_model


def load_initial_weights(
    method: Method, path: Path, *, seed: int, source: ImageSource, sizes: ImageSizes
) -> tuple[Path, dict[str, torch.Tensor], list[str]]:
    """The student's weights to start from.

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
    computed = {name: positions.clone() for name, positions in student.named_buffers()}
    found, lines = find_model(path)
    lines = [*lines, *load_weights(method, found).lines, *normalized_otherwise(source, found.said)]
    for name, positions in student.named_buffers():
        if sizes.has_others and not same_positions(positions, computed[name]):
            raise UserError(
                f"{found.path} has positions of its own, {name}, which are of one grid, and Trainer.image_size = "
                f"{sizes.describe()} needs sin-cos ones; set it to None"
            )
    return found.path, {name: tensor.clone() for name, tensor in student.state_dict().items()}, lines

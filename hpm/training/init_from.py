"""Weights to start a run from: a checkpoint's of this project, or those of a published file."""

from __future__ import annotations

from pathlib import Path

import torch

from hpm.methods.method import Method
from hpm.runs.checkpoint import find_checkpoint
from hpm.targets.pixels import PIXELS


def load_initial_weights(method: Method, path: Path, *, seed: int) -> tuple[Path, dict[str, torch.Tensor], list[str]]:
    """The student's weights to start from.

    The head of another kind of target stays as the seed initializes it.

    Args:
        method: whose student the weights are for.
        path: a run's folder, whose newest whole checkpoint is taken; a checkpoint-* folder; or a published file.
        seed: of what the weights do not cover.

    Returns:
        The checkpoint or file that they are of, the weights, and what to tell the user.

    Raises:
        UserError: if there is no checkpoint, or another model's.
    """
    student, kind = method.student, method.target.kind
    student.init_weights(torch.Generator().manual_seed(seed))
    head = next(name for name, module in student.named_modules() if module is student.reconstruction_head)
    if path.is_dir():
        saved, lines = find_checkpoint(path)
        path = saved.path
        other = saved.manifest.target
        saved.load_into(student, "student", exclude=() if other == kind else (f"{head}.",))
    else:
        other = PIXELS  # what published models reconstruct
        lines = student.load_pretrained(path, exclude_prefix=None if other == kind else f"{head}.")
    if other != kind:
        lines.append(
            f"the head starts from initialization: it reconstructs {other} in {path}, and Method.target = "
            f"{type(method.target).__name__}"
        )
    return path, {name: tensor.clone() for name, tensor in student.state_dict().items()}, lines

"""What names a trained model: the same rule for every command and binding. It stands here because a target may be one.

A run's folder, one of its checkpoint-* folders or a link to one, a file of weights that others published, or a folder
of Hugging Face's or timm's with a config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hpm.errors import UserError
from hpm.models.published import Published, load_published, published
from hpm.models.weight_files import is_weight_folder, read_weight_file
from hpm.runs.checkpoint import STATE_FILE, Checkpoint, find_checkpoint
from hpm.runs.run_folder import RunFolder

_AVERAGE = "state_dict_ema"  # of timm's training, which timm prefers to the network's own weights
_NAMES = (
    "a run's folder, one of its checkpoint-* folders, a file of weights (.pth, .safetensors), or a folder that holds "
    "one and a config.json"
)


def find_model(path: Path) -> tuple[Checkpoint | Published, list[str]]:
    """The trained model that a path names, every byte of it read.

    Returns:
        A checkpoint, of a run its newest whole one, or what others published; and what to tell the user.

    Raises:
        UserError: where there is none.
    """
    try:
        if not path.exists():
            raise UserError(f"{path} does not exist; a model is {_NAMES}")
        if RunFolder(path).config.is_file() or (path / STATE_FILE).is_file():
            return find_checkpoint(path)
        if path.is_file() or is_weight_folder(path):
            return load_published(path if path.name else path.resolve()), []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}; a model is {_NAMES}") from error
    raise UserError(f"{path} is not a model, which is {_NAMES}")


def encoder_weights(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The weights of a trained model's encoder under timm's names; none where a file is timm's to read.

    Returns:
        The weights, and what is told beside them: the `grid` of their patches, `num_heads`, and of the images `mean`
        and `std`, where they are known.

    Raises:
        UserError: where there is no model, or a file that cannot be read as weights.
    """
    found: Checkpoint | Published
    if path.is_file():
        file = read_weight_file(path)
        try:
            found = published(file, path)
        except UserError:
            return {}, {}
        if _AVERAGE in file.content:
            return {}, {}
    else:
        found, _ = find_model(path)
    if isinstance(found, Checkpoint):
        state, said = found.weights("student"), found.manifest.said
    else:
        state, said = found.student, dict(found.said)
    start = "encoder."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}, said

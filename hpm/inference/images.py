"""Images of any folder, as a trained model sees them.

Shape suffixes: K readable images, C channels, S side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hpm.data import FolderSplit, ImageSource, Unreadable
from hpm.errors import UserError

_MODES = {1: "L", 3: "RGB"}


class Read(NamedTuple):
    """Image files as the model sees them.

    Args:
        images_KCSS: normalized float32 [K, C, S, S], of the readable ones.
        places: of these K among the files asked for.
        problems: a line about each other one.
    """

    images_KCSS: Tensor
    places: list[int]
    problems: list[str]


def read(source: ImageSource, paths: Sequence[Path]) -> Read:
    """Read image files of any size through a source's evaluation crop and normalization.

    Raises:
        UserError: if the source's images are neither color nor gray.
    """
    if source.in_chans not in _MODES:
        raise UserError(f"the model sees {source.in_chans} channels; image files give 1 (gray) or 3 (color)")
    split = FolderSplit(paths, None, _MODES[source.in_chans], exif_orientation=source.exif_orientation)
    try:
        return Read(source.load(split, torch.arange(len(paths))), list(range(len(paths))), [])
    except Unreadable as error:
        crops, reasons = error.crops, error.reasons
    assert crops is not None  # files are opened one by one
    kept = [place for place in range(len(paths)) if place not in reasons]
    problems = [f"{paths[place]}: {reason}" for place, reason in sorted(reasons.items())]
    return Read(source.normalize(crops.images_NCSS[kept]), kept, problems)

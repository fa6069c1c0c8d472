"""Images of any folder, as a trained model sees them.

Shape suffixes: K readable images, C channels, S side.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

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
    split = FolderSplit(paths, None, _MODES[source.in_chans])
    try:
        return Read(source.load(split, torch.arange(len(paths))), list(range(len(paths))), [])
    except Unreadable as error:
        crops, reasons = error.crops, error.reasons
    assert crops is not None  # files are opened one by one
    kept = [place for place in range(len(paths)) if place not in reasons]
    problems = [f"{paths[place]}: {reason}" for place, reason in sorted(reasons.items())]
    return Read(source.normalize(crops.images_NCSS[kept]), kept, problems)


def image_files(folder: Path) -> Iterator[Path]:
    """The image files in a folder and its subfolders, in alphabetical order, one folder's names in memory at a time.

    Hidden ones are left out. Links to folders are followed, none twice.

    Raises:
        UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one that holds images")
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith("."):
                yield Path(parent, name)

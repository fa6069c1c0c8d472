"""A trained model for images that are not its run's: loaded without the run's data, and fed from any folder.

Shape suffixes: K readable images, C channels, S side.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import gin
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from hpm.config import parse_config
from hpm.data import FolderSplit, ImageSource, Unreadable
from hpm.errors import UserError
from hpm.inference.loading import Loaded, check_weights, inference_bindings, load

_MODES = {1: "L", 3: "RGB"}


def load_model(
    path: Path,
    configs: Sequence[str] = (),
    bindings: Sequence[str] = (),
    *,
    weights: str = "student",
    data: bool = False,
) -> Loaded:
    """Load a model for use, not for training.

    Args:
        path: a run's folder, a checkpoint-* folder, or a published file.
        configs: for a published file.
        bindings: gin bindings over the configuration.
        weights: which weights will be asked for, "student" or "teacher".
        data: whether the run's images are needed. Without them, image folders that the configuration names need not
            be there; what it says of their size, crop and normalization holds all the same.

    Raises:
        UserError: where there is no model, it does not fit its configuration, or has no such weights.
    """
    check_weights(weights)
    if weights == "teacher" and path.is_file():
        raise UserError(f"--weights teacher: of {path}, a published file, the student alone is read; choose student")
    if data:
        return load(path, configs, [*inference_bindings(), *bindings])
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (8, 8)).save(Path(folder, "stand-in.png"))
        stand_in = _stand_in(_source_name(path, configs, bindings), folder)
        return load(path, configs, [*inference_bindings(), *stand_in, *bindings])


def _stand_in(source: str, folder: str) -> list[str]:
    """Bindings that put a folder of one image in the place of the run's."""
    if source == "ImageFolder":
        return [f"ImageFolder.root = {folder!r}"]
    if source == "TimmDataset":
        return [f"TimmDataset.root = {folder!r}", "TimmDataset.name = ''", "TimmDataset.train_split = 'train'"]
    return []


def _source_name(path: Path, configs: Sequence[str], bindings: Sequence[str]) -> str:
    """The class that the configuration reads images with; "" where it cannot be told, which `load` then explains."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            names = list(configs) or [str(_config_file(path, Path(folder)))]
            parse_config(names, bindings)
            return gin.query_parameter("Trainer.source").config_key[1].rpartition(".")[2]
        except (UserError, OSError, ValueError, KeyError, AttributeError):
            return ""


def _config_file(path: Path, folder: Path) -> Path:
    if (path / "config.gin").is_file():
        return path / "config.gin"
    file = folder / "config.gin"
    file.write_text(json.loads((path / "state.json").read_text())["values"]["config"])
    return file


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

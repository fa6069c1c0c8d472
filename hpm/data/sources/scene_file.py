"""Files of rendered scenes, so that several runs need not each render the same ones.

A file holds the bytes of the pixels and their digest. It is written beside its place and put there when it is whole.

Shape suffixes: K scenes, S side in pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from hpm.errors import UserError
from hpm.runtime.files import replacing

_DIGEST = hashlib.sha256().digest_size


def scene_file(folder: Path, name: str, *defining: object) -> Path:
    """Where scenes are stored: a file named by everything that decides their pixels.

    The folder is made where it is missing.

    Args:
        folder: for such files.
        name: what people call the scenes.
        *defining: everything that decides the pixels, with a `repr` that says so.

    Raises:
        UserError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} for rendered scenes cannot be made: {error.strerror}") from error
    return folder / f"{name}-{hashlib.sha256(repr(defining).encode()).hexdigest()[:32]}.scenes"


def stored_scenes(path: Path, shape: tuple[int, ...], render: Callable[[], Tensor]) -> Tensor:
    """The scenes of a file, which is written first where it is missing, damaged or another's.

    Of several processes that ask at once one renders, and the others wait for its file.

    Args:
        path: what `scene_file` gave.
        shape: [K, 3, S, S].
        render: gives the scenes, uint8 of that shape.

    Raises:
        UserError: if the file system refuses something.
    """
    try:
        images_KCSS = _read(path, shape)
        if images_KCSS is not None:
            return images_KCSS
        with FileLock(f"{path}.lock"):
            images_KCSS = _read(path, shape)
            if images_KCSS is None:
                images_KCSS = render()
                _write(path, images_KCSS)
    except OSError as error:
        raise UserError(f"rendered scenes cannot be read from or written to {path}: {error.strerror}") from error
    return images_KCSS


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    if not path.is_file() or path.stat().st_size != prod(shape) + _DIGEST:
        return None
    data = np.fromfile(path, dtype=np.uint8)
    pixels = data[: prod(shape)]
    if _digest(path, pixels) != data[len(pixels) :].tobytes():
        return None
    return torch.from_numpy(pixels).view(shape)


def _write(path: Path, images_KCSS: Tensor) -> None:
    pixels = images_KCSS.numpy().reshape(-1)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(pixels.data)
        file.write(_digest(path, pixels))


def _digest(path: Path, pixels: np.ndarray) -> bytes:
    """Of the file's name, which says whose pixels these are, and of the pixels."""
    digest = hashlib.sha256(path.name.encode())
    digest.update(pixels.data)
    return digest.digest()

"""Files that are written whole or not at all."""

from __future__ import annotations

import glob
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_SECONDS_LEFT_ALONE = 24 * 3600  # what nobody has written to for so long, a process left that was killed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder to, which takes the place of `path` at once in the end.

    The name is nobody else's, so that several processes may replace one file, and the last one's stays. After an
    exception `path` is as it was, and what was begun is removed; so is what a process left a day ago that was killed.

    Raises:
        OSError: if the file system refuses it.
    """
    for left in begun_for(path):
        with suppress(OSError):  # others remove it too
            if left.stat().st_mtime < time.time() - _SECONDS_LEFT_ALONE:
                _remove(left)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        _remove(partial)
        raise


def begun_for(path: Path) -> list[Path]:
    """What processes write at the moment, or wrote when they were killed, to take the place of `path`."""
    return list(path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 8}.partial"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content, whole or not at all.

    Raises:
        OSError: if the file system refuses it.
    """
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Replace a file's content by JSON, whole or not at all; see `to_json`.

    Raises:
        OSError: if the file system refuses it.
    """
    write_text(path, to_json(content, indent=2) + "\n")


def to_json(content: Any, *, indent: int | None = None) -> str:
    """JSON that every program reads: null for a number that is infinite or none, for which JSON has no word.

    Args:
        content: of dictionaries, lists, tuples, texts, numbers, True, False and None.
        indent: spaces of a level; None for a single line.
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def save_tensors(tensors: Mapping[str, Tensor], path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file for whoever may read other new files; safetensors' own are their owner's alone.

    Args:
        tensors: by name.
        path: the file.
        notes: the file's metadata.

    Raises:
        OSError: if the file system refuses it.
    """
    from safetensors.torch import save_file

    path.open("wb").close()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=None if notes is None else dict(notes))
    path.chmod(mode)


def flush_to_disk(path: Path) -> None:
    """Wait until a file or a folder is on the disk, also if the power fails.

    Raises:
        OSError: if the disk refuses it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expanded(path: str | Path) -> Path:
    """A path in which `~` is the home of the user, as a shell has it; one whose user is unknown stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)

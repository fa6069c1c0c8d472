"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what lies there at the end takes the place of `path` at once.

    After an exception `path` is as it was, and what was begun is removed.

    Raises:
        OSError: if the file system refuses it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a file's content, whole or not at all.

    Raises:
        OSError: if the file system refuses it.
    """
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Replace a file's content by JSON, whole or not at all.

    Raises:
        OSError: if the file system refuses it.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


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

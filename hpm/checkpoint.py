"""Checkpoints: written atomically, verified before they are trusted, the last few kept.

A checkpoint is one file, `checkpoint-00001200.pt`, named for the steps taken. It is written beside its final name
and renamed, so that a run killed in the middle leaves the one before. torch's format is a zip file with a checksum
of every record: a truncated or damaged file is recognized before anything is loaded from it.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from hpm.errors import UserError

_NAME = re.compile(r"checkpoint-(\d{8})\.pt")


def path_for(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return folder / f"checkpoint-{step:08d}.pt"


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, then delete all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_for(folder, step)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    for old in found(folder)[keep:]:
        old.unlink()
    return path


def found(folder: Path) -> list[Path]:
    """The folder's checkpoints, newest first."""
    return sorted((path for path in folder.glob("checkpoint-*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def damage(path: Path) -> str | None:
    """What is wrong with the file, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except Exception as error:  # a damaged header can raise nearly anything
        return str(error) or type(error).__name__
    return None if record is None else f"record {record} does not match its checksum"


def load(path: Path, *, map_location: torch.device | str = "cpu") -> dict[str, Any]:
    """Load one checkpoint; tensors, numbers and strings only, nothing is unpickled.

    Raises:
        UserError: if the file is missing, damaged or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file; give a checkpoint-*.pt from a run's checkpoints folder")
    reason = damage(path)
    if reason:
        raise UserError(f"{path} is damaged: {reason}")
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a checkpoint of this program: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or "student" not in state:
        raise UserError(f"{path} is not a checkpoint of this program: it holds no student")
    return state


def load_newest(folder: Path, *, map_location: torch.device | str = "cpu") -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint that is whole, and a line about each newer one that is not."""
    damaged: list[str] = []
    for path in found(folder):
        try:
            return load(path, map_location=map_location), damaged
        except UserError as error:
            damaged.append(str(error))
    return None, damaged

"""Checkpoints: verified before they are trusted; `hpm.runs.checkpoint_writer` writes them.

A checkpoint is a folder named for the steps taken:

    checkpoint-00001200/
        state.json                          numbers and strings, and the checksum of every file
        part-00000-of-00001.safetensors     tensors; one file, or one from each process where a model is sharded

Nothing is pickled. Files are put together by rows, so that any number of processes reads what any other number wrote.
"""

from __future__ import annotations

import json
import math
import re
import warnings
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpm.errors import Notice, UserError
from hpm.runs.content import require_content
from hpm.runs.manifest import Manifest
from hpm.runs.run_folder import RunFolder
from hpm.runtime.files import named_in_utf8, read_json
from hpm.runtime.finite import require_finite

_NAME = re.compile(r"checkpoint-([0-9]{8,})")
STATE_FILE = "state.json"
_KINDS = {  # of the values that a run saves
    "step": int,
    "seconds": float,
    "logged_seconds": float,
    "logged_step": int,
    "precision": str,
    "config": str,
    "manifest": dict,
    "curriculum": dict,
    "image_curriculum": dict,
    "supervision": dict,
    "scaler": dict | None,
}
_CHUNK = 1 << 24  # bytes read at once for a checksum


def list_checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, newest first."""
    return sorted(
        (path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=step_of, reverse=True
    )


def path_of(folder: Path, step: int) -> Path:
    """Where in the folder the checkpoint after so many steps is."""
    return folder / f"checkpoint-{step:08d}"


def step_of(path: Path) -> int:
    """The steps taken when a checkpoint was written, from its name."""
    match = _NAME.fullmatch(path.name)
    assert match
    return int(match[1])


class DamagedError(UserError):
    """A checkpoint that is not as it was written."""


class Checkpoint:
    """A whole checkpoint.

    Args:
        path: its folder.

    Attributes:
        values: the numbers and strings.

    Raises:
        DamagedError: if it is missing or damaged.
        UserError: if it is whole, and holds what no run saves.
    """

    def __init__(self, path: Path) -> None:
        if not (path / STATE_FILE).is_file():
            reason = f"{STATE_FILE} is missing" if path.exists() else "it does not exist"
            raise DamagedError(f"{path} is not a checkpoint: {reason}. Pass a run or a checkpoint-* folder of one")
        self.path = path
        try:
            self.values, parts = _verified(path)
            self._parts = list(map(_open, parts))
        except (OSError, ValueError, RecursionError, SafetensorError, UserError) as error:
            raise DamagedError(f"{path} is damaged: {error}") from error
        _check_values(path, self.values)

    def require(self, *names: str) -> None:
        """Refuse a checkpoint that lacks one of these values.

        Raises:
            UserError: naming the file and the value.
        """
        require_content(self.values, self.path / STATE_FILE, {name: _KINDS[name] for name in names})

    @property
    def said(self) -> Mapping[str, Any]:
        """What the run tells and weights do not, see `Manifest.said`; published files tell theirs under this name."""
        return self.manifest.said

    @property
    def manifest(self) -> Manifest:
        """What the run said of itself when this was written.

        Raises:
            UserError: if it is damaged.
        """
        return Manifest.from_json(self.values.get("manifest"), self.path / STATE_FILE)

    def tensor(self, name: str) -> Tensor:
        """A whole tensor, on the CPU.

        Raises:
            UserError: if its parts do not go together.
        """
        try:
            return torch.cat(rows) if len(rows := self._rows(name)) > 1 else rows[0]
        except (RuntimeError, SafetensorError) as error:
            raise UserError(f"{self.path} is damaged: {name} cannot be put together: {error}") from error

    def _rows(self, name: str) -> list[Tensor]:
        return [part.get_tensor(name) for part in self._parts if name in part.keys()]  # noqa: SIM118 - not a mapping

    def names(self) -> list[str]:
        """The tensors' names."""
        return list(dict.fromkeys(name for part in self._parts for name in part.keys()))  # noqa: SIM118

    def state_dict(self, prefix: str) -> dict[str, Tensor]:
        """All tensors whose names begin with `prefix` and a dot, without them; empty where there are none."""
        start = f"{prefix}."
        return {name.removeprefix(start): self.tensor(name) for name in self.names() if name.startswith(start)}

    def weights(self, prefix: str, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """The same, or those of them that are named, which alone are read.

        Raises:
            UserError: if they are not finite.
        """
        found = self.state_dict(prefix) if names is None else {name: self.tensor(f"{prefix}.{name}") for name in names}
        require_finite(found, self.path)
        return found


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a line about each newer one that is not.

    Raises:
        UserError: if it is whole, and holds what no run saves.
    """
    damaged: list[str] = []
    for path in list_checkpoints(folder):
        try:
            return Checkpoint(path), damaged
        except DamagedError as error:
            damaged.append(str(error))
    return None, damaged


def manifest_of(run: RunFolder, *, told: bool = True) -> Manifest:
    """What a run says of itself in `run.json` or, where that is damaged, in its newest checkpoint.

    Args:
        run: the run's folder.
        told: whether a notice says so then.

    Raises:
        UserError: where neither does.
    """
    try:
        return Manifest.read(run.manifest)
    except UserError as error:
        newest, _ = load_newest(run.checkpoints)
        if newest is None or "manifest" not in newest.values:
            raise
        if told:
            warnings.warn(f"{error}; what {newest.path} holds of it is taken instead", Notice, stacklevel=2)
        return newest.manifest


def kept_config(folder: Path) -> tuple[str, Path] | None:
    """The configuration that the newest checkpoint was trained under, and that checkpoint; None where none tells.

    Tensors are not read.
    """
    for path in list_checkpoints(folder):
        try:
            config = _state(path / STATE_FILE)["values"].get("config")
        except (OSError, ValueError, RecursionError, UserError):
            continue
        if isinstance(config, str):
            return config, path
    return None


def find_checkpoint(path: Path) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that a path names, every byte of it read.

    Args:
        path: a run's folder, whose newest whole checkpoint is taken; or a checkpoint-* folder, or a link to one.

    Returns:
        The checkpoint, and what to tell the user: each newer one that is damaged, and which is taken instead.

    Raises:
        UserError: where there is none.
    """
    if not RunFolder(path).config.is_file():
        # A link moves on, as `checkpoints/latest` does: what is kept of it names the folder that it means now.
        return Checkpoint(path.resolve() if path.is_symlink() else path), []
    newest, damaged = load_newest(RunFolder(path).checkpoints)
    told = "; ".join(damaged)
    if newest is None:
        raise UserError(f"{path} holds no whole checkpoint{told and f': {told}'}")
    return newest, [*damaged, f"{newest.path} is taken instead"] if damaged else []


def _verified(path: Path) -> tuple[dict[str, Any], list[Path]]:
    """The values and the tensor files, every byte of them checked."""
    state = _state(path / STATE_FILE)
    parts = []
    for name, expected in state["parts"].items():
        if Path(name).name != name:
            raise ValueError(f"{name} lies outside the checkpoint")
        if not (path / name).is_file():
            raise ValueError(f"{name} is missing")
        if checksum_of_file(path / name) != expected:
            raise ValueError(f"{name} does not match its checksum")
        parts.append(path / name)
    return state["values"], parts


def _state(file: Path) -> dict[str, Any]:
    """The content of a state file, by its checksum as it was written."""
    state = require_content(read_json(file), file, {"checksum": int, "parts": dict[str, int], "values": dict})
    checksum = state.pop("checksum")
    if checksum != checksum_of_text(state):
        raise ValueError(f"{STATE_FILE} does not match its checksum")
    return state


def _open(part: Path) -> Any:
    with named_in_utf8(part) as name:
        return safe_open(name, framework="pt")


def _check_values(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse values of other types than a run saves, or beyond what they can be. Which must be there the use says."""
    file = path / STATE_FILE
    require_content(values, file, {}, _KINDS)
    for name in ("step", "seconds", "logged_step", "logged_seconds"):
        if not 0 <= values.get(name, 0) < math.inf:
            raise UserError(f"{file} is damaged: {name!r} = {values[name]} must be at least 0")
    if _NAME.fullmatch(path.name) and values.get("step", step_of(path)) != step_of(path):
        raise UserError(f"{file} is damaged: 'step' = {values['step']}, and the folder's name says {step_of(path)}")
    if values.get("logged_step", 0) > values.get("step", math.inf):
        raise UserError(f"{file} is damaged: 'logged_step' = {values['logged_step']} is later than its step")


def checksum_of_text(state: Mapping[str, Any]) -> int:
    """CRC-32 of what JSON holds."""
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def checksum_of_file(path: Path) -> int:
    """CRC-32 of every byte."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum

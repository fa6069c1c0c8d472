"""Checkpoints: written in the background, atomically, and verified before they are trusted.

A checkpoint is a folder named for the steps taken:

    checkpoint-00001200/
        state.json                          numbers and strings, and the checksum of every file
        part-00000-of-00001.safetensors     tensors; one file, or one from each process where a model is sharded

It is written beside its final name and renamed, so that a run killed in the middle leaves the one before. The link
`latest` points to the newest. Nothing is pickled. Parts are put together by rows, so that any number of processes
reads what any other number wrote.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hpm.errors import Notice, UserError
from hpm.runtime.distributed import PATIENCE, DistributedContext, local_tensor, shard_rows

_NAME = re.compile(r"checkpoint-(\d{8})")
_STATE = "state.json"
_CHUNK = 1 << 24  # bytes read at once for a checksum


def list_checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, newest first."""
    return sorted((path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)), reverse=True)


def step_of(path: Path) -> int:
    """The steps taken when a checkpoint was written, from its name."""
    match = _NAME.fullmatch(path.name)
    assert match
    return int(match[1])


class Checkpoint:
    """A whole checkpoint.

    Args:
        path: its folder.

    Attributes:
        values: the numbers and strings.

    Raises:
        UserError: if it is missing, damaged or not a checkpoint.
    """

    def __init__(self, path: Path) -> None:
        if not (path / _STATE).is_file():
            raise UserError(f"{path} is no checkpoint: there is no {_STATE}; give a checkpoint-* folder of a run")
        self.path = path
        try:
            self.values, parts = _verified(path)
            self._parts = [safe_open(part, framework="pt") for part in parts]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise UserError(f"{path} is damaged: {error}") from error

    def tensor(self, name: str) -> Tensor:
        """A whole tensor, on the CPU."""
        return torch.cat(rows) if len(rows := self._rows(name)) > 1 else rows[0]

    def _rows(self, name: str) -> list[Tensor]:
        return [part.get_tensor(name) for part in self._parts if name in part.keys()]  # noqa: SIM118 - not a mapping

    def names(self) -> list[str]:
        """The tensors' names."""
        return list(dict.fromkeys(name for part in self._parts for name in part.keys()))  # noqa: SIM118

    def state_dict(self, prefix: str) -> dict[str, Tensor]:
        """All tensors whose names begin with `prefix` and a dot, without them; empty where there are none."""
        start = f"{prefix}."
        return {name.removeprefix(start): self.tensor(name) for name in self.names() if name.startswith(start)}

    def load_into(self, module: nn.Module, prefix: str, *, exclude_prefix: str | None = None) -> None:
        """Give a module the weights that lie under `prefix`; those whose names start with `exclude_prefix` stay as they are.

        Raises:
            UserError: if they are another model's.
        """
        state = self.state_dict(prefix)
        if exclude_prefix is not None:
            own = {name: value for name, value in module.state_dict().items() if name.startswith(exclude_prefix)}
            state = {name: value for name, value in state.items() if not name.startswith(exclude_prefix)} | own
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise UserError(f"{self.path} does not fit this model: {reason}") from error


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a line about each newer one that is not."""
    damaged: list[str] = []
    for path in list_checkpoints(folder):
        try:
            return Checkpoint(path), damaged
        except UserError as error:
            damaged.append(str(error))
    return None, damaged


def _verified(path: Path) -> tuple[dict[str, Any], list[Path]]:
    """The values and the tensor files, every byte of them checked."""
    state = json.loads((path / _STATE).read_text())
    checksum = state.pop("checksum")
    if checksum != _checksum_of_text(state):
        raise ValueError(f"{_STATE} does not match its checksum")
    parts = []
    for name, expected in state["parts"].items():
        if Path(name).name != name:
            raise ValueError(f"{name} lies outside the checkpoint")
        if not (path / name).is_file():
            raise ValueError(f"{name} is missing")
        if _checksum_of_file(path / name) != expected:
            raise ValueError(f"{name} does not match its checksum")
        parts.append(path / name)
    return state["values"], parts


def _checksum_of_text(state: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def _checksum_of_file(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


class CheckpointWriter:
    """Writes checkpoints in the background: `save` copies the tensors and returns.

    A checkpoint that cannot be written, e.g. because the disk is full, is warned of; training goes on, and the next
    one is tried as if nothing had happened.

    Args:
        folder: where they go.
        processes: who trains. Where tensors are sharded each process writes its part, else the main one writes all.
        keep: how many of the newest are kept.
        keep_every: steps between those that are kept for good; 0 for none.
        sharded: whether tensors are.

    Attributes:
        writes: whether this process writes anything at all.
        written: the steps taken at the newest checkpoint that is on disk, -1 before there is one.
        problem: why the last one could not be written, or None.
    """

    def __init__(
        self, folder: Path, processes: DistributedContext, *, keep: int, keep_every: int, sharded: bool
    ) -> None:
        self.folder = folder
        self.processes = processes
        self.keep = keep
        self.keep_every = keep_every
        self.written = -1
        self.problem: str | None = None
        self._parts = processes.world_size if sharded else 1
        self.writes = sharded or processes.is_main
        self._copies: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        # The background threads agree through a group of their own: collectives of two threads must not mix.
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if self._parts > 1 else None

    def save(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Copy the state as it is now, and write it in the background. Waits for the checkpoint before.

        Args:
            step: steps taken.
            tensors: by name; of sharded ones this process's rows are written.
            values: what JSON can hold, the same in every process.
        """
        self.wait()
        if not self.writes:
            return
        if not self.processes.is_main:
            tensors = {name: tensor for name, tensor in tensors.items() if shard_rows(tensor) is not None}
        for name, tensor in tensors.items():
            rows = local_tensor(tensor.detach())
            if name not in self._copies:
                self._copies[name] = torch.empty_like(
                    rows, device="cpu", pin_memory=rows.is_cuda, memory_format=torch.contiguous_format
                )
            self._copies[name].copy_(rows, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        mine = {name: self._copies[name] for name in tensors}
        self._thread = threading.Thread(target=self._write, args=(step, mine, dict(values)), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until what was saved last is on disk, or could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self.problem:
                warnings.warn(f"{self.problem}; training goes on", Notice, stacklevel=2)

    def _write(self, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        path = self.folder / f"checkpoint-{step:08d}"
        partial = path.with_suffix(".partial")
        error: Exception | None = None
        checksums: dict[str, int] = {}
        try:
            checksums = self._write_part(partial, tensors)
        except Exception as caught:  # a thread that died would leave the others waiting
            error = caught
        error = self._agree(error, checksums)
        if self.processes.is_main:
            try:
                if error is None:
                    self._complete(partial, path, checksums, values)
            except Exception as caught:
                error = caught
            if error is not None:
                shutil.rmtree(partial, ignore_errors=True)
        error = self._agree(error, {})
        self.problem = f"checkpoint {path.name} could not be written: {error}" if error else None
        if error is None:
            self.written = step

    def _write_part(self, partial: Path, tensors: dict[str, Tensor]) -> dict[str, int]:
        rank = self.processes.rank if self._parts > 1 else 0
        if rank == 0:
            for left in self.folder.glob("checkpoint-*.*"):  # of a run that was killed while it wrote or removed
                if left != partial:
                    shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        file = partial / f"part-{rank:05d}-of-{self._parts:05d}.safetensors"
        save_file(tensors, file)
        _flush(file)
        return {file.name: _checksum_of_file(file)}

    def _agree(self, error: Exception | None, checksums: dict[str, int]) -> Exception | None:
        """Tell the other processes' threads; collects everybody's checksums."""
        if self._group is None:
            return error
        everybody: list[Any] = [None] * self._parts
        dist.all_gather_object(
            everybody, (str(error) or type(error).__name__ if error else None, checksums), group=self._group
        )
        for reason, theirs in everybody:
            checksums |= theirs
            if reason is not None and error is None:
                error = OSError(reason)
        return error

    def _complete(self, partial: Path, path: Path, checksums: dict[str, int], values: dict[str, Any]) -> None:
        state: dict[str, Any] = {"parts": dict(sorted(checksums.items())), "values": values}
        (partial / _STATE).write_text(json.dumps(state | {"checksum": _checksum_of_text(state)}))
        _flush(partial / _STATE)
        _flush(partial)
        for other in list_checkpoints(self.folder):
            if step_of(other) >= step_of(path):  # damaged, or of a future that was not: its steps are taken again
                _remove(other)
        partial.rename(path)
        _flush(self.folder)
        _point(self.folder / "latest", path.name)
        expendable = [
            old for old in list_checkpoints(self.folder) if not self.keep_every or step_of(old) % self.keep_every
        ]
        for old in expendable[self.keep :]:
            _remove(old)


def _flush(path: Path) -> None:
    """Onto the disk, also if the power fails."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Under another name first: what bears a checkpoint's name is whole."""
    if path.exists():
        doomed = path.with_suffix(".removed")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _point(link: Path, name: str) -> None:
    """A link that is replaced at once; where a file system has none, going without harms nothing."""
    partial = link.with_suffix(".partial")
    try:
        partial.unlink(missing_ok=True)
        partial.symlink_to(name)
        partial.replace(link)
    except OSError:
        pass

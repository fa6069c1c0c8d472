"""CheckpointWriter: writes checkpoints in the background.

A checkpoint is written beside its final name and renamed, so that a run killed in the middle leaves the one before.
The link `latest` points to the newest.
"""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpm.errors import Notice
from hpm.runs.checkpoint import STATE_FILE, checksum_of_file, checksum_of_text, list_checkpoints, path_of, step_of
from hpm.runtime.distributed import PATIENCE, DistributedContext, local_tensor, shard_rows
from hpm.runtime.files import flush_to_disk, save_tensors

LATEST = "latest"  # the link to the newest


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
        path = path_of(self.folder, step)
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
        save_tensors(tensors, file)
        flush_to_disk(file)
        return {file.name: checksum_of_file(file)}

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
        (partial / STATE_FILE).write_text(json.dumps(state | {"checksum": checksum_of_text(state)}), encoding="utf-8")
        flush_to_disk(partial / STATE_FILE)
        flush_to_disk(partial)
        for other in list_checkpoints(self.folder):
            if step_of(other) >= step_of(path):  # damaged, or of a future that was not: its steps are taken again
                _remove(other)
        partial.rename(path)
        flush_to_disk(self.folder)
        _point(self.folder / LATEST, path.name)
        expendable = [
            old for old in list_checkpoints(self.folder) if not self.keep_every or step_of(old) % self.keep_every
        ]
        for old in expendable[self.keep :]:
            _remove(old)


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

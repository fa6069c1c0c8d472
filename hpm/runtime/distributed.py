"""One process or many: who this one is, what all agree on, and how a model is spread over them.

Processes are started by `torchrun`, which tells each its place in the environment. Without it there is one, and
everything here costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hpm.errors import MainProcessError

T = TypeVar("T")

SHARDINGS = ("none", "fsdp")

# The main process evaluates while the others wait; a lost process is noticed by torchrun, not by this.
PATIENCE = timedelta(hours=12)

# Groups that were left. DistributedDataParallel frees the group it is the last to hold without giving up Python's
# lock, and waits for threads that may need it: with gloo in torch 2.8 a finished run then never ended.
_left: list[Any] = []


@dataclass(frozen=True)
class DistributedContext:
    """This process among all that train together.

    Args:
        rank: its number.
        world_size: how many there are.
        local_rank: its number on its machine.
        restarts: how often torchrun has started these processes anew.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    restarts: int = 0

    @classmethod
    def from_environment(cls) -> DistributedContext:
        """What torchrun says, or the only process there is."""

        def number(name: str, default: int) -> int:
            return int(os.environ.get(name, default))

        return cls(
            number("RANK", 0), number("WORLD_SIZE", 1), number("LOCAL_RANK", 0), number("TORCHELASTIC_RESTART_COUNT", 0)
        )

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def connect(self, device: torch.device) -> None:
        """Meet the others. Collectives on the device go through NCCL, those on the CPU through gloo."""
        if self.world_size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            # torchrun's store outlives a restart, and a group that was left: what was written there before, by these
            # processes or those before them, must not be read again.
            store, rank, world_size = next(rendezvous("env://", timeout=PATIENCE))
            store = dist.PrefixStore(f"start-{self.restarts}-{len(_left)}", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE)

    def disconnect(self) -> None:
        """Leave the others."""
        if dist.is_initialized():
            _left.append(dist.group.WORLD)
            dist.destroy_process_group()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place; queued on the device, nothing waits."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The largest of all processes, of each element, in place; queued likewise."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, all of one type and device, by its mean over all processes; in one message."""
        found = list(tensors)
        if self.world_size == 1 or not found:
            return
        flat = self.sum(torch.cat([tensor.flatten() for tensor in found])).div_(self.world_size)
        for tensor, part in zip(found, flat.split([tensor.numel() for tensor in found]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def share(self, rows: Tensor) -> Tensor:
        """This process's stretch of the rows: equal ones by rank, the last shorter or empty."""
        size = -(-len(rows) // self.world_size)
        return rows[self.rank * size : (self.rank + 1) * size]

    def collect(self, rows: Tensor, count: int) -> Tensor | None:
        """Put together what each process made of its `share` of `count` rows, on the CPU. Waits.

        Args:
            rows: [this process's share, ...] on the CPU.
            count: of all.

        Returns:
            [count, ...] in the main process, None in the others.
        """
        if self.world_size == 1:
            return rows
        size = -(-count // self.world_size)
        padded = torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])
        if not self.is_main:
            dist.gather(padded)
            return None
        whole = rows.new_empty(size * self.world_size, *rows.shape[1:])
        dist.gather(padded, list(whole.split(size)))
        return whole[:count]

    def gather(self, value: T) -> list[T]:
        """Everybody's value, by rank, in every process. Waits."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for the others."""
        self.gather(None)

    def main_only(self, action: Callable[[], T]) -> T | None:
        """Let the main process do something while the others wait; if it fails, all do.

        Returns:
            What `action` returned, None in the other processes.
        """
        result, error = None, None
        if self.is_main:
            try:
                result = action()
            except Exception as caught:
                error = caught
        if self.world_size > 1:
            reason = self.gather("" if error is None else str(error) or type(error).__name__)[0]
            if error is None and reason:
                raise MainProcessError(reason)
        if error:
            raise error
        return result


def shard(model: nn.Module, blocks: Iterable[nn.Module], *, methods: Iterable[str], device: torch.device) -> None:
    """Spread a model's parameters over all processes, block by block (FSDP2), in place.

    Parameters are gathered in float32, as autocast finds them without sharding: half the traffic would be saved by
    gathering bf16, at the price of norms and tokens in bf16.

    Args:
        model: the whole.
        blocks: parts of it that are gathered one at a time.
        methods: further methods that run forward passes.
        device: where the parameters are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for part in (*blocks, model):
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        # Asked for the mean of scattered gradients, torch 2.8's gloo returns their sum: here torch divides it.
        sharded.set_force_sum_reduction_for_comms(device.type == "cpu")
    for method in methods:
        register_fsdp_forward_method(model, method)


def without_reduction(module: Any) -> AbstractContextManager[Any]:
    """For all micro-batches of a step but the last: gradients stay in this process.

    Args:
        module: what computes, perhaps compiled, perhaps wrapped by DistributedDataParallel.
    """
    wrapped = getattr(module, "_orig_mod", module)
    return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()


def local_tensor(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, in every process; any other tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_into(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole tensor's value into a tensor, into this process's part of it where it is sharded."""
    part = shard_rows(tensor)
    if part is not None:
        value = value[part[0] : part[1]]
    local_tensor(tensor).copy_(value)


def shard_rows(tensor: Tensor) -> tuple[int, int] | None:
    """Which rows of the whole this process holds of a sharded tensor; None for any other tensor.

    FSDP2 splits the first dimension as `torch.chunk` does: equal parts, the last ones shorter or empty.
    """
    if not isinstance(tensor, DTensor):
        return None
    rows, places = tensor.shape[0], tensor.device_mesh.size()
    size = -(-rows // places)
    start = min(tensor.device_mesh.get_local_rank() * size, rows)
    return start, min(start + size, rows)

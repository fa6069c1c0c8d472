"""Whole copies of models whose parameters are spread over processes."""

from __future__ import annotations

import copy

import torch

from hpm.models.base import MaskedModel
from hpm.runtime.distributed import DistributedContext, full_tensor


class ShardedModels:
    """Makes whole models of sharded ones. Made before the student is sharded.

    Args:
        student: the whole student; its structure and its buffers are kept.
        processes: that train together.
    """

    def __init__(self, student: MaskedModel, processes: DistributedContext) -> None:
        self._student = student
        self._processes = processes
        self._skeleton = copy.deepcopy(student).to("meta")

    def gather(self, model: MaskedModel, *, everywhere: bool = False) -> MaskedModel:
        """A whole copy of a sharded model, without gradients. Every process must call this.

        Args:
            model: the sharded one.
            everywhere: give every process its values; by default the main one alone, where evaluations are.
        """
        wanted = everywhere or self._processes.is_main
        gathered = self.empty()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                value = full_tensor(tensor)
                if wanted:
                    gathered.state_dict()[name].copy_(value)
        # Where it is never used it must not take a device's memory.
        device = self._student.mask_token.device if wanted else "cpu"
        return gathered.requires_grad_(False).to(device)

    def empty(self) -> MaskedModel:
        """A model of the same structure on the CPU, its parameters without values."""
        empty = copy.deepcopy(self._skeleton).to_empty(device="cpu")
        for name, buffer in empty.named_buffers():  # positions, which no initialization sets
            buffer.copy_(self._student.get_buffer(name))
        return empty

"""MaskerStep: trains a curriculum's difficulty beside the model, where it is one that learns."""

from __future__ import annotations

import torch
from torch import nn

from curriculum import Batch, Curriculum, Noise
from hpm.methods.student_pass import Losses
from hpm.runtime.distributed import DistributedContext


class MaskerStep:
    """Takes the optimizer steps of a trained difficulty, one with each of the model's.

    Its network is small: every process holds all of it, and gradients are averaged in one message. A step whose
    gradient is not finite is skipped.

    Args:
        curriculum: prepared, with a difficulty that learns.
        processes: who trains together.

    Attributes:
        module: the network.
        optimizer: AdamW of its parameters, fused.
    """

    def __init__(self, curriculum: Curriculum, processes: DistributedContext) -> None:
        trained = curriculum.trained
        assert trained is not None
        assert trained.module is not None  # by `Curriculum.prepare`
        self.curriculum = curriculum
        self.processes = processes
        self.module: nn.Module = trained.module
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=trained.lr, weight_decay=trained.weight_decay, fused=True
        )

    def accumulate(self, batch: Batch, losses: Losses, *, progress: float, noise: Noise, micro_batches: int) -> None:
        """Add a micro-batch's gradient, one of `micro_batches`."""
        loss = self.curriculum.masker_loss(batch, losses.mask, losses.true_NM, progress, noise)
        (loss / micro_batches).backward()

    def update(self) -> None:
        """Take the step."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        self.processes.average(gradients)
        finite = torch.nn.utils.get_total_norm(gradients).isfinite()
        # How a gradient scaler tells a fused optimizer to skip a step without asking the host.
        self.optimizer.grad_scale, self.optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

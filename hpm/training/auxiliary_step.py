"""AuxiliaryStep: trains a network beside the model, a curriculum's difficulty or what a target keeps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpm.runtime.distributed import DistributedContext


class AuxiliaryStep:
    """Takes the optimizer steps of a network beside the model, one with each of the model's.

    Every process holds all of it, and gradients are averaged in one message. A step is skipped where its own gradient
    or the model's is not finite.

    Args:
        module: holds the network.
        optimizer: of its parameters, fused. Groups with `lr_scale` follow the model's rate; others keep theirs.
        processes: who trains together.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, processes: DistributedContext) -> None:
        self.module = module
        self.optimizer = optimizer
        self.processes = processes

    def update(self, lr: float, *, taken: Tensor) -> None:
        """Take the step, by the gradients that the parameters have.

        Args:
            lr: the model's learning rate.
            taken: bool, whether the model takes its step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"] if "lr_scale" in group else group["lr"]
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        self.processes.average(gradients)
        finite = torch.nn.utils.get_total_norm(gradients).isfinite() & taken
        # How a gradient scaler tells a fused optimizer to skip a step without asking the host.
        self.optimizer.grad_scale, self.optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

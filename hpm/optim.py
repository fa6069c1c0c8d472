"""The optimizer and its learning rate, as MAE and HPM train."""

from __future__ import annotations

import math

import torch
from torch import nn

from hpm.clock import Clock


def scaled_learning_rate(blr: float, batch_size: int) -> float:
    """Base learning rate -> learning rate, by the effective batch: `blr * batch_size / 256`."""
    return blr * batch_size / 256


def learning_rate(clock: Clock, *, lr: float, min_lr: float, warmup_epochs: float) -> float:
    """Linear warm-up, then half a cosine to `min_lr`, at every iteration.

    With e the fractional epoch, W the warm-up and T the run: `lr * e / W` for e < W, else
    `min_lr + (lr - min_lr) * (1 + cos(pi * (e - W) / (T - W))) / 2`.
    """
    e = clock.fractional_epoch
    if e < warmup_epochs:
        return lr * e / warmup_epochs
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * (e - warmup_epochs) / (clock.epochs - warmup_epochs)))


def build_adamw(model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """Fused AdamW; decay on all parameters of two or more dimensions (tokens included), none on biases and norms."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr

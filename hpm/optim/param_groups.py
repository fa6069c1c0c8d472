"""Optimizers and the groups of their parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# timm's names of the parameters of blocks and of the merging layers between a Swin's stages.
_BLOCK = re.compile(r"(layers\.\d+\.)?blocks\.\d+\.")
_MERGING = re.compile(r"(layers\.\d+)\.downsample\.")
_UNDECAYED = ("cls_token", "reg_token", "pos_embed", "relative_position_bias_table")


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


def layer_groups(model: nn.Module, *, lr: float, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups with a learning rate that falls by `layer_decay` from each layer to the one before it.

    No weight decay on biases, norms, class tokens and positions (MAE's fine-tuning), relative ones among them. Written
    here because timm's layer decay puts the last norm elsewhere than MAE's.

    Args:
        model: a ViT or Swin of timm's.
        lr: learning rate of the head, or 1 where a schedule gives it.
        layer_decay: factor between the learning rates of neighboring layers.
        weight_decay: on weights.

    Returns:
        Groups with `params`, `weight_decay` and `lr_scale`, what a schedule's learning rate is multiplied by.
    """
    blocks: dict[str, int] = {}  # the number of each by name: a ViT's, or those of all of a Swin's stages
    for name, _ in model.named_parameters():
        if block := _BLOCK.match(name):
            blocks.setdefault(block[0], len(blocks) + 1)
    last = len(blocks) + 1
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        layer = _layer_of(name, blocks)
        decays = parameter.ndim >= 2 and not name.endswith(_UNDECAYED)
        group = groups.setdefault(
            (layer, decays),
            {"params": [], "lr_scale": lr * layer_decay ** (last - layer), "weight_decay": weight_decay * decays},
        )
        group["params"].append(parameter)
    return list(groups.values())


def head_groups(parameters: Iterable[nn.Parameter], *, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups of what stands on an encoder: the schedule's learning rate; no weight decay on biases and norms.

    Args:
        parameters: of the head.
        weight_decay: on weights.
    """
    found = list(parameters)
    return [
        {"params": [p for p in found if p.ndim >= 2], "lr_scale": 1.0, "weight_decay": weight_decay},
        {"params": [p for p in found if p.ndim < 2], "lr_scale": 1.0, "weight_decay": 0.0},
    ]


def _layer_of(name: str, blocks: dict[str, int]) -> int:
    """The number of a parameter's layer: 0 for the embedding, then the blocks, then all that follows them."""
    if name.startswith(("patch_embed", "cls_token", "reg_token", "pos_embed")):
        return 0
    if block := _BLOCK.match(name):
        return blocks[block[0]]
    if merging := _MERGING.match(name):  # goes with the first block of its stage
        return blocks[f"{merging[1]}.blocks.0."]
    return len(blocks) + 1

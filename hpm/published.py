"""Weights of published HPM and MAE implementations, under this project's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_RENAMED = (
    (r"^decoder_blocks_losspred\.", "loss_predictor.blocks."),
    (r"^decoder_norm_losspred\.", "loss_predictor.norm."),
    (r"^decoder_pred_losspred\.", "loss_predictor.head."),
    (r"^decoder_blocks\.", "reconstructor.blocks."),
    (r"^decoder_norm\.", "reconstructor.norm."),
    (r"^decoder_pred\.", "reconstructor.head."),
    (r"^(patch_embed|cls_token|pos_embed|blocks|norm)\b", r"encoder.\1"),
)


def rename(key: str) -> str:
    """A published parameter's name -> ours."""
    for pattern, replacement in _RENAMED:
        key, found = re.subn(pattern, replacement, key)
        if found:
            break
    return key


def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights -> a state dict of `MaskedAutoencoder`.

    The published loss head has `patch_size^2 * channels` outputs, which are averaged; ours is their row mean, the
    same function.
    """
    renamed = {rename(key): value for key, value in state_dict.items()}
    for kind in ("weight", "bias"):
        head = f"loss_predictor.head.{kind}"
        if head in renamed:
            renamed[head] = renamed[head].mean(dim=0, keepdim=True)
    return renamed

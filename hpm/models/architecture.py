"""What weights tell of the model that they are of."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Settings of a `MaskedAutoencoder` that are the size of a parameter along an axis.
_SIZES = {
    "patch_size": ("encoder.patch_embed.proj.weight", 2),
    "in_chans": ("encoder.patch_embed.proj.weight", 1),
    "embed_dim": ("encoder.cls_token", 2),
    "decoder_embed_dim": ("decoder_embed.weight", 0),
}
# And those that are the number of a component's blocks.
_DEPTHS = {"depth": "encoder", "decoder_depth": "reconstructor", "loss_predictor_depth": "loss_predictor"}
_HEAD_WIDTH = 64  # of ViT-Ti, S, B and L
_HEADS = {1280: 16, 1408: 16, 1664: 16}  # ViT-H, g and G
_DECODER_HEAD_WIDTH = 32  # MAE's and HPM's decoders have 16 heads at a width of 512


def architecture(state: Mapping[str, Tensor]) -> dict[str, float]:
    """The settings of a `MaskedAutoencoder` that weights tell, by name; those of absent components are left out.

    Args:
        state: weights under our names.
    """
    settings: dict[str, float] = {}
    hidden = state.get("encoder.blocks.0.mlp.fc1.weight")
    if hidden is not None and hidden.ndim == 2:
        settings["mlp_ratio"] = _ratio(*hidden.shape)
    for name, (parameter, axis) in _SIZES.items():
        if parameter in state and state[parameter].ndim > axis:
            settings[name] = state[parameter].shape[axis]
    for name, component in _DEPTHS.items():
        if blocks := {match[1] for key in state if (match := re.match(rf"{component}\.blocks\.(\d+)\.", key))}:
            settings[name] = len(blocks)
    return settings


def whole_architecture(state: Mapping[str, Tensor], said: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a `MaskedAutoencoder` that takes all of the weights, by name.

    A decoder that is absent is the smallest there is: its weights would mean nothing.

    Args:
        state: weights under our names, with a whole encoder.
        said: what the file says beside them: `num_heads`, `decoder_num_heads`.
    """
    told: dict[str, Any] = architecture(state)
    width = told["embed_dim"]
    heads = said.get("num_heads") or standard_heads(width)
    smallest = {"decoder_embed_dim": width, "decoder_depth": 1, "decoder_num_heads": heads}
    if "decoder_embed_dim" in told:
        own = told["decoder_embed_dim"]
        smallest["decoder_num_heads"] = said.get("decoder_num_heads") or _share(own, _DECODER_HEAD_WIDTH)
    predictor = 0 if "loss_predictor.head.weight" in state else None
    settings = {**smallest, "num_heads": heads, "loss_predictor_depth": predictor, **told}
    side = grid_side(state["encoder.pos_embed"]) if "encoder.pos_embed" in state else None
    if side is not None:
        settings["img_size"] = side * told["patch_size"]
    return settings | {"blank_token": "encoder_mask_token" in state}


def standard_heads(width: int) -> int:
    """Heads of the usual vision transformer of a width: 64 of the width each, but in ViT-H, g and G."""
    return _HEADS.get(width) or _share(width, _HEAD_WIDTH)


def grid_side(positions: Tensor) -> int | None:
    """The side of the square grid that positions [1, L, D] are of, a class token's first or not; None for another."""
    count = positions.shape[1] if positions.ndim == 3 else 0
    return next((math.isqrt(n) for n in (count - 1, count) if n > 0 and math.isqrt(n) ** 2 == n), None)


def _ratio(hidden: int, width: int) -> float:
    """By which a width becomes a hidden width, which is rounded down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _share(width: int, each: int) -> int:
    return width // each if width % each == 0 else 1

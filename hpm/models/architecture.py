"""What weights tell of the model that they are of."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from curriculum.sizes import Size, as_size, pair

# Settings of a `MaskedAutoencoder` that are the size of a parameter along an axis.
_SIZES = {
    "in_chans": ("encoder.patch_embed.proj.weight", 1),
    "embed_dim": ("encoder.cls_token", 2),
    "decoder_embed_dim": ("decoder_embed.weight", 0),
}
# And those that are the number of a component's blocks.
_DEPTHS = {"depth": "encoder", "decoder_depth": "reconstructor", "loss_predictor_depth": "loss_predictor"}
_HEAD_WIDTH = 64  # of ViT-Ti, S, B and L
_HEADS = {1280: 16, 1408: 16, 1664: 16}  # ViT-H, g and G
_DECODER_HEAD_WIDTH = 32  # MAE's and HPM's decoders have 16 heads at a width of 512


def architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings of a `MaskedAutoencoder` that weights tell, by name; those of absent components are left out.

    Args:
        state: weights under our names.
    """
    settings: dict[str, Any] = {}
    hidden = state.get("encoder.blocks.0.mlp.fc1.weight")
    if hidden is not None and hidden.ndim == 2:
        settings["mlp_ratio"] = _ratio(*hidden.shape)
    if "encoder.cls_token" in state:
        settings["class_tokens"] = class_tokens_of(state)
    for name, (parameter, axis) in _SIZES.items():
        if parameter in state and state[parameter].ndim > axis:
            settings[name] = state[parameter].shape[axis]
    if (patch_size := patch_size_of(state)) is not None:
        settings["patch_size"] = patch_size
    for name, component in _DEPTHS.items():
        if blocks := {match[1] for key in state if (match := re.match(rf"{component}\.blocks\.(\d+)\.", key))}:
            settings[name] = len(blocks)
    return settings


def whole_architecture(state: Mapping[str, Tensor], said: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a `MaskedAutoencoder` that takes all of the weights, by name.

    A decoder that is absent is the smallest there is: its weights would mean nothing.

    Args:
        state: weights under our names, with a whole encoder.
        said: what the file says beside them: `num_heads`, `decoder_num_heads`, `grid`.
    """
    told = architecture(state)
    width = told["embed_dim"]
    heads = said.get("num_heads") or standard_heads(width)
    smallest = {"decoder_embed_dim": width, "decoder_depth": 1, "decoder_num_heads": heads}
    if "decoder_embed_dim" in told:
        own = told["decoder_embed_dim"]
        smallest["decoder_num_heads"] = said.get("decoder_num_heads") or _share(own, _DECODER_HEAD_WIDTH)
    predictor = 0 if "loss_predictor.head.weight" in state else None
    settings = {**smallest, "num_heads": heads, "loss_predictor_depth": predictor, **told}
    grid = None
    if "encoder.pos_embed" in state:
        grid = grid_of(state["encoder.pos_embed"], said.get("grid"), class_tokens=class_tokens_of(state))
    if grid is not None:
        (rows, columns), (height, width) = grid, pair(told["patch_size"])
        settings["img_size"] = as_size("weights", 1, img_size=(rows * height, columns * width))
    return settings | {"blank_token": "encoder_mask_token" in state}


def standard_heads(width: int) -> int:
    """Heads of the usual vision transformer of a width: 64 of the width each, but in ViT-H, g and G."""
    return _HEADS.get(width) or _share(width, _HEAD_WIDTH)


def patch_size_of(state: Mapping[str, Tensor]) -> Size | None:
    """Of the patches that weights under our names embed, in pixels; None where they embed none."""
    embedding = state.get("encoder.patch_embed.proj.weight")
    if embedding is None or embedding.ndim != 4 or not embedding.numel():
        return None
    return as_size("weights", 1, patch_size=(embedding.shape[2], embedding.shape[3]))


def class_tokens_of(state: Mapping[str, Tensor]) -> int:
    """The class tokens of an encoder whose weights are under our names: one, and the register tokens that there are."""
    others = state.get("encoder.reg_token")
    return 1 if others is None or others.ndim != 3 else 1 + others.shape[1]


def grid_of(positions: Tensor, told: tuple[int, int] | None = None, *, class_tokens: int = 1) -> tuple[int, int] | None:
    """The rows and columns of the grid that positions [1, L, D] are of, those of class tokens first or not.

    Args:
        positions: of a vision transformer.
        told: the grid that is told beside them. Default None; then, and where that is of another number of patches, a
            square grid is looked for.
        class_tokens: how many there are. Default 1.

    Returns:
        None where there is no such grid.
    """
    count = positions.shape[1] if positions.ndim == 3 else 0
    counts = (count - class_tokens, count)
    if told is not None and math.prod(told) in counts:
        return told
    side = next((math.isqrt(n) for n in counts if n > 0 and math.isqrt(n) ** 2 == n), None)
    return None if side is None else (side, side)


def _ratio(hidden: int, width: int) -> float:
    """By which a width becomes a hidden width, which is rounded down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _share(width: int, each: int) -> int:
    return width // each if width % each == 0 else 1

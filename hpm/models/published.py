"""Weights that others published, under this project's names: MAE's, HPM's, timm's and Hugging Face's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from curriculum.sizes import Size, as_size, pair
from hpm.errors import UserError
from hpm.models.architecture import architecture, patch_size_of
from hpm.models.weight_files import WeightFile, read_weight_file
from hpm.runtime.finite import require_finite

CLASSIFIER = "classifier."
"""What the names of a classifier's weights begin with, whoever trained it."""

_RENAMED = (
    (r"^decoder_blocks_losspred\.", "loss_predictor.blocks."),
    (r"^decoder_norm_losspred\.", "loss_predictor.norm."),
    (r"^decoder_pred_losspred\.", "loss_predictor.head."),
    (r"^decoder_blocks\.", "reconstructor.blocks."),
    (r"^decoder_norm\.", "reconstructor.norm."),
    (r"^decoder_pred\.", "reconstructor.head."),
    (r"^(head|head_dist|fc_norm|classifier|pooler)\.", rf"{CLASSIFIER}\1."),
    (r"^(?=(patch_embed|cls_token|reg_token|pos_embed|blocks|norm|layers|shared_rel_pos)\b)", "encoder."),
)
_HUGGING_FACE = "embeddings.patch_embeddings.projection.weight"
_RENAMED_HUGGING_FACE = (
    (r"^embeddings\.position_embeddings$", "encoder.pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "encoder.patch_embed.proj."),
    (r"^embeddings\.", "encoder."),
    (r"^encoder\.layer\.", "encoder.blocks."),
    (r"^layernorm\.", "encoder.norm."),
    (r"^decoder\.decoder_layers\.", "reconstructor.blocks."),
    (r"^decoder\.decoder_norm\.", "reconstructor.norm."),
    (r"^decoder\.decoder_pred\.", "reconstructor.head."),
    (r"^decoder\.", ""),
    (r"^(classifier|pooler)\.", rf"{CLASSIFIER}\1."),
)
_RENAMED_BLOCK = (
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
_SEPARATE = ("query", "key", "value")
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of DistributedDataParallel and torch.compile


@dataclass(frozen=True)
class Published:
    """What a file of weights holds, under our names.

    Args:
        path: the file.
        layout: whose file it is, "MAE's checkpoint".
        student: a state dict of `MaskedAutoencoder`, whole or of some components, positions included.
        teacher: the same of the moving average, or None.
        said: settings that weights do not tell and the file does: `num_heads`, `decoder_num_heads`, the `grid` of
            patches, of the images `mean` and `std`, what is reconstructed, `target`, and of our own exports how
            evaluation shows images, `crop_pct`, `crop_mode` and `exif_orientation`.
    """

    path: Path
    layout: str
    student: dict[str, Tensor]
    teacher: dict[str, Tensor] | None = None
    said: Mapping[str, Any] = field(default_factory=dict)


def rename(key: str) -> str:
    """A published parameter's name -> ours."""
    return _first(key, _RENAMED)


def _first(key: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in patterns:
        key, replaced = re.subn(pattern, replacement, key, count=1)
        if replaced:
            break
    return key


def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights -> a state dict of `MaskedAutoencoder`.

    The published loss head has `patch_size^2 * channels` outputs, which are averaged; ours is their row mean, the
    same function. A model without biases of query, key and value has biases of 0.
    """
    if any(key.startswith("encoder.patch_embed.") for key in state_dict):
        return dict(state_dict)
    if any(key.endswith(_HUGGING_FACE) for key in state_dict):
        return _from_hugging_face(state_dict)
    renamed = {rename(key): value for key, value in state_dict.items()}
    for kind in ("weight", "bias"):
        head = f"loss_predictor.head.{kind}"
        if head in renamed and renamed[head].is_floating_point():  # others are refused where they are used
            renamed[head] = renamed[head].mean(dim=0, keepdim=True)
    return _with_biases(_with_one_class_token(renamed))


def _from_hugging_face(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's ViT and ViTMAE: query, key and value are apart, and become one."""
    renamed = {}
    for key, value in state_dict.items():
        name = _first(key.removeprefix("vit."), _RENAMED_HUGGING_FACE)
        renamed[_first(name, _RENAMED_BLOCK) if ".blocks." in name else name] = value
    for name in [name for name in renamed if f".attn.{_SEPARATE[0]}." in name]:
        parts = [name.replace(f".{_SEPARATE[0]}.", f".{part}.") for part in _SEPARATE]
        if all(part in renamed for part in parts):
            renamed[name.replace(_SEPARATE[0], "qkv")] = torch.cat([renamed.pop(part) for part in parts])
    return _with_biases(_with_one_class_token(renamed))


def _with_one_class_token(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pixio keeps all class tokens in one parameter; here, as in timm, those behind the first are apart."""
    name, others = "encoder.cls_token", "encoder.reg_token"
    tokens = state.get(name)
    if tokens is None or tokens.ndim != 3 or tokens.shape[1] < 2 or others in state:
        return state
    return state | {name: tokens[:, :1].clone(), others: tokens[:, 1:].clone()}


def _with_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With biases of 0 where no block has any: where some do, others were lost."""
    weights = [name for name in state if name.endswith(".attn.qkv.weight")]
    biases = {name.removesuffix("weight") + "bias": state[name].new_zeros(len(state[name])) for name in weights}
    return state if biases.keys() & state.keys() else state | biases


def load_published(path: Path) -> Published:
    """Read what others published.

    That is a file of HPM's or MAE's, a state dict (torch.save), a safetensors file, or a folder of timm's or Hugging
    Face's.

    Raises:
        UserError: if there is no such file, it is damaged, holds objects other than weights, or none of these.
    """
    return published(read_weight_file(path), path)


def published(file: WeightFile, path: Path) -> Published:
    """The same of a file that was read, or of the folder that `path` is.

    Raises:
        UserError: if it holds no weights of these layouts.
    """
    content, layout, teacher = file.content, "a state dict", None
    if isinstance(content.get("state_dict"), Mapping):  # beside it "model" is the architecture's name
        average = content.get("ema_state_dict")
        teacher = _weights(average, file.path) if isinstance(average, Mapping) else None
        content, layout = content["state_dict"], "HPM's checkpoint"
    elif isinstance(content.get("model"), Mapping):
        content, layout = content["model"], "MAE's checkpoint"
    student = _weights(content, file.path)
    width, told = file.config.get("hidden_size"), architecture(student).get("embed_dim")
    if width is not None and told is not None and width != told:
        raise UserError(
            f"{file.path}: the config.json beside it is another model's: it says hidden_size = {width!r}, and these "
            f"weights are {told} wide"
        )
    grid = _grid(file, patch_size_of(student))
    return Published(path, layout, student, teacher, _said(file) | ({} if grid is None else {"grid": grid}))


def _weights(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """A saved state dict under our names."""
    weights = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise UserError(f"{path}: the name {key!r} of a weight is no text, so it is no state dict")
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path}: {key!r} is of type {type(value).__name__}, and no tensor; weights are looked for under "
                "'state_dict' (HPM), 'model' (MAE) or at the top"
            )
        weights[_WRAPPERS.sub("", key)] = value
    require_finite(weights, path)
    return from_published(weights)


def _said(file: WeightFile) -> dict[str, Any]:
    """What the file, or the config.json beside it, says and weights do not."""
    config = file.config
    act = config.get("hidden_act", "gelu")
    if act != "gelu":
        raise UserError(
            f"{file.path}: its config.json says hidden_act = {act!r}, and this project's blocks have 'gelu'"
        )
    heads = {
        "num_heads": config.get("num_attention_heads") or _heads_of_timm(config) or _note(file, "encoder", "num_heads"),
        "decoder_num_heads": config.get("decoder_num_attention_heads") or _note(file, "decoder", "num_heads"),
    }
    images = _section(config, "pretrained_cfg")
    scales = {name: images.get(name) or _note(file, name) for name in ("mean", "std")}
    said: dict[str, Any] = {
        name: value for name, value in heads.items() if isinstance(value, int) and 0 < value < 2**31
    }
    if all(map(_are_numbers, scales.values())) and min(scales["std"]) > 0:
        said |= {name: tuple(value) for name, value in scales.items()}
    said |= _shown(file)
    return said | ({"target": file.notes["target"]} if "target" in file.notes else {})


def _shown(file: WeightFile) -> dict[str, Any]:
    """How evaluation shows images to an encoder that we exported; others' files say how a fine-tuned model saw them."""
    if "made_by" not in file.notes:
        return {}
    images = _section(file.config, "pretrained_cfg")
    crop_pct, crop_mode = (images.get(name) or _note(file, name) for name in ("crop_pct", "crop_mode"))
    if not (isinstance(crop_pct, int | float) and 0 < crop_pct <= 1 and crop_mode in ("center", "squash")):
        return {}
    upright = _note(file, "exif_orientation") is True
    return {"crop_pct": float(crop_pct), "crop_mode": crop_mode, "exif_orientation": upright}


def _grid(file: WeightFile, patch_size: Size | None) -> tuple[int, int] | None:
    """Rows and columns of the patches of an image of the size that the file, or the config.json beside it, says."""
    config = file.config
    input_size = _section(config, "pretrained_cfg").get("input_size")
    for size in (
        config.get("image_size"),
        _section(config, "model_args").get("img_size"),
        tuple(input_size[1:]) if isinstance(input_size, list) else None,
        _note(file, "encoder", "img_size"),
    ):
        if patch_size is None or not size:
            continue
        if isinstance(size, Mapping):  # as Hugging Face's image processors have it
            size = (size.get("height"), size.get("width"))
        try:
            sides = pair(as_size("config.json", 1, size=size))
        except ValueError:
            continue
        if max(sides) >= 2**31:
            continue
        height, width = pair(patch_size)
        return sides[0] // height, sides[1] // width
    return None


def _are_numbers(values: Any) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) > 0
        and all(isinstance(value, int | float) and abs(value) < 1e30 for value in values)  # which NaN is not
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _heads_of_timm(config: Mapping[str, Any]) -> Any:
    """As the arguments say, or the model of that name has."""
    arguments, name = _section(config, "model_args"), config.get("architecture")
    if "num_heads" in arguments or not isinstance(name, str) or not timm.is_model(name):
        return arguments.get("num_heads")
    with torch.device("meta"):
        blocks: Any = getattr(timm.create_model(name), "blocks", [None])
    return getattr(getattr(blocks[0], "attn", None), "num_heads", None)


def _note(file: WeightFile, name: str, setting: str | None = None) -> Any:
    """What a safetensors file that we exported notes; None for others."""
    try:
        noted = json.loads(file.notes.get(name, "null"))
    except (ValueError, RecursionError):
        return None
    if setting is None:
        return noted
    return noted.get(setting) if isinstance(noted, Mapping) else None

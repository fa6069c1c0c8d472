"""Files of published weights: HPM's, MAE's and those of plain encoders, under this project's names.

Files are read as data: nothing in them is run.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hpm.errors import UserError
from hpm.runtime.files import named_in_utf8
from hpm.runtime.finite import require_finite

_RENAMED = (
    (r"^decoder_blocks_losspred\.", "loss_predictor.blocks."),
    (r"^decoder_norm_losspred\.", "loss_predictor.norm."),
    (r"^decoder_pred_losspred\.", "loss_predictor.head."),
    (r"^decoder_blocks\.", "reconstructor.blocks."),
    (r"^decoder_norm\.", "reconstructor.norm."),
    (r"^decoder_pred\.", "reconstructor.head."),
    (r"^(patch_embed|cls_token|pos_embed|blocks|norm)\b", r"encoder.\1"),
)
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of DistributedDataParallel and torch.compile
_COMPONENTS = {
    "encoder": ("encoder.",),
    "reconstructor": ("decoder_embed.", "mask_token", "reconstructor."),
    "loss predictor": ("loss_predictor.",),
}


def rename(key: str) -> str:
    """A published parameter's name -> ours."""
    for pattern, replacement in _RENAMED:
        key, replaced = re.subn(pattern, replacement, key)
        if replaced:
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
        if head in renamed and renamed[head].is_floating_point():  # others are refused where they are used
            renamed[head] = renamed[head].mean(dim=0, keepdim=True)
    return renamed


def component_of(parameter: str) -> str | None:
    """The component of a `MaskedAutoencoder` that a parameter belongs to: "encoder", "reconstructor", "loss predictor".

    None for a parameter of none of them.
    """
    return next((name for name, prefixes in _COMPONENTS.items() if parameter.startswith(prefixes)), None)


@dataclass(frozen=True)
class Published:
    """What a file of weights holds, under our names.

    Args:
        layout: "HPM's checkpoint", "MAE's checkpoint" or "weights alone".
        student: a state dict of `MaskedAutoencoder`, whole or of some components, positions included.
        teacher: the same of the moving average, or None.
    """

    layout: str
    student: dict[str, Tensor]
    teacher: dict[str, Tensor] | None = None

    @property
    def missing_components(self) -> tuple[str, ...]:
        """Components of which the file holds nothing: these start from initialization."""
        present = {component_of(name) for name in self.student}
        return tuple(name for name in _COMPONENTS if name not in present)


def load_published(path: Path) -> Published:
    """Read a file of HPM's or MAE's, a plain state dict (torch.save) or a safetensors file, as timm's are.

    Raises:
        UserError: if there is no such file, it is damaged, holds objects other than weights, or none of these.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. Pass a file of weights, e.g. a .pth or .safetensors file")
    if not path.is_file():
        raise UserError(f"there is no file {path}. Pass a file of weights, a run, or a checkpoint-* folder of one")
    content = _read(path)
    if isinstance(content.get("state_dict"), Mapping):  # beside it "model" is the architecture's name
        average = content.get("ema_state_dict")
        teacher = _weights(average, path) if isinstance(average, Mapping) else None
        return Published("HPM's checkpoint", _weights(content["state_dict"], path), teacher)
    if isinstance(content.get("model"), Mapping):
        return Published("MAE's checkpoint", _weights(content["model"], path))
    return Published("weights alone", _weights(content, path))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            with named_in_utf8(path) as name:
                return load_file(name)
        with torch.serialization.safe_globals([argparse.Namespace]):  # MAE's files hold their command's options
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise UserError(f"{path} is damaged, or not a file of weights") from error
        raise UserError(
            f"{path} holds more than weights: reading it would run {foreign[1]}, and was refused; save its state dict "
            "alone, torch.save(model.state_dict(), ...), where you trust it"
        ) from error
    except Exception as error:  # a damaged pickle fails in any way there is
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is damaged, or not a file of weights: {reason}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _weights(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """A saved state dict under our names."""
    weights = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path}: {key!r} is a {type(value).__name__}, not a tensor; weights are looked for under 'state_dict' "
                "(HPM), 'model' (MAE) or at the top"
            )
        weights[_WRAPPERS.sub("", key)] = value
    require_finite(weights, path)
    return from_published(weights)

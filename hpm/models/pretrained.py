"""Weights of published HPM and MAE implementations, and of plain encoders, under this project's names.

Files are read as data: nothing in them is run.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hpm.errors import UserError
from hpm.models.patches import sincos_positions

if TYPE_CHECKING:
    from hpm.models.masked_autoencoder import MaskedAutoencoder

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
_CLASSIFIER = ("head.weight", "head.bias")
_POSITIONS = ("encoder.pos_embed", "decoder_pos_embed")
_BLANK = "encoder_mask_token"  # UM-MAE's, which neither MAE nor HPM has
_PARTS = {
    "encoder": ("encoder.",),
    "reconstructor": ("decoder_embed.", "mask_token", "reconstructor."),
    "loss predictor": ("loss_predictor.",),
}
_SAME_POSITIONS = 1e-2  # of values up to 1: bf16 rounds by half of that, learned ones are far off


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


@dataclass(frozen=True)
class Published:
    """What a file of weights holds, under our names.

    Args:
        layout: "HPM's checkpoint", "MAE's checkpoint" or "weights alone".
        student: a state dict of `MaskedAutoencoder`, whole or in part, positions included.
        teacher: the same of the moving average, or None.
    """

    layout: str
    student: dict[str, Tensor]
    teacher: dict[str, Tensor] | None = None

    @property
    def missing_parts(self) -> tuple[str, ...]:
        """Parts of which the file holds nothing: these start from initialization."""
        return tuple(part for part in _PARTS if not any(_part_of(name) == part for name in self.student))


def _part_of(name: str) -> str | None:
    """Which part a parameter of ours belongs to."""
    return next((part for part, prefixes in _PARTS.items() if name.startswith(prefixes)), None)


def load_published(path: Path) -> Published:
    """Read a file of HPM's or MAE's, a plain state dict (torch.save) or a safetensors file, as timm's are.

    Raises:
        UserError: if there is no such file, it is damaged, holds objects other than weights, or none of these.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file of weights, e.g. a .pth or .safetensors file")
    if not path.is_file():
        raise UserError(f"there is no file {path}; give a file of weights, or a checkpoint-* folder of a run")
    content = _read(path)
    if isinstance(content.get("state_dict"), Mapping):  # beside it "model" is the architecture's name
        average = content.get("ema_state_dict")
        teacher = _ours(average, path) if isinstance(average, Mapping) else None
        return Published("HPM's checkpoint", _ours(content["state_dict"], path), teacher)
    if isinstance(content.get("model"), Mapping):
        return Published("MAE's checkpoint", _ours(content["model"], path))
    return Published("weights alone", _ours(content, path))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # MAE's files hold their command's options
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise UserError(f"{path} is damaged, or no file of weights") from error
        raise UserError(
            f"{path} holds more than weights: reading it would run {foreign[1]}, and was refused; save its state dict "
            "alone, torch.save(model.state_dict(), ...), where you trust it"
        ) from error
    except Exception as error:  # a damaged pickle fails in any way there is
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is damaged, or no file of weights: {reason}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _ours(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    weights = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path}: {key!r} is a {type(value).__name__}, not a tensor; weights are looked for under 'state_dict' "
                "(HPM), 'model' (MAE) or at the top"
            )
        weights[_WRAPPERS.sub("", key)] = value
    return from_published(weights)


def load_published_into(model: MaskedAutoencoder, path: Path, *, exclude_prefix: str | None = None) -> list[str]:
    """Load a file's student into a model, in place.

    What the file holds must fit: the encoder be whole, other parts whole or absent, every shape equal and nothing be
    left over but a classifier's head. Absent parts stay as they are in the model. Position embeddings are computed,
    not loaded; where the file's are not the sin-cos ones of some square grid it is refused.

    Args:
        model: what to load into.
        path: the file.
        exclude_prefix: parameters whose names start so stay as they are.

    Returns:
        What to tell the user.

    Raises:
        UserError: naming the parameter at fault and the binding that would fit.
    """
    file = load_published(path)
    state, lines = dict(file.student), [f"weights from {path}: {file.layout}"]
    for name in _CLASSIFIER:
        if state.pop(name, None) is not None and name == "head.weight":
            lines.append("its classifier's head is left out")
    lines += [line for name in _POSITIONS if (line := _check_positions(state.pop(name, None), name, model, path))]
    own = {name: parameter for name, parameter in model.state_dict().items() if name not in _POSITIONS}
    if exclude_prefix is not None:
        state, own = (
            {name: value for name, value in of.items() if not name.startswith(exclude_prefix)} for of in (state, own)
        )
    if _BLANK not in state and own.pop(_BLANK, None) is not None:
        lines.append("it holds no mask token of the encoder, which starts from initialization")
    absent = [part for part in file.missing_parts if any(_part_of(name) == part for name in own)]
    if "encoder" in absent:
        raise UserError(f"{path} holds no encoder: its first weights are {', '.join(list(state)[:3]) or 'none'}")
    _check_fit(state, {name: value for name, value in own.items() if _part_of(name) not in absent}, model, path)
    model.load_state_dict(state, strict=False)
    lines += [f"it holds no {part}, which starts from initialization" for part in absent]
    if file.teacher is not None:
        lines.append("its teacher is not used: a new one starts as the student's copy")
    first: Any = model.encoder.blocks[0]
    heads = first.attn.num_heads
    lines.append(
        f"weights do not tell how many heads they are for: MaskedAutoencoder.num_heads = {heads} must be right"
    )
    return lines


def _check_positions(value: Tensor | None, name: str, model: MaskedAutoencoder, path: Path) -> str | None:
    """Refuse positions that ours would not replace; a line where ours are of another grid."""
    if value is None:
        return None
    own = model.state_dict()[name]
    if value.ndim != 3 or value.shape[2] != own.shape[2]:
        return None  # of another width, as other parameters are, which are refused by name
    side = round((value.shape[1] - 1) ** 0.5)
    fixed = sincos_positions(value.shape[2], (side, side)).unsqueeze(0)
    if fixed.shape != value.shape or not torch.allclose(value.float(), fixed, rtol=0, atol=_SAME_POSITIONS):
        raise UserError(
            f"{path}: {name} {list(value.shape)} holds learned positions, or those of another kind; this model's are "
            "fixed sin-cos ones, as in MAE and HPM, and such weights cannot do without their own"
        )
    if value.shape == own.shape:
        return None
    return f"{name}: sin-cos positions are computed for this model's grid of {model.grid}, the file's is {(side, side)}"


def _check_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], model: MaskedAutoencoder, path: Path) -> None:
    """Every parameter on both sides, in one shape."""
    theirs, ours = _architecture(state), _architecture(model.state_dict())
    wanted = [f"MaskedAutoencoder.{name} = {value}" for name, value in theirs.items() if ours.get(name) != value]
    advice = f"; {', '.join(wanted)} would fit" if wanted else ""
    for name in own:
        if name in state and state[name].shape != own[name].shape:
            raise UserError(
                f"{path}: {name} is {list(state[name].shape)}, in this model {list(own[name].shape)}{advice}"
            )
    for name in state:
        if name not in own:
            raise UserError(f"{path}: {name} {list(state[name].shape)} has no place in this model{advice}")
    for name in own:
        if name not in state:
            raise UserError(f"{path}: {name} {list(own[name].shape)} is missing{advice}")


def _architecture(state: Mapping[str, Tensor]) -> dict[str, float]:
    """The arguments of `MaskedAutoencoder` that weights tell."""
    found: dict[str, float] = {}
    hidden = state.get("encoder.blocks.0.mlp.fc1.weight")
    if hidden is not None and hidden.ndim == 2:
        found["mlp_ratio"] = hidden.shape[0] / hidden.shape[1]
    for name, (parameter, axis) in {
        "embed_dim": ("encoder.cls_token", 2),
        "patch_size": ("encoder.patch_embed.proj.weight", 2),
        "in_chans": ("encoder.patch_embed.proj.weight", 1),
        "decoder_embed_dim": ("mask_token", 2),
    }.items():
        if parameter in state and state[parameter].ndim > axis:
            found[name] = state[parameter].shape[axis]
    for name, prefix in (
        ("depth", "encoder"),
        ("decoder_depth", "reconstructor"),
        ("loss_predictor_depth", "loss_predictor"),
    ):
        blocks = {match[1] for key in state if (match := re.match(rf"{prefix}\.blocks\.(\d+)\.", key))}
        if blocks:
            found[name] = len(blocks)
    return found

"""Loading published weights into a model: everything must fit, and what does not is named with what would."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hpm.errors import UserError
from hpm.models.base import MaskedModel
from hpm.models.patches import sincos_positions
from hpm.models.published import component_of, load_published

_CLASSIFIER = ("head.weight", "head.bias")
_POSITIONS = ("encoder.pos_embed", "decoder_pos_embed")
_BLANK_TOKEN = "encoder_mask_token"  # UM-MAE's, which neither MAE nor HPM has
_SAME_POSITIONS = 1e-2  # of values up to 1: bf16 rounds by half of that, learned ones are far off

# Settings of a model that weights tell: each the size of a parameter along an axis.
_SIZES = {
    "embed_dim": ("encoder.cls_token", 2),
    "patch_size": ("encoder.patch_embed.proj.weight", 2),
    "in_chans": ("encoder.patch_embed.proj.weight", 1),
    "decoder_embed_dim": ("mask_token", 2),
}
# And each the number of a component's blocks.
_DEPTHS = {"depth": "encoder", "decoder_depth": "reconstructor", "loss_predictor_depth": "loss_predictor"}


def load_published_into(model: MaskedModel, path: Path, *, exclude_prefix: str | None = None) -> list[str]:
    """Load a file's student into a `MaskedAutoencoder`, in place.

    What the file holds must fit: the encoder be whole, other components whole or absent, every shape equal and nothing
    be left over but a classifier's head. Absent components stay as they are in the model. Position embeddings are
    computed, not loaded; where the file's are not the sin-cos ones of some square grid it is refused.

    Args:
        model: what to load into.
        path: the file.
        exclude_prefix: parameters whose names start so stay as they are. Default none.

    Returns:
        What to tell the user.

    Raises:
        UserError: naming the parameter at fault and the binding that would fit.
    """
    published = load_published(path)
    state = dict(published.student)
    lines = [f"weights from {path}: {published.layout}"]
    lines += _leave_out_classifier(state)
    lines += _leave_out_positions(state, model, path)
    own = {name: parameter for name, parameter in model.state_dict().items() if name not in _POSITIONS}
    if exclude_prefix is not None:
        state = _without_prefix(state, exclude_prefix)
        own = _without_prefix(own, exclude_prefix)
    if _BLANK_TOKEN not in state and own.pop(_BLANK_TOKEN, None) is not None:
        lines.append("it holds no mask token of the encoder, which starts from initialization")
    absent = [name for name in published.missing_components if any(component_of(key) == name for key in own)]
    if "encoder" in absent:
        raise UserError(f"{path} holds no encoder: its first weights are {', '.join(list(state)[:3]) or 'none'}")
    _check_fit(state, {key: value for key, value in own.items() if component_of(key) not in absent}, model, path)
    model.load_state_dict(state, strict=False)
    lines += [f"it holds no {name}, which starts from initialization" for name in absent]
    if published.teacher is not None:
        lines.append("its teacher is not used: a new one starts as the student's copy")
    lines.append(
        f"weights do not tell how many heads they are for: {type(model).__name__}.num_heads = "
        f"{model.encoder.num_heads} must be right"
    )
    return lines


def _leave_out_classifier(state: dict[str, Tensor]) -> list[str]:
    """Remove a classifier's head, and report it."""
    removed = [state.pop(name, None) for name in _CLASSIFIER]
    return [] if removed[0] is None else ["its classifier's head is left out"]


def _leave_out_positions(state: dict[str, Tensor], model: MaskedModel, path: Path) -> list[str]:
    """Remove position embeddings, which the model computes; report those that it computes for another grid."""
    lines = []
    for name in _POSITIONS:
        value = state.pop(name, None)
        own = model.state_dict()[name]
        # Those of another width are no worse than the other parameters of that width, which are refused by name.
        if value is None or value.ndim != 3 or value.shape[2] != own.shape[2]:
            continue
        side = _check_sincos(value, name, path)
        if value.shape != own.shape:
            lines.append(
                f"{name}: sin-cos positions are computed for this model's grid of {model.grid}, the file's is "
                f"{(side, side)}"
            )
    return lines


def _check_sincos(value: Tensor, name: str, path: Path) -> int:
    """Refuse positions that computed ones would not replace; the side of the square grid that they are of."""
    side = round((value.shape[1] - 1) ** 0.5)
    computed = sincos_positions(value.shape[2], (side, side)).unsqueeze(0)
    if computed.shape != value.shape or not torch.allclose(value.float(), computed, rtol=0, atol=_SAME_POSITIONS):
        raise UserError(
            f"{path}: {name} {list(value.shape)} holds learned positions, or those of another kind; this model's are "
            "fixed sin-cos ones, as in MAE and HPM, and such weights cannot do without their own"
        )
    return side


def _without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(prefix)}


def _check_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], model: MaskedModel, path: Path) -> None:
    """Refuse a file unless it and the model have the same parameters, in the same shapes.

    Raises:
        UserError: naming the first that differs, and the settings that would fit.
    """
    fault = next(_misfits(state, own), None)
    if fault is None:
        return
    theirs, ours = _architecture(state), _architecture(model.state_dict())
    wanted = [f"{type(model).__name__}.{name} = {value}" for name, value in theirs.items() if ours.get(name) != value]
    advice = f"; {', '.join(wanted)} would fit" if wanted else ""
    raise UserError(f"{path}: {fault}{advice}")


def _misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[str]:
    for name, parameter in own.items():
        if name in state and state[name].shape != parameter.shape:
            yield f"{name} is {list(state[name].shape)}, in this model {list(parameter.shape)}"
        elif name in state and state[name].is_floating_point() != parameter.is_floating_point():
            yield f"{name} is {state[name].dtype}, in this model {parameter.dtype}"
    for name, value in state.items():
        if name not in own:
            yield f"{name} {list(value.shape)} has no place in this model"
    for name, parameter in own.items():
        if name not in state:
            yield f"{name} {list(parameter.shape)} is missing"


def _architecture(state: Mapping[str, Tensor]) -> dict[str, float]:
    """The settings of a `MaskedAutoencoder` that weights tell."""
    settings: dict[str, float] = {}
    hidden = state.get("encoder.blocks.0.mlp.fc1.weight")
    if hidden is not None and hidden.ndim == 2:
        settings["mlp_ratio"] = hidden.shape[0] / hidden.shape[1]
    for name, (parameter, axis) in _SIZES.items():
        if parameter in state and state[parameter].ndim > axis:
            settings[name] = state[parameter].shape[axis]
    for name, component in _DEPTHS.items():
        blocks = {match[1] for key in state if (match := re.match(rf"{component}\.blocks\.(\d+)\.", key))}
        if blocks:
            settings[name] = len(blocks)
    return settings

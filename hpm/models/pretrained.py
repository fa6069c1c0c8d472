"""Loading weights into a model: the one place where names and shapes are matched.

A component (encoder, reconstructor, loss predictor ...) that both have must fit as a whole. One that only the weights
have is left out, one that only the model has stays as it is, and one `Notice` says how much that is.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpm.errors import Notice, UserError
from hpm.models.architecture import architecture, class_tokens_of, grid_of
from hpm.models.base import MaskedModel
from hpm.models.patches import resample_positions, sincos_positions
from hpm.models.published import CLASSIFIER

_ENCODER = "encoder"
_COMPONENTS = {
    _ENCODER: ("encoder.",),
    "encoder's mask token": ("encoder_mask_token",),
    "loss predictor": ("loss_predictor.",),
    "classifier": (CLASSIFIER,),
    "class head": ("class_head.",),
    "reconstructor": ("decoder_embed.", "decoder_pos_embed", "mask_token", "reconstructor.", "head.", "feature_"),
}
_POSITIONS = ("encoder.pos_embed", "decoder_pos_embed")
# What the weights of a model with decoders hold: of all but CrossMAE, of CrossMAE, of BootMAE. A `SimMIM` has none.
_KINDS = ("decoder_embed.weight", "reconstructor.mix.weight", "feature_embed.weight")
_OF_DECODERS = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads", "loss_predictor_depth")
_LAST_NORM = "encoder.norm."
_POOLED_NORM = f"{CLASSIFIER}fc_norm.weight"
_SAME_POSITIONS = 1e-2  # of values up to 1: bf16 rounds by half of that, learned ones are far off


def load_into(
    model: MaskedModel,
    state: Mapping[str, Tensor],
    path: Path,
    *,
    said: Mapping[str, Any] | None = None,
    exclude: tuple[str, ...] = (),
) -> frozenset[str]:
    """Give a model the weights of another, in place: all or nothing.

    Positions of another grid are computed anew where they are sin-cos ones, and interpolated otherwise. A fine-tuned
    network has normalized the mean of its tokens (`fc_norm`) instead of each: the encoder's norm stays as it is then.

    Args:
        model: what to load into.
        state: the weights, under our names.
        path: where they are from.
        said: what is told beside them: `num_heads`, `decoder_num_heads`, and `grid`, the rows and columns of their
            positions, which are taken for a square's where it is not told.
        exclude: what stays as it is in the model, by the beginnings of names. Default nothing.

    Returns:
        The components of the model that stay as they are, or in part, such as "reconstructor" and "loss predictor".

    Raises:
        UserError: naming the parameter at fault and the binding that would fit.
    """
    if _ENCODER not in _components(state):
        raise UserError(f"{path} holds no encoder: its first weights are {', '.join(list(state)[:3]) or 'none'}")
    own = model.state_dict()
    kept = _kept(own, state, exclude)
    taken = _components(name for name in own if name not in kept)
    left_out = {name for name in state if _component_of(name) not in (*taken, None) or name.startswith(exclude)}
    given = {name: value for name, value in state.items() if name not in left_out}
    wanted = {name: value for name, value in own.items() if name not in kept}
    lines = _fit_positions(given, wanted, model, path, (said or {}).get("grid"))
    _check_fit(given, wanted, model, path, said or {})
    model.load_state_dict(given, strict=False)
    lines = [*_told("left out", left_out), *_told("as initialized", kept - set(_POSITIONS)), *lines]
    if lines:
        warnings.warn(f"{path}: {'; '.join(lines)}", Notice, stacklevel=2)
    return frozenset(filter(None, _components(kept - set(_POSITIONS))))


def _kept(own: Mapping[str, Tensor], state: Mapping[str, Tensor], exclude: tuple[str, ...]) -> set[str]:
    """What stays as it is in a model, by name."""
    there = _components(state)
    if any((name in state) != (name in own) for name in _KINDS):  # of another kind of model
        there -= {"reconstructor", "loss predictor"}
    kept = {name for name in own if _component_of(name) not in there or name.startswith(exclude)}
    if _POOLED_NORM in state:
        kept |= {name for name in own if name.startswith(_LAST_NORM) and name not in state}
    return kept


def _component_of(parameter: str) -> str | None:
    return next((name for name, prefixes in _COMPONENTS.items() if parameter.startswith(prefixes)), None)


def _components(names: Iterable[str]) -> set[str | None]:
    return {_component_of(name) for name in names}


def _told(what: str, names: Iterable[str]) -> list[str]:
    """How many weights, by how their names begin."""
    counts: Counter[str] = Counter()
    for name in sorted(names):
        parts = name.removeprefix(CLASSIFIER).split(".")
        kept = 2 if parts[0] == _ENCODER else 1
        counts[".".join(parts[:kept]) + (".*" if len(parts) > kept else "")] += 1
    return [f"{what}: {', '.join(f'{count} {beginning}' for beginning, count in counts.items())}"] if counts else []


def _fit_positions(
    given: dict[str, Tensor],
    wanted: dict[str, Tensor],
    model: MaskedModel,
    path: Path,
    told: tuple[int, int] | None,
) -> list[str]:
    """Bring the given positions to the model's grid; take out those that the model computes or nobody gives."""
    lines, prefix = [], class_tokens_of(given)
    for name in _POSITIONS:
        if name not in wanted:
            continue
        own = wanted[name]
        value = given.pop(name, own)
        if value.ndim != 3 or value.shape[2] != own.shape[2]:
            given[name] = value  # refused like other parameters that do not fit
            continue
        theirs = model.grid if same_positions(value, own) else grid_of(value, told, class_tokens=prefix)
        if told is None and value.shape == own.shape and math.prod(theirs or ()) != math.prod(model.grid):
            theirs = model.grid  # as many as the model has, of no square
        if theirs is None:
            raise UserError(
                f"{path}: {name} {list(value.shape)} is of no square grid, and no config.json beside it says of which"
            )
        value = value.float()
        if value.shape[1] == math.prod(theirs):  # none for the class tokens
            value = torch.cat([value.new_zeros(1, prefix, value.shape[2]), value], dim=1)
        if theirs != model.grid:
            width = value.shape[2]
            computed = sincos_positions(width, theirs, num_prefix_tokens=prefix) if width % 4 == 0 else None
            known = computed is not None and same_positions(value, computed.unsqueeze(0))
            rows, columns = model.grid
            how = "computed" if known else "interpolated"
            lines.append(f"{name} {how} for {rows} x {columns} patches, {theirs[0]} x {theirs[1]} there")
            value = own if known else resample_positions(value, model.grid, theirs, num_prefix_tokens=prefix)
        given[name] = value
    return lines


def same_positions(some: Tensor, others: Tensor) -> bool:
    """Whether positions are the same, up to what 16 bits round."""
    return some.shape == others.shape and torch.allclose(some.float(), others.float(), rtol=0, atol=_SAME_POSITIONS)


def _check_fit(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], model: MaskedModel, path: Path, said: Mapping[str, Any]
) -> None:
    """Refuse weights unless they and the model have the same parameters, in the same shapes.

    Raises:
        UserError: naming the first that differs, and the settings that would fit.
    """
    theirs = architecture(given)
    ours = architecture(model.state_dict())
    heads = {"num_heads": model.encoder.num_heads}
    if any(name in given for name in _KINDS) and model.decoder_num_heads is not None:
        heads["decoder_num_heads"] = model.decoder_num_heads
    heads = {name: own for name, own in heads.items() if name in said}
    theirs |= {name: said[name] for name in heads}
    ours |= heads
    fault = next(_misfits(given, wanted), None)
    others = (f"{name} is {said[name]}, in this model {own}" for name, own in heads.items() if said[name] != own)
    if fault is None and (fault := next(others, None)) is None:
        return
    wrong = [(name, value) for name, value in theirs.items() if ours.get(name) != value]
    owners = {name: type(model).__name__ if name in _OF_DECODERS else model.image_settings for name, _ in wrong}
    advice = ", ".join(f"{owners[name]}.{name} = {value}" for name, value in wrong)
    raise UserError(f"{path} does not fit this model: {fault}{f'; {advice} would fit' if advice else ''}")


def _misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[str]:
    for name, parameter in sorted(own.items(), key=lambda item: _component_of(item[0]) != _ENCODER):
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

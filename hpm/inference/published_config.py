"""The configuration of published weights: from their sizes, from what their file says, and from what is usual."""

from __future__ import annotations

from typing import Any

from hpm.errors import UserError
from hpm.models.architecture import whole_architecture
from hpm.models.published import Published

_COMMON = """\
include 'base.gin'
include 'data/image_folder.gin'
include 'curricula/random.gin'

Method.ema_decay = None
"""
_USUAL_SIZE = 224
_NEEDED = {  # and their shapes
    "encoder.cls_token": "[1, 1, width]",
    "encoder.patch_embed.proj.weight": "[width, channels, height, width]",
    "encoder.blocks.0.mlp.fc1.weight": "[hidden width, width]",
}


def published_config(found: Published) -> str:
    """A configuration in which published weights can be used, for others to be put over it.

    Raises:
        UserError: where they are not a vision transformer's.
    """
    state = found.student
    if missing := [name for name in _NEEDED if name not in state]:
        raise UserError(
            f"{found.path} holds no encoder that is a vision transformer with a class token, whose {missing[0]} there "
            f"would be: its first weights are {', '.join(list(state)[:3]) or 'none'}"
        )
    for name, shape in _NEEDED.items():
        if state[name].ndim != len(shape.split(", ")) or not state[name].numel():
            raise UserError(f"{found.path}: {name} is {list(state[name].shape)}, and a vision transformer's is {shape}")
    settings = whole_architecture(state, found.said)
    images: dict[str, Any] = {
        "IMG_SIZE": settings.pop("img_size", _USUAL_SIZE),
        "IN_CHANS": settings.pop("in_chans"),
    }
    channels = images["IN_CHANS"]
    scales = {
        f"ImageFolder.{name}": found.said[name] for name in ("mean", "std") if len(found.said.get(name, ())) == channels
    }
    shown = ("crop_pct", "crop_mode", "exif_orientation")
    shows = {f"ImageFolder.{name}": found.said[name] for name in shown if name in found.said}
    bindings = images | scales | shows | {f"MaskedAutoencoder.{name}": value for name, value in settings.items()}
    return _COMMON + "".join(f"{name} = {value!r}\n" for name, value in bindings.items())

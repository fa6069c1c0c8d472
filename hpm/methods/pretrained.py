"""The weights of a trained model in the place of a method's, for every command alike."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from hpm.data import ImageSource
from hpm.errors import Notice, UserError
from hpm.methods.method import Method
from hpm.models.base import MaskedModel
from hpm.models.pretrained import load_into
from hpm.models.published import Published
from hpm.runs.checkpoint import Checkpoint
from hpm.targets.pixels import PIXELS


class LoadedWeights(NamedTuple):
    """What came of it.

    Args:
        lines: what to tell the user.
        untrained: the student's components that stay as they were, or in part, as `load_into` names them.
    """

    lines: list[str]
    untrained: frozenset[str]


def load_weights(method: Method, found: Checkpoint | Published) -> LoadedWeights:
    """Give a method's student the weights of a trained model, and its moving average those of a checkpoint's.

    The head of another kind of target stays as it is.

    Args:
        method: whose they are.
        found: the trained model.

    Raises:
        UserError: if they are another model's.
    """
    student, target, kind = method.student, method.target, method.target.kind
    names = {module: f"{name}." for name, module in student.named_modules()}
    heads = tuple(names[head] for head in student.reconstruction_heads)
    said: Mapping[str, Any] = {}
    if isinstance(found, Checkpoint):
        state, other, said = found.weights("student"), found.manifest.target, found.manifest.said
    else:
        state, said = found.student, found.said
        other = said.get("target") or _target_of(student, state.get(f"{heads[0]}weight"))
    if other == kind and target.module is not None and not _load_kept(target.module, found):
        other = f"{other} whose own state is not told"
    exclude = () if other == kind else heads
    untrained = load_into(student, state, found.path, said=said, exclude=exclude)
    lines = _lines(student, found) if isinstance(found, Published) else []
    if isinstance(found, Checkpoint) and method.teacher.averaged_model is not None:
        _load_average(method.teacher.averaged_model, found, exclude)
    if other != kind and any(name.startswith(heads) for name in state):
        lines.append(
            f"the head starts from initialization: it reconstructs {other} in {found.path}, and {kind} by Method.target"
        )
    return LoadedWeights(lines, untrained)


def normalized_otherwise(source: ImageSource, said: Mapping[str, Any]) -> list[str]:
    """What to tell where images reach a model by another mean and deviation than in its training; nothing elsewhere.

    Args:
        source: of the images.
        said: what the trained model tells: `mean` and `std`, where it does.
    """
    # A gray model may be noted with the values of the colored images that its architecture is usually for.
    told = {name: said[name] for name in ("mean", "std") if len(said.get(name, ())) == source.in_chans}
    if all(np.allclose(told[name], getattr(source, name), atol=1e-3) for name in told):
        return []
    kind = type(source).__name__
    settable = inspect.signature(type(source)).parameters.keys() >= told.keys()
    values = {name: tuple(round(value, 4) for value in told[name]) for name in told}
    bindings = " ".join(f"-b '{kind}.{name} = {value}'" for name, value in values.items())
    return [
        f"{kind} normalizes pixels by another mean and deviation than the model was trained with"
        + (f"; as in training: {bindings}" if settable else "")
    ]


def _target_of(student: MaskedModel, head: Tensor | None) -> str:
    """What a head of others reconstructs: pixels, where it gives as many values as a patch has."""
    return PIXELS if head is None or len(head) == student.patch_pixels else "something else"


def _lines(student: MaskedModel, found: Published) -> list[str]:
    """What to tell of published weights beside what did not fit."""
    lines = [f"weights from {found.path}: {found.layout}"]
    if found.teacher is not None:
        lines.append("its teacher is not used: a new one starts as the student's copy")
    heads = [f"{student.image_settings}.num_heads = {student.encoder.num_heads}"] * ("num_heads" not in found.said)
    if "reconstructor.norm.weight" in found.student and "decoder_num_heads" not in found.said:
        heads += [f"decoder_num_heads = {student.decoder_num_heads}"] * (student.decoder_num_heads is not None)
    if heads:
        lines.append(f"weights do not tell how many heads they are for: {' and '.join(heads)} must be right")
    return lines


def _load_kept(module: nn.Module, found: Checkpoint | Published) -> bool:
    """Put what a target of the same kind has kept in its place; whether there is any.

    What is of each position of another grid stays as it is before training.
    """
    own = module.state_dict()
    saved = found.weights("target") if isinstance(found, Checkpoint) else {}
    if saved.keys() != own.keys():
        return False
    others = sorted(name for name in own if saved[name].shape != own[name].shape)
    module.load_state_dict({name: own[name] if name in others else saved[name] for name in own})
    if others:
        told = f"what the target keeps of another grid of patches stays as before training: {', '.join(others)}"
        warnings.warn(f"{found.path}: {told}", Notice, stacklevel=2)
    return True


def _load_average(average: MaskedModel, checkpoint: Checkpoint, exclude: tuple[str, ...]) -> None:
    state = checkpoint.weights("teacher")
    if not state:
        raise UserError(f"{checkpoint.path} holds no teacher; Method.ema_decay = None goes with it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # the same as of the student
        load_into(average, state, checkpoint.path, said=checkpoint.manifest.said, exclude=exclude)

"""What a checkpoint holds of a run: everything that a step changes, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hpm.errors import UserError
from hpm.runs.checkpoint import STATE_FILE, Checkpoint
from hpm.runs.content import require_content
from hpm.runtime.distributed import copy_into, local_tensor
from hpm.runtime.finite import require_finite, require_kinds
from hpm.training.step import TrainingStep

_MOMENTS = ("exp_avg", "exp_avg_sq")


def tensors_of(step: TrainingStep) -> dict[str, Tensor]:
    """The tensors themselves: student, teacher, optimizers' moments by parameter, what others keep, tally."""
    method, optimizer = step.method, step.optimizer
    tensors = {f"student.{name}": tensor for name, tensor in method.student.state_dict().items()}
    averaged = method.teacher.averaged_model
    if averaged is not None:
        tensors |= {f"teacher.{name}": tensor for name, tensor in averaged.state_dict().items()}
    for name, parameter in method.student.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = tensor
    difficulty = step.method.curriculum.difficulty
    if difficulty.module is not None:
        tensors |= {f"curriculum.{name}": tensor for name, tensor in difficulty.module.state_dict().items()}
    if method.image_curriculum is not None:
        tensors |= {f"images.{name}": tensor for name, tensor in method.image_curriculum.module.state_dict().items()}
    if method.target.module is not None:
        tensors |= {f"target.{name}": tensor for name, tensor in method.target.module.state_dict().items()}
    for prefix, auxiliary in step.auxiliary.items():
        for name, parameter in auxiliary.module.named_parameters():
            for key, tensor in auxiliary.optimizer.state.get(parameter, {}).items():
                tensors[f"{prefix}.{name}.{key}"] = tensor
    supervision = step.method.supervision
    if supervision is not None and supervision.module is not None:
        tensors |= {f"supervision.{name}": tensor for name, tensor in supervision.module.state_dict().items()}
    return tensors | {"tally": step.tally.sums}


def weights_of(step: TrainingStep) -> dict[str, Tensor]:
    """Those of them that must be finite: the weights of student, teacher and a trained difficulty, and the target's.

    Of sharded ones this process's rows. What other curricula keep may be NaN where nothing is known yet.
    """
    return {name: local_tensor(tensor) for name, tensor in tensors_of(step).items() if _is_weight(name, step)}


def _is_weight(name: str, step: TrainingStep) -> bool:
    return name.startswith(("student.", "teacher.", "target.", *["curriculum."] * ("masker" in step.auxiliary)))


def saved_tensors(step: TrainingStep) -> dict[str, Tensor]:
    """What a checkpoint holds: the same, and every process's own tally, one row each; every process must call this."""
    return tensors_of(step) | {"tally": torch.tensor(step.processes.gather(step.tally.sums.tolist()))}


def _own_tally(tally: Tensor, step: TrainingStep) -> Tensor:
    """This process's, or the mean of those of another number of processes; one of before is of all."""
    if tally.ndim == 1:
        return tally
    return tally[step.processes.rank] if len(tally) == step.processes.world_size else tally.mean(dim=0)


def values_of(step: TrainingStep) -> dict[str, Any]:
    """The numbers: what the schedulers observed, and the gradient scaler's state."""
    values: dict[str, Any] = {
        "curriculum": step.method.curriculum.state_dict(),
        "scaler": None if step.scaler is None else step.scaler.state_dict(),
    }
    for name, part in (("image_curriculum", step.method.image_curriculum), ("supervision", step.method.supervision)):
        if part is not None:
            values[name] = part.state_dict()
    return values


@torch.no_grad()
def restore(step: TrainingStep, checkpoint: Checkpoint) -> None:
    """Put everything back, whatever the number of processes that saved it.

    Raises:
        UserError: if it is the checkpoint of another model.
    """
    _start_moments(step, checkpoint)
    saved, wanted = set(checkpoint.names()), tensors_of(step)
    if saved != wanted.keys():
        odd = sorted(saved ^ wanted.keys())[0]
        raise UserError(f"{checkpoint.path} is of another model: {odd} is only {'there' if odd in saved else 'here'}")
    for name, tensor in wanted.items():
        value = checkpoint.tensor(name)
        if name == "tally":
            value = _own_tally(value, step)
        if value.shape != tensor.shape:
            raise UserError(
                f"{checkpoint.path} is of another model: {name} is {list(value.shape)}, not {list(tensor.shape)}"
            )
        require_kinds({name: value}, {name: tensor}, checkpoint.path)
        if _is_weight(name, step):
            require_finite({name: value}, checkpoint.path)
        copy_into(tensor, value)
    file = checkpoint.path / STATE_FILE
    method = step.method
    parts = {"curriculum": method.curriculum, "image_curriculum": method.image_curriculum}
    for name, part in (parts | {"supervision": method.supervision}).items():
        if part is None:
            continue
        checkpoint.require(name)
        try:
            part.load_state_dict(checkpoint.values[name])
        except ValueError as error:
            raise UserError(f"{file} is damaged: {name!r}: {error}") from error
    if step.scaler is not None:
        kinds = {name: type(value) for name, value in step.scaler.state_dict().items()}
        step.scaler.load_state_dict(require_content(checkpoint.values["scaler"], file, kinds))


def _start_moments(step: TrainingStep, checkpoint: Checkpoint) -> None:
    """AdamW makes its moments at its first step; a checkpoint from before that has none."""
    saved = set(checkpoint.names())
    of: list[tuple[str, nn.Module, torch.optim.Optimizer]] = [("optimizer", step.method.student, step.optimizer)]
    of += [(prefix, auxiliary.module, auxiliary.optimizer) for prefix, auxiliary in step.auxiliary.items()]
    for prefix, module, optimizer in of:
        for name, parameter in module.named_parameters():
            if f"{prefix}.{name}.step" in saved:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    **{moment: torch.zeros_like(parameter) for moment in _MOMENTS},
                }

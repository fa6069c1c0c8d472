"""Two steps by which a person sees that everything fits together, and of which nothing is kept."""

from __future__ import annotations

import math

from rich.console import Console

from hpm.errors import TrainingError
from hpm.training.batches import batches_from
from hpm.training.cautions import cautions
from hpm.training.divergence import usual_remedy
from hpm.training.trainer import Trainer

_STEPS = 2


def dry_run(trainer: Trainer, console: Console) -> None:
    """Run two steps, or one where an epoch has no more, and write nothing.

    Raises:
        TrainingError: for a loss that is not finite.
    """
    for caution in cautions(trainer.method, trainer.clock, trainer.image_sizes):
        console.print(caution, style="yellow")
    step = trainer.build_step()
    batches = batches_from(trainer, trainer.clock)
    for number in range(min(_STEPS, trainer.clock.steps_per_epoch)):
        losses = step(next(batches), **trainer.step_arguments(trainer.clock.at(number)))
        loss = losses[-1].total.item()
        console.print(f"step {number + 1}: loss {loss:.4f}")
        if not math.isfinite(loss):
            at_start = "Look at what it starts from: images and their mean and std, and weights"
            remedy = usual_remedy(trainer.precision, trainer.optimization.clip_grad) if number else at_start
            raise TrainingError(f"the loss of step {number + 1} is not finite. {remedy}")

"""What a finished run says of itself in its summary, beside what its evaluations measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpm.optim.clock import Clock
from hpm.runs.run_folder import RunFolder
from hpm.runtime.devices import device_name, peak_memory
from hpm.runtime.version import source_version

if TYPE_CHECKING:
    from hpm.training.trainer import Trainer


def run_figures(trainer: Trainer, folder: RunFolder, clock: Clock, seconds: float) -> dict[str, Any]:
    """What was trained, for how long, and where.

    Args:
        trainer: whose run it was.
        folder: of the run.
        clock: at its end.
        seconds: of training, evaluations left out.
    """
    tracker = trainer.tracker
    return {
        "steps": clock.step,
        "epochs": clock.epochs,
        "images": clock.step * trainer.schedule.batch_size,
        "masks_per_image": trainer.schedule.masks_per_image,
        "image_sizes": trainer.image_sizes.all,
        "training_seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in trainer.method.student.parameters()),
        "processes": trainer.processes.world_size,
        "precision": trainer.precision,
        "data": type(trainer.source).__name__,
        "device": device_name(trainer.device),
        "commit": source_version(),
        "unreadable_images": folder.count_unreadable(),
        "skipped_steps": folder.metrics.count_skipped(),
        "peak_memory_bytes": peak_memory(trainer.device),
        "tracking": tracker.where if tracker.enabled else "off",
    }

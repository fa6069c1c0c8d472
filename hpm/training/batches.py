"""The batches of an epoch, and what comes before it where an image curriculum decides which images it shows.

Shape suffixes: I images of the training split, N of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from curriculum import Batch, ImageDifficulty, Noise, Stream
from curriculum.noise import hash_words
from hpm.data import UnreadableImages
from hpm.errors import TrainingError
from hpm.evaluation.features import BATCH_SIZE, batches, extract
from hpm.methods.teacher import StudentTeacher
from hpm.models.base import in_evaluation_mode
from hpm.optim.clock import Clock

if TYPE_CHECKING:
    from hpm.training.trainer import Trainer


def batches_from(trainer: Trainer, clock: Clock) -> Iterator[tuple[Batch, ...]]:
    """This process's batches from a step to the end of its epoch; every process must call this.

    Where an image curriculum decides which images the epoch shows, it does so before the epoch's first step; within an
    epoch its weights are those of the checkpoint.

    Args:
        trainer: whose run it is.
        clock: at the step.

    Raises:
        UserError: if training images cannot be read.
        TrainingError: if too many of them cannot, or what is measured of them is not finite.
    """
    images, first_step = trainer.method.image_curriculum, clock.step % clock.steps_per_epoch
    if images is not None:
        if first_step == 0:
            measured_I = _scores(trainer, clock, images.difficulty) if images.difficulty.is_due(clock.epoch) else None
            images.start_epoch(clock.progress("epoch"), measured_I)
        trainer.loader.weights = images.weights.cpu()
    return trainer.loader.epoch(clock.epoch, first_step)


@torch.no_grad()
def _scores(trainer: Trainer, clock: Clock, difficulty: ImageDifficulty) -> Tensor:
    """Float32 [I] on the device, the same in every process: what a pass over all images says of them."""
    processes, train = trainer.processes, trainer.source.train()
    own_N = processes.share(torch.arange(len(train)))
    with trainer.runtime.uncompiled():
        own = _features(trainer, own_N) if difficulty.measures == "features" else _losses(trainer, own_N, clock)
    measured = processes.collect(own, len(train))
    scores_I = torch.zeros(len(train))
    if measured is not None:
        scores_I = difficulty.score(measured, train.labels, seed=trainer.seed)
    return processes.sum(scores_I.to(trainer.device))  # the main process's: all others give zeros


def _features(trainer: Trainer, indices_N: Tensor) -> Tensor:
    """[N, D] on the CPU: the mean patch tokens of the teacher's encoder, or of the student's where there is none."""
    student, teacher = trainer.method.gathered()
    model = student if teacher.averaged_model is None else teacher.averaged_model
    with in_evaluation_mode(model):
        return extract(
            model.encoder,
            trainer.source,
            trainer.source.train(),
            indices_N,
            device=trainer.device,
            num_workers=trainer.loading.num_workers,
            unreadable=UnreadableImages(trainer.loading.max_unreadable),
        )


def _losses(trainer: Trainer, indices_N: Tensor, clock: Clock) -> Tensor:
    """[N] on the CPU: the student's mean loss of each image under random masks, as many as training masks."""
    method, device = trainer.method, trainer.device
    student, teacher = method.gathered()
    asked = StudentTeacher(student, method.target, autocast=teacher.autocast, reference=teacher)
    curriculum = method.curriculum.with_random_masks()
    seed = hash_words(trainer.seed, Stream.IMAGE_LOSS_MASKS)
    loaded = batches(
        trainer.source,
        trainer.source.train(),
        indices_N,
        device=device,
        num_workers=trainer.loading.num_workers,
        unreadable=UnreadableImages(trainer.loading.max_unreadable),
    )
    losses = [torch.zeros(0)]
    with in_evaluation_mode(student):
        for rows_N, images_NCHW in zip(indices_N.split(BATCH_SIZE), loaded, strict=True):
            noise = Noise(seed, clock.epoch, rows_N.to(device))
            mask = curriculum.draw(Batch(images_NCHW, student.patch_size), None, clock.progress("epoch"), noise)
            losses.append(asked.reconstruction_loss(images_NCHW, mask).float().mean(dim=1).cpu())
    losses_N = torch.cat(losses)
    if not bool(losses_N.isfinite().all()):
        raise TrainingError("the losses of training images are not finite: the training of the weights has diverged")
    return losses_N

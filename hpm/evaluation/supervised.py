"""Supervised training, as fine-tuning and linear probing have it in common.

Everything random is addressed by (seed, epoch, image) or (seed, step), so what goes on after a kill is what would
have been without it: on a CPU to the bit. Several processes share each batch, of the same images and crops.

Shape suffixes: N images of a micro-batch, K training images, M test images, C channels, S side.
"""

from __future__ import annotations

import math
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from curriculum import Batch
from curriculum.noise import hash_words
from curriculum.streams import Stream
from hpm.errors import Notice, TrainingError, UserError
from hpm.evaluation.augmentation import isolated_rng
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.features import BATCH_SIZE, batches
from hpm.evaluation.samples import labels_of
from hpm.optim.clock import Clock
from hpm.runtime.files import replacing

_TOP = 5  # a second accuracy where there are more classes: the right one among so many


class LearningRates(Protocol):
    """How long something is trained, and how fast: a `Schedule`, or another of its kind."""

    @property
    def epochs(self) -> int:
        """Passes over the training images."""

    def learning_rate(self, clock: Clock) -> float:
        """The learning rate of a step."""


class TrainingBatches(Protocol):
    """What is trained on: a `Loader`, or another of its kind."""

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch."""

    def epoch(self, epoch: int) -> Iterator[Sequence[Batch]]:
        """This process's share of each batch of an epoch, cut into micro-batches, with the images' indices."""


def train(
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    training: TrainingBatches,
    rates: LearningRates,
    context: EvaluationContext,
    *,
    name: str,
    remedy: str,
    clip_grad: float | None = None,
) -> None:
    """Train in place.

    Args:
        trained: the parameters that are trained, and buffers; saved in `context.folder` after each epoch.
        optimizer: of these; a group's learning rate is the schedule's times its `lr_scale`, 1 where it has none.
        loss_of: the mean loss, given normalized images [N, C, S, S] and their classes, int64 [N]. May draw from the
            global generators, which are lent to it.
        training: batches of training images.
        rates: how long and how fast.
        context: gives the images' labels, the seed, the device, the folder, who takes reports, and the processes that
            train together.
        name: of the file that is saved, and of this training in what is reported.
        remedy: what to change where the loss is not finite.
        clip_grad: largest norm of the gradient; None for no limit.

    Raises:
        TrainingError: if the loss is not finite.
        UserError: if the processes do not see the same folder.
    """
    processes = context.processes
    labels_K = labels_of(context.source.train()).to(context.device)
    file = None if context.folder is None else context.folder / f"{name}.pt"
    first, steps = _load_progress(file, trained, optimizer), training.steps_per_epoch
    if len(set(processes.gather(first))) > 1:
        raise UserError(
            f"The processes do not find the same progress in {file}. Put the model where all machines read and write."
        )
    if first and context.report:
        context.report(f"{name}: going on after epoch {first} of {rates.epochs}, from {file}")
    started = time.monotonic()
    for epoch in range(first, rates.epochs):
        total = torch.zeros((), device=context.device)
        for place, micro_batches in enumerate(training.epoch(epoch)):
            clock = Clock(epoch * steps + place, steps, rates.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rates.learning_rate(clock) * group.get("lr_scale", 1.0)
            seed = hash_words(context.seed, Stream.SUPERVISED_STEP, clock.step, processes.rank)
            with isolated_rng(seed, context.device):
                for batch in micro_batches:
                    loss = loss_of(batch.images, labels_K[batch.indices]) / len(micro_batches)
                    loss.backward()
                    total += loss.detach()
            processes.average(p.grad for p in trained.parameters() if p.grad is not None)
            if clip_grad is not None:
                nn.utils.clip_grad_norm_(trained.parameters(), clip_grad)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # Statistics of a batch norm, say: each process has seen its own images.
        processes.average(buffer for buffer in trained.buffers() if buffer.is_floating_point())
        mean = processes.sum(total).item() / steps / processes.world_size
        if not math.isfinite(mean):
            raise TrainingError(f"{name}: the loss is not finite in epoch {epoch + 1}. {remedy}")
        if processes.is_main:
            _save_progress(file, epoch + 1, trained, optimizer)
        if context.report:
            left = (time.monotonic() - started) / (epoch + 1 - first) * (rates.epochs - epoch - 1)
            context.report(f"{name}: epoch {epoch + 1}/{rates.epochs}  loss {mean:.4f}  {left:,.0f} s left")


def _save_progress(file: Path | None, epoch: int, trained: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write what goes on from here, whole or not at all. A disk that is full ends nothing."""
    if file is None:
        return
    state = {"epoch": epoch, "trained": trained.state_dict(), "optimizer": optimizer.state_dict()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            torch.save(state, partial)
    except (OSError, RuntimeError) as error:
        warnings.warn(f"{file} could not be written: {error}; training goes on", Notice, stacklevel=2)


def _load_progress(file: Path | None, trained: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The epochs that were done; 0 where nothing, or nothing whole, was saved."""
    if file is None or not file.is_file():
        return 0
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        trained.load_state_dict(before)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"{file} is damaged: {reason}; starting from the beginning", Notice, stacklevel=2)
        return 0
    return state["epoch"]


@torch.no_grad()
def accuracies(
    logits_of: Callable[[Tensor], Tensor], context: EvaluationContext, test_M: Tensor, *, num_workers: int = 0
) -> dict[str, float]:
    """Shares of test images that are classified rightly; the context's processes share the work.

    Args:
        logits_of: logits [N, classes], given normalized images [N, C, S, S].
        context: gives the images, the device and the processes.
        test_M: int64 [M], indices of the test images.
        num_workers: processes that load images; 0 for none but this one.

    Returns:
        By what stands behind a metric's name: "" for the class with the highest logit and, beyond five classes,
        "_top5" for the five highest.
    """
    source = context.source
    split = context.source.test()
    processes = context.processes
    count, test_M = len(test_M), processes.share(test_M)
    truth = iter(labels_of(split)[test_M].to(context.device).split(BATCH_SIZE))
    top = _TOP if source.num_classes > _TOP else 1
    right = torch.zeros(top, dtype=torch.int64, device=context.device)
    for images_NCSS in batches(source, split, test_M, device=context.device, num_workers=num_workers):
        best_NT = logits_of(images_NCSS).topk(top, dim=1).indices
        right += (best_NT == next(truth).unsqueeze(1)).sum(dim=0)
    shares = (processes.sum(right).cumsum(0).double() / count).tolist()
    return {"": shares[0]} | ({"_top5": shares[-1]} if top > 1 else {})

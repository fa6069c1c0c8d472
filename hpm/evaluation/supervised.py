"""Supervised training on all labels, as MAE's fine-tuning and linear probing have it in common.

Everything random is addressed by (seed, epoch, image) or (seed, step), so what goes on after a kill is what would
have been without it: on a CPU to the bit. Several processes share each batch, of the same images and crops.

Shape suffixes: N images of a micro-batch, K training images, M test images, C channels, S side.
"""

from __future__ import annotations

import math
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curriculum.noise import hash_words
from curriculum.streams import Stream
from hpm.data import Loader
from hpm.errors import Notice, TrainingError, UserError
from hpm.evaluation.augmentation import isolated_rng
from hpm.evaluation.base import EvaluationContext, labels_of
from hpm.evaluation.features import batches
from hpm.optim.clock import Clock
from hpm.optim.schedule import Schedule

_TOP = 5  # a second accuracy where there are more classes: the right one among so many


def train(
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    loader: Loader,
    schedule: Schedule,
    context: EvaluationContext,
    *,
    name: str,
    clip_grad: float | None = None,
) -> None:
    """Train in place.

    Args:
        trained: the parameters that are trained, and buffers; kept in `context.folder` after each epoch.
        optimizer: of these; each group's rate is the schedule's times its `scale`.
        loss_of: the mean loss, given normalized images [N, C, S, S] and their classes, int64 [N]. May draw from the
            global generators, which are lent to it.
        loader: of the training images.
        schedule: how long and how fast.
        context: gives the seed, the device, the folder, who is told, and the processes that train together.
        name: of the file that is kept, and of this training in what is told.
        clip_grad: largest norm of the gradient; None for no limit.

    Raises:
        TrainingError: if the loss is not finite.
        UserError: if the processes do not see the same folder.
    """
    processes = context.processes
    labels_K = labels_of(context.source.train()).to(context.device)
    kept = None if context.folder is None else context.folder / f"{name}.pt"
    first, steps = _restore(kept, trained, optimizer), loader.steps_per_epoch
    if len(set(processes.gather(first))) > 1:
        raise UserError(
            f"the processes do not find the same in {kept}; put the model where all machines read and write"
        )
    if first and context.report:
        context.report(f"{name}: going on after epoch {first} of {schedule.epochs}, from {kept}")
    started = time.monotonic()
    for epoch in range(first, schedule.epochs):
        total = torch.zeros((), device=context.device)
        for place, micro_batches in enumerate(loader.epoch(epoch)):
            clock = Clock(epoch * steps + place, steps, schedule.epochs)
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate(clock) * group.get("scale", 1.0)
            drawn = hash_words(context.seed, Stream.SUPERVISED_STEP, clock.step, processes.rank)
            with isolated_rng(drawn, context.device):
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
            raise TrainingError(
                f"{schedule.owner}: the loss is not finite in epoch {epoch + 1}; lower {schedule.owner}.blr, or set "
                f"{schedule.owner}.precision = 'fp32'"
            )
        if processes.is_main:
            _keep(kept, epoch + 1, trained, optimizer)
        if context.report:
            left = (time.monotonic() - started) / (epoch + 1 - first) * (schedule.epochs - epoch - 1)
            context.report(f"{name}: epoch {epoch + 1}/{schedule.epochs}  loss {mean:.4f}  {left:,.0f} s left")


def _keep(kept: Path | None, epoch: int, trained: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """What goes on from here, under its name once it is whole. A disk that is full ends nothing."""
    if kept is None:
        return
    state = {"epoch": epoch, "trained": trained.state_dict(), "optimizer": optimizer.state_dict()}
    partial = kept.with_suffix(".partial")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, partial)
        partial.replace(kept)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        warnings.warn(f"{kept} could not be written: {error}; training goes on", Notice, stacklevel=2)


def _restore(kept: Path | None, trained: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The epochs that were done; 0 where nothing, or nothing whole, was kept."""
    if kept is None or not kept.is_file():
        return 0
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    try:
        state = torch.load(kept, map_location="cpu", weights_only=True)
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        trained.load_state_dict(before)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"{kept} is damaged: {reason}; starting from the beginning", Notice, stacklevel=2)
        return 0
    return state["epoch"]


@torch.no_grad()
def accuracies(
    logits_of: Callable[[Tensor], Tensor], context: EvaluationContext, test_M: Tensor, *, num_workers: int = 0
) -> dict[str, float]:
    """Shares of test images: "" whose class is the one predicted and, beyond five classes, "_top5" among the five."""
    source = context.source
    split = context.source.test()
    processes = context.processes
    count, test_M = len(test_M), processes.share(test_M)
    truth_M = labels_of(split)[test_M].to(context.device)
    top = _TOP if source.num_classes > _TOP else 1
    right = torch.zeros(top, dtype=torch.int64, device=context.device)
    truth = iter(truth_M.split(256))
    for images_NCSS in batches(source, split, test_M, device=context.device, num_workers=num_workers):
        best_NT = logits_of(images_NCSS).topk(top, dim=1).indices
        right += (best_NT == next(truth).unsqueeze(1)).sum(dim=0)
    shares = (processes.sum(right).cumsum(0).double() / count).tolist()
    return {"": shares[0]} | ({"_top5": shares[-1]} if top > 1 else {})


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[Any]:
    """The context in which a model computes; `precision` is "bf16" or "fp32"."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16") as context:
        yield context


def check_precision(owner: str, precision: str) -> None:
    """Refuse an unknown precision.

    Raises:
        ValueError: if it is none of auto, bf16 and fp32.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"{owner}.precision = {precision!r} is unknown; choose auto, bf16 or fp32")

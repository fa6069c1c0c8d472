"""Supervised training, as fine-tuning and linear probing have it in common.

Everything random is addressed by (seed, epoch, image) or (seed, step), so what goes on after a kill is what would
have been without it: on a CPU to the bit. Several processes share each batch, of the same images and crops.

Shape suffixes: N images of a micro-batch, K training images, M test images, C channels, S side.
"""

from __future__ import annotations

import copy
import math
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from curriculum import Batch
from curriculum.noise import hash_words
from curriculum.streams import Stream
from hpm.data import Split
from hpm.errors import Notice, TrainingError, UserError
from hpm.evaluation.augmentation import isolated_rng
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.early_stopping import EarlyStopping
from hpm.evaluation.features import BATCH_SIZE, batches
from hpm.evaluation.samples import labels_of
from hpm.optim.clock import Clock
from hpm.runtime.files import replacing
from hpm.runtime.progress import Tracked, tracked

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


class SupervisedTraining:
    """A training that can be taken further and further, and is saved after each epoch.

    Args:
        trained: the parameters that are trained, and buffers; saved in `context.folder` after each epoch.
        optimizer: of these; a group's learning rate is the schedule's times its `lr_scale`, 1 where it has none.
        loss_of: the mean loss of a micro-batch, which says which images it shows and how they are cropped. May draw
            from the global generators, which are lent to it.
        training: batches of training images.
        rates: how long at most, and how fast.
        context: gives the seed, the device, the folder, who takes reports, and the processes that train together.
        name: of the file that is saved, and of this training in what is reported.
        remedy: what to change where the loss is not finite.
        logits_with: what is predicted, given a module in the place of `trained` and normalized images [N, C, S, S]:
            of a classifier logits [N, classes].
        clip_grad: largest norm of the gradient; None for no limit.
        stopping: looks at the weights after each step and epoch; None for nobody.

    Attributes:
        epochs: done so far.

    Raises:
        UserError: if the processes do not see the same folder.
    """

    def __init__(
        self,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_of: Callable[[Batch], Tensor],
        training: TrainingBatches,
        rates: LearningRates,
        context: EvaluationContext,
        *,
        name: str,
        remedy: str,
        logits_with: Callable[[nn.Module, Tensor], Any],
        clip_grad: float | None = None,
        stopping: EarlyStopping | None = None,
    ) -> None:
        self.trained = trained
        self.logits_with = logits_with
        self.stopping = stopping
        self.name = name
        self._optimizer = optimizer
        self._loss_of = loss_of
        self._training = training
        self._rates = rates
        self._context = context
        self._remedy = remedy
        self._clip_grad = clip_grad
        self._file = None if context.folder is None else context.folder / f"{name}.pt"
        self.epochs = self._load_progress()
        if len(set(context.processes.gather(self.epochs))) > 1:
            raise UserError(
                f"The processes do not find the same progress in {self._file}. Put the model where all machines read "
                "and write."
            )
        if self.epochs and context.report:
            context.report(f"{name}: going on after epoch {self.epochs} of {rates.epochs}, from {self._file}")

    def run(self, epochs: int | None = None) -> None:
        """Train in place until so many epochs are done, or until early stopping ends it.

        With early stopping, progress is saved and reported whenever the accuracy is measured, else after each epoch.

        Args:
            epochs: at most all, which None stands for.

        Raises:
            TrainingError: if the loss is not finite.
            UserError: if there is nothing to learn from.
        """
        last = self._rates.epochs if epochs is None else min(epochs, self._rates.epochs)
        steps = self._training.steps_per_epoch
        with tracked(f"{self.name}:", last * steps, done=self.epochs * steps, unit="steps") as work:
            self._run(last, work)

    def _run(self, last: int, work: Tracked) -> None:
        started, first = time.monotonic(), self.epochs
        self.trained.train()
        while self.epochs < last and not (self.stopping and self.stopping.converged):
            mean = self._train_epoch(work)
            if mean == 0 and self.epochs == 0:
                raise UserError(
                    f"{self.name}: the loss is 0 throughout the first epoch, so there is nothing to learn from; see "
                    "whether the training images have annotations that count"
                )
            if not math.isfinite(mean):
                raise TrainingError(f"{self.name}: the loss is not finite in epoch {self.epochs + 1}. {self._remedy}")
            self.epochs += 1
            whole = self.epochs == self._rates.epochs
            if self.stopping is not None and not self.stopping.after_epoch(self.epochs, last=whole):
                continue
            if self._context.processes.is_main:
                self._save_progress()
            if self._context.report:
                left = (time.monotonic() - started) / (self.epochs - first) * (last - self.epochs)
                self._context.report(
                    f"{self.name}: epoch {self.epochs}/{last}  loss {mean:.4f}  "
                    + (f"{left:,.0f} s left" if self.stopping is None else f"best {self.stopping.best_accuracy:.1%}")
                )

    def _train_epoch(self, work: Tracked) -> float:
        """One epoch, in place; the mean loss."""
        context, processes, steps = self._context, self._context.processes, self._training.steps_per_epoch
        total = torch.zeros((), device=context.device)
        for place, micro_batches in enumerate(self._training.epoch(self.epochs)):
            clock = Clock(self.epochs * steps + place, steps, self._rates.epochs)
            for group in self._optimizer.param_groups:
                group["lr"] = self._rates.learning_rate(clock) * group.get("lr_scale", 1.0)
            seed = hash_words(context.seed, Stream.SUPERVISED_STEP, clock.step, processes.rank)
            with isolated_rng(seed, context.device):
                for batch in micro_batches:
                    loss = self._loss_of(batch) / len(micro_batches)
                    loss.backward()
                    total += loss.detach()
            processes.average(p.grad for p in self.trained.parameters() if p.grad is not None)
            if self._clip_grad is not None:
                nn.utils.clip_grad_norm_(self.trained.parameters(), self._clip_grad)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            if self.stopping is not None:
                self.stopping.after_step()
            work.advance()
        # Statistics of a batch norm, say: each process has seen its own images.
        processes.average(buffer for buffer in self.trained.buffers() if buffer.is_floating_point())
        return processes.sum(total).item() / steps / processes.world_size

    def _save_progress(self) -> None:
        """Write what goes on from here, whole or not at all. A disk that is full ends nothing."""
        if self._file is None:
            return
        state = {
            "epoch": self.epochs,
            "trained": self.trained.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "stopping": None if self.stopping is None else self.stopping.state_dict(),
        }
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as partial:
                torch.save(state, partial)
        except (OSError, RuntimeError) as error:
            warnings.warn(f"{self._file} could not be written: {error}; training goes on", Notice, stacklevel=2)

    def _load_progress(self) -> int:
        """The epochs that were done; 0 where nothing, or nothing whole, was saved."""
        if self._file is None or not self._file.is_file():
            return 0
        stateful: dict[str, Any] = {"trained": self.trained, "optimizer": self._optimizer}
        if self.stopping is not None:
            stateful["stopping"] = self.stopping
        before = {name: copy.deepcopy(part.state_dict()) for name, part in stateful.items()}
        try:
            state = torch.load(self._file, map_location="cpu", weights_only=True)
            for name, part in stateful.items():
                part.load_state_dict(state[name])
            return int(state["epoch"])
        except (OSError, RuntimeError, LookupError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
            for name, part in stateful.items():
                part.load_state_dict(before[name])
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"{self._file} is damaged or of another version: {reason}; starting from the beginning",
                Notice,
                stacklevel=2,
            )
            return 0


def by_classes(loss_of: Callable[[Tensor, Tensor], Tensor], context: EvaluationContext) -> Callable[[Batch], Tensor]:
    """The mean loss of a batch of training images, from that of images and their classes.

    Args:
        loss_of: given normalized images [N, C, S, S] and int64 [N].
        context: gives the classes.
    """
    labels_K = labels_of(context.source.train()).to(context.device)
    return lambda batch: loss_of(batch.images, labels_K[batch.indices])


@torch.no_grad()
def accuracies(
    logits_of: Callable[[Tensor], Tensor],
    context: EvaluationContext,
    split: Split,
    indices_M: Tensor,
    *,
    num_workers: int = 0,
) -> dict[str, float]:
    """Shares of a split's images that are classified rightly; the context's processes share the work.

    Args:
        logits_of: logits [N, classes], given normalized images [N, C, S, S].
        context: gives the device and the processes.
        split: the images.
        indices_M: int64 [M], which of them.
        num_workers: processes that load images; 0 for none but this one.

    Returns:
        By what stands behind a metric's name: "" for the class with the highest logit and, beyond five classes,
        "_top5" for the five highest.
    """
    source, processes = context.source, context.processes
    count, indices_M = len(indices_M), processes.share(indices_M)
    truth = iter(labels_of(split)[indices_M].to(context.device).split(BATCH_SIZE))
    top = _TOP if source.num_classes > _TOP else 1
    right = torch.zeros(top, dtype=torch.int64, device=context.device)
    for images_NCSS in batches(source, split, indices_M, device=context.device, num_workers=num_workers):
        best_NT = logits_of(images_NCSS).topk(top, dim=1).indices
        right += (best_NT == next(truth).unsqueeze(1)).sum(dim=0)
    shares = (processes.sum(right).cumsum(0).double() / count).tolist()
    return {"": shares[0]} | ({"_top5": shares[-1]} if top > 1 else {})

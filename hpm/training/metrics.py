"""What the steps of an interval measured, fetched from the device once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from curriculum.sizes import pair
from hpm.methods.student_pass import Losses
from hpm.methods.supervision_losses import training_metrics
from hpm.optim.clock import Clock
from hpm.training.probe_loss import ProbeLoss
from hpm.training.step import TrainingStep

if TYPE_CHECKING:
    from hpm.training.trainer import Trainer


@dataclass(frozen=True)
class Interval:
    """What the steps of an interval measured, over all processes.

    Args:
        feedback: for schedulers; empty where every step was skipped.
        hidden: what is measured by labels that nobody learns from, and no scheduler is told.
        gradient_norm: mean over the steps that were taken, None where there were none.
        skipped: steps whose gradient was not finite.
        skipped_in_a_row: at most.
        skipped_at_end: steps in a row that were skipped up to now, those of earlier intervals too.
        unscored: share of the patches that the difficulty left without a score.
        unreadable: images that could not be read so far.
        stop: whether a process has been told to.
    """

    feedback: dict[str, float]
    hidden: dict[str, float]
    gradient_norm: float | None
    skipped: int
    skipped_in_a_row: int
    skipped_at_end: int
    unscored: float
    unreadable: int
    stop: bool


class IntervalMetrics:
    """Makes a row of metrics of each interval.

    Args:
        trainer: whose run is measured.
        step: takes its steps, and adds up what they measure.

    Attributes:
        logged_seconds: seconds of training up to the last row.
        logged_step: steps taken up to the last row.
    """

    def __init__(self, trainer: Trainer, step: TrainingStep) -> None:
        self._trainer = trainer
        self._step = step
        self.logged_seconds = 0.0
        self.logged_step = 0
        self._probe_loss = ProbeLoss(trainer) if "probe_loss" in trainer.method.watched else None

    def fetch(self, losses: Sequence[Losses], *, stop: bool) -> Interval:
        """End the interval: the one place that waits for the device, and for the other processes.

        Args:
            losses: of the last step's micro-batches.
            stop: whether this process has been told to stop.
        """
        tally = self._step.tally.sums
        scores = self._trainer.method.curriculum.scores
        processes = self._trainer.processes
        of_this_process = [float(stop), float(len(self._trainer.loader.unreadable))]
        accuracy = torch.stack([micro_batch.ranking_accuracy().float() for micro_batch in losses]).mean()
        unscored = torch.zeros_like(tally[0]) if scores is None else scores.isnan().float().mean()
        measured = torch.cat(
            [tally, accuracy.reshape(1), unscored.reshape(1), torch.tensor(of_this_process, device=tally.device)]
        )
        *sums, accuracy, unscored, stopped, unreadable = (processes.sum(measured) / processes.world_size).tolist()
        total, reconstruction, prediction, norm, taken, skipped, now_in_a_row, in_a_row, *supervision = sums
        self._step.tally.start_interval()
        feedback: dict[str, float] = {}
        hidden: dict[str, float] = {}
        if taken:
            feedback = {"loss": total / taken, "reconstruction_loss": reconstruction / taken}
            if losses[-1].predicted_NM is not None:
                feedback |= {"prediction_loss": prediction / taken, "prediction_accuracy": accuracy}
            if (supervised := self._trainer.method.supervision) is not None:
                measured_5 = [term / taken for term in supervision]
                told, hidden = training_metrics(measured_5, pseudo=supervised.uses_pseudo_labels)
                feedback |= told
            if self._probe_loss is not None:
                feedback["probe_loss"] = self._probe_loss.measure()
        return Interval(
            feedback=feedback,
            hidden=hidden,
            gradient_norm=norm / taken if taken else None,
            skipped=int(skipped),
            skipped_in_a_row=int(in_a_row),
            skipped_at_end=int(now_in_a_row),
            unscored=unscored,
            unreadable=round(unreadable * processes.world_size),
            stop=stopped > 0,
        )

    def row(self, interval: Interval, clock: Clock, seconds: float) -> dict[str, Any]:
        """A row of metrics.

        Args:
            interval: what was measured.
            clock: at the interval's last step.
            seconds: of training so far.
        """
        done, method, batch_size = clock.step + 1, self._trainer.method, self._trainer.schedule.batch_size
        since, steps = seconds - self.logged_seconds, done - self.logged_step
        self.logged_seconds = seconds
        self.logged_step = done
        row: dict[str, Any] = {
            "step": done,
            "time": time.time(),
            "kind": "train",
            "epoch": done / clock.steps_per_epoch,
            **interval.feedback,
            **interval.hidden,
            "alpha": method.curriculum.alpha(clock.progress(self._trainer.progress_per)),
            "unscored": interval.unscored,
            "learning_rate": self._step.optimizer.param_groups[0]["lr"],
            "skipped_steps": interval.skipped,
            "seconds": seconds,
            "images_per_second": steps * batch_size / max(since, 1e-9),
        }
        if self._trainer.image_sizes.has_others:
            row["image_size"] = pair(self._trainer.image_sizes.at(clock.epoch))[0]
        part = method.curriculum.reconstruction
        if part is not None and (alpha := part.alpha_at(clock.progress(self._trainer.progress_per))) is not None:
            row["reconstruction_alpha"] = alpha
        if interval.gradient_norm is not None:
            row["gradient_norm"] = interval.gradient_norm
        if method.ema_decay is not None:
            row["ema_decay"] = method.ema_decay(clock)
        return row

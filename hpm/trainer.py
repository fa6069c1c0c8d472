"""The trainer: data, method and curriculum over all steps of a run, on one CPU or GPU.

Nothing in a step waits for the device: losses add up there and are fetched once an interval. Everything random is
addressed by (seed, step or epoch, sample), so a resumed run equals the uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from curriculum import Batch, Noise
from hpm import checkpoint
from hpm.clock import Clock
from hpm.data import ImageSource, Loader, RandomResizedCrop
from hpm.devices import choose_autocast, choose_device, peak_memory
from hpm.errors import TrainingError, UserError
from hpm.evaluation import Evaluation, Subject
from hpm.method import Losses, Method
from hpm.optim import build_adamw, learning_rate, scaled_learning_rate, set_learning_rate
from hpm.progress import TrainingProgress
from hpm.runfolder import RunFolder
from hpm.tracking import MLflowTracker
from hpm.visualize import picture

_LONGEST_HORIZON = 0.2  # of the run; a teacher that averages over more still remembers its random start


class Trainer:
    """Trains a method on a source of images. The names of MAE's options mean what they mean there.

    Args:
        method: student, teacher, curriculum, target and losses.
        source: images to train on.
        crop: augmentation.
        epochs: passes over the training images.
        batch_size: images a step; an incomplete last batch is dropped.
        blr: base learning rate; the learning rate is `blr * batch_size / 256`.
        min_lr: learning rate at the end.
        warmup_epochs: epochs of linear warm-up, fractions allowed.
        weight_decay: AdamW's, on parameters of two or more dimensions.
        betas: AdamW's.
        progress_per: "epoch" moves the curriculum once an epoch, at (epoch + 1) / epochs as HPM publishes it;
            "step" at every step, at (step + 1) / steps.
        seed: of the weights, the order and augmentation of the data, and the masks.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "auto" is bf16 autocast where the hardware has it, else fp32; "bf16"; "fp32".
        num_workers: loader processes beside the main one; changes nothing but speed.
        log_every: steps between rows of metrics.
        checkpoint_every: steps between checkpoints; one is written at the end as well.
        keep_checkpoints: how many of the newest are kept.
        probe_every: epochs between probes, each with a picture; 0 for none.
        probes: cheap evaluations during training.
        evaluations: evaluations at the end.
        tracker: where metrics are copied to; None for nowhere.
    """

    def __init__(
        self,
        *,
        method: Method,
        source: ImageSource,
        crop: RandomResizedCrop,
        epochs: int = 200,
        batch_size: int = 256,
        blr: float = 1.5e-4,
        min_lr: float = 0.0,
        warmup_epochs: float = 40,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        progress_per: str = "epoch",
        seed: int = 0,
        device: str = "auto",
        precision: str = "auto",
        num_workers: int = 0,
        log_every: int = 20,
        checkpoint_every: int = 500,
        keep_checkpoints: int = 2,
        probe_every: int = 0,
        probes: Sequence[Evaluation] = (),
        evaluations: Sequence[Evaluation] = (),
        tracker: MLflowTracker | None = None,
    ) -> None:
        for name, value, kind in (("method", method, Method), ("source", source, ImageSource),
                                  ("crop", crop, RandomResizedCrop)):  # fmt: skip
            if not isinstance(value, kind):
                raise ValueError(f"Trainer.{name} must be a {kind.__name__}, got {value!r}")
        counts = {"epochs": epochs, "batch_size": batch_size, "log_every": log_every,
                  "checkpoint_every": checkpoint_every, "keep_checkpoints": keep_checkpoints}  # fmt: skip
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"Trainer.{name} = {count} must be at least 1")
        numbers = {"blr": blr, "min_lr": min_lr, "weight_decay": weight_decay, "num_workers": num_workers,
                   "probe_every": probe_every}  # fmt: skip
        for name, number in numbers.items():
            if number < 0:
                raise ValueError(f"Trainer.{name} = {number} must not be negative")
        if not 0 <= warmup_epochs < epochs:
            raise ValueError(f"Trainer.warmup_epochs = {warmup_epochs} must lie in [0, Trainer.epochs = {epochs})")
        if progress_per not in ("epoch", "step"):
            raise ValueError(f"Trainer.progress_per = {progress_per!r} is unknown; choose epoch or step")
        model = method.student
        if (model.img_size, model.in_chans) != (source.img_size, source.in_chans):
            raise ValueError(
                f"MaskedAutoencoder.img_size = {model.img_size} and in_chans = {model.in_chans} do not fit the images "
                f"of {type(source).__name__}: {source.img_size} pixels and {source.in_chans} channels"
            )
        for evaluation in (*probes, *evaluations):
            if not isinstance(evaluation, Evaluation):
                raise ValueError(f"Trainer.probes and Trainer.evaluations must hold Evaluations, got {evaluation!r}")
            evaluation.check(source)
        self.method, self.source, self.batch_size, self.seed = method, source, batch_size, seed
        self.lr, self.min_lr, self.warmup_epochs = scaled_learning_rate(blr, batch_size), min_lr, warmup_epochs
        self.weight_decay, self.betas, self.progress_per = weight_decay, betas, progress_per
        self.log_every, self.checkpoint_every, self.keep_checkpoints = log_every, checkpoint_every, keep_checkpoints
        self.probe_every, self.probes, self.evaluations = probe_every, tuple(probes), tuple(evaluations)
        self.tracker = MLflowTracker(enabled=False) if tracker is None else tracker
        self.device = choose_device(device)
        self.autocast = choose_autocast(precision, self.device)
        self.loader = Loader(
            source=source, batch_size=batch_size, patch_size=model.patch_size, crop=crop, seed=seed,
            num_workers=num_workers,
        )  # fmt: skip
        self.clock = Clock(0, self.loader.steps_per_epoch, epochs)

    # The story of a run

    def fit(
        self, folder: RunFolder, console: Console, *, name: str, parameters: dict[str, str], resume: bool = False,
        init_from: Path | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Train to the end and evaluate.

        Args:
            folder: where the run lives; created already, or to be resumed.
            console: where a person reads.
            name: the run's name.
            parameters: everything in force, for the tracker.
            resume: go on from the folder's newest whole checkpoint.
            init_from: a checkpoint whose student's weights are taken to start from.

        Returns:
            The summary, as written to `summary.json`.

        Raises:
            TrainingError: if a loss is no longer finite; the last good checkpoint is kept.
        """
        self.folder, self.console = folder, console
        self._prepare(init_from)
        if resume:
            self._resume()
        self.tracker.start(folder.path, name=name, parameters=parameters, tags=self._tags(name))
        self.tracker.send(folder.metrics.rows(), [folder.config, folder.operative, *self._pictures()])
        try:
            self._warn_of_slow_teacher()
            if init_from is not None:
                self._save()  # so that a run that dies early goes on from these weights
            self._train()
            summary = self._finish()
        except BaseException as error:
            self.tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self.tracker.finish("FINISHED")
        return summary

    def dry_run(self, console: Console) -> None:
        """Run two steps, write nothing."""
        self._prepare(None)
        batches = self.loader.epoch(0)
        for step in range(min(2, self.clock.steps_per_epoch)):
            self.clock = Clock(step, self.clock.steps_per_epoch, self.clock.epochs)
            losses = self._step(next(batches))
            console.print(f"step {step + 1}: loss {losses.total.item():.4f}", highlight=False)

    def _prepare(self, init_from: Path | None) -> None:
        self.method.prepare(self.device, autocast=self.autocast, seed=self.seed)
        if init_from is not None:
            self.take_weights(init_from)
            self.method.copy_teacher()
        self.optimizer = build_adamw(self.method.student, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas)
        self._sums = torch.zeros(3, device=self.device)  # total, reconstruction, prediction of the open interval
        self._new_pictures: list[Path] = []
        self._seconds = self._logged_seconds = 0.0  # of training, evaluations left out

    def take_weights(self, path: Path) -> None:
        """Give the student the weights of a checkpoint.

        Raises:
            UserError: if the file is no checkpoint, or of another model.
        """
        student = checkpoint.load(path, map_location=self.device)["student"]
        try:
            self.method.student.load_state_dict(student)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise UserError(f"{path} does not fit this model: {reason}") from error

    def _train(self) -> None:
        with TrainingProgress(self.console, total=self.clock.total_steps, done=self.clock.step) as self.progress:
            while self.clock.step < self.clock.total_steps:
                started = time.perf_counter()
                for batch in self.loader.epoch(self.clock.epoch, self.clock.step % self.clock.steps_per_epoch):
                    self._train_step(batch, started)
                    started = time.perf_counter()

    def _train_step(self, batch: Batch, started: float) -> None:
        losses = self._step(batch)
        self._sums += torch.stack([losses.total.detach(), losses.reconstruction.detach(), losses.prediction.detach()])
        done = self.clock.step + 1
        last = done == self.clock.total_steps
        if done % self.log_every == 0 or last:
            self._log(losses, started)
        self._seconds += time.perf_counter() - started
        self.clock = Clock(done, self.clock.steps_per_epoch, self.clock.epochs)
        self.progress.step(done)
        if self.probe_every and done % (self.probe_every * self.clock.steps_per_epoch) == 0 and not last:
            self._probe()
        if done % self.checkpoint_every == 0 or last:
            self._save()

    def _step(self, batch: Batch) -> Losses:
        """One optimizer step. Nothing here waits for the device."""
        clock, method = self.clock, self.method
        batch = batch.to(self.device, non_blocking=True)
        set_learning_rate(
            self.optimizer,
            learning_rate(clock, lr=self.lr, min_lr=self.min_lr, warmup_epochs=self.warmup_epochs),
        )
        noise = Noise.for_batch(seed=self.seed, step=clock.step, batch_size=len(batch), device=self.device)
        losses = method.losses(batch, clock.progress(self.progress_per), noise)
        losses.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        method.teacher.update(method.student, method.teacher_decay(clock))
        return losses

    def _log(self, losses: Losses, started: float) -> None:
        """Fetch the interval's metrics: the one place that waits for the device."""
        done, curriculum = self.clock.step + 1, self.method.curriculum
        steps = (done - 1) % self.log_every + 1
        loss, reconstruction, prediction = (self._sums / steps).tolist()
        self._sums.zero_()
        self._require_finite(math.isfinite(loss))
        feedback = {"loss": loss, "reconstruction_loss": reconstruction}
        if losses.predicted_NM is not None:
            feedback |= {"prediction_loss": prediction, "prediction_accuracy": losses.ranking_accuracy().item()}
        seconds = self._seconds + time.perf_counter() - started
        since, self._logged_seconds = seconds - self._logged_seconds, seconds
        row = {
            "step": done, "time": time.time(), "kind": "train", "epoch": done / self.clock.steps_per_epoch, **feedback,
            "alpha": curriculum.alpha(self.clock.progress(self.progress_per)),
            "unscored": 0.0 if curriculum.scores is None else curriculum.scores.isnan().float().mean().item(),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "teacher_decay": self.method.teacher_decay(self.clock),
            "images_per_second": steps * self.batch_size / max(since, 1e-9), "seconds": seconds,
        }  # fmt: skip
        self.folder.metrics.append(row)
        self.progress.metrics(row | {"images_per_step": self.batch_size})
        curriculum.observe(feedback)

    def _require_finite(self, finite: bool) -> None:
        if not finite:
            kept = checkpoint.found(self.folder.checkpoints)
            advice = f"the last good checkpoint is {kept[0]}" if kept else "there is no checkpoint yet"
            raise TrainingError(
                f"the loss is not finite (at step {self.clock.step + 1} or in the {self.log_every} before); {advice}. "
                "Lower Trainer.blr, lengthen Trainer.warmup_epochs or set Trainer.precision = 'fp32'"
            )

    # Evaluation

    def _subject(self) -> Subject:
        initial = self.method.initial_copy(self.seed)
        return Subject(
            model=self.method.student, initial=initial, teacher=self.method.teacher, curriculum=self.method.curriculum,
            target=self.method.target, source=self.source, device=self.device, seed=self.seed,
        )  # fmt: skip

    def _probe(self) -> None:
        subject = self._subject()
        metrics: dict[str, float] = {}
        for probe in self.probes:
            metrics |= probe(subject)
        self._record("probe", metrics)
        self._new_pictures.append(picture(subject, self._picture()))
        shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        self.progress.say(f"epoch {self.clock.epoch}/{self.clock.epochs}  {shown}")

    def _record(self, kind: str, metrics: dict[str, float]) -> None:
        self.folder.metrics.append({"step": self.clock.step, "time": time.time(), "kind": kind, **metrics})

    def _picture(self) -> Path:
        self.folder.pictures.mkdir(exist_ok=True)
        return self.folder.pictures / f"step-{self.clock.step:08d}.png"

    def _pictures(self) -> list[Path]:
        """Those of a run that is resumed; sending one again changes nothing."""
        return sorted(self.folder.pictures.glob("*.png"))

    def _finish(self) -> dict[str, Any]:
        subject = self._subject()
        metrics: dict[str, float] = {}
        started = time.perf_counter()
        for evaluation in self.evaluations:
            with self.console.status(f"{type(evaluation).__name__} ..."):
                metrics |= evaluation(subject)
        picture(subject, self._picture())
        self._record("final", metrics)
        summary = {
            "steps": self.clock.step, "epochs": self.clock.epochs, "images": self.clock.step * self.batch_size,
            "training_seconds": self._seconds, "evaluation_seconds": time.perf_counter() - started,
            "parameters": sum(parameter.numel() for parameter in self.method.student.parameters()),
            "peak_memory_bytes": peak_memory(self.device), "picture": str(self._picture()),
            "tracking": self.tracker.problem or (self.tracker.where if self.tracker.enabled else "off"),
            "metrics": metrics,
        }  # fmt: skip
        self.folder.write_summary(summary)
        self.tracker.send(self.folder.metrics.rows(), [self._picture(), self.folder.summary])
        return summary

    # Nothing lost

    def _save(self) -> None:
        watched = (self._sums, *self.method.student.parameters())
        self._require_finite(bool(torch.stack([tensor.isfinite().all() for tensor in watched]).all()))
        state = {
            "step": self.clock.step, "seconds": self._seconds, "sums": self._sums,
            "student": self.method.student.state_dict(), "teacher": self.method.teacher.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "curriculum": self.method.curriculum.state_dict(),
        }  # fmt: skip
        checkpoint.save(self.folder.checkpoints, self.clock.step, state, keep=self.keep_checkpoints)
        self.tracker.send(self.folder.metrics.rows(), self._new_pictures)
        self._new_pictures = []

    def _resume(self) -> None:
        state, damaged = checkpoint.load_newest(self.folder.checkpoints, map_location=self.device)
        for line in damaged:
            self.console.print(f"{line}; going back to the one before", style="yellow", markup=False, highlight=False)
        step = 0
        if state is None:
            self.console.print(f"no checkpoint in {self.folder.checkpoints} yet: starting from the beginning")
        else:
            step, self._seconds = state["step"], state["seconds"]
            self._sums = state["sums"].to(self.device)
            self.method.student.load_state_dict(state["student"])
            self.method.teacher.model.load_state_dict(state["teacher"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.method.curriculum.load_state_dict(state["curriculum"])
            self.console.print(f"resuming after step {step} of {self.clock.total_steps}", highlight=False)
        self._logged_seconds = self._seconds
        self.clock = Clock(step, self.clock.steps_per_epoch, self.clock.epochs)
        self.folder.metrics.keep(lambda row: row["step"] <= step and row["kind"] != "final")

    def _tags(self, name: str) -> dict[str, str]:
        curriculum = self.method.curriculum
        parts = (curriculum.scheduler, curriculum.difficulty, curriculum.sampler)
        return {
            "config": name, "curriculum": " / ".join(type(part).__name__ for part in parts), "seed": str(self.seed),
            "data": type(self.source).__name__, "device": str(self.device), "folder": str(self.folder.path.resolve()),
        }  # fmt: skip

    def _warn_of_slow_teacher(self) -> None:
        last = Clock(self.clock.total_steps - 1, self.clock.steps_per_epoch, self.clock.epochs)
        share = 1 / (1 - self.method.teacher_decay(last)) / self.clock.total_steps
        if self.method.curriculum.difficulty.needs and share > _LONGEST_HORIZON:
            self.console.print(
                f"the teacher averages over {share:.0%} of the run's steps, so it stays close to its random "
                f"start; HorizonDecay(fraction=0.1) or less suits a run of {self.clock.total_steps} steps",
                style="yellow",
                markup=False,
                highlight=False,
            )

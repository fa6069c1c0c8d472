"""A run: from its start, or from its newest checkpoint, to its summary.

Nothing in a step waits for the device: what it measures adds up there and is fetched once an interval. Everything
random is addressed by (seed, step or epoch, sample), so a resumed run equals the uninterrupted one bit for bit, and
the number of processes changes only the order in which numbers are added.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console

from curriculum import Batch
from hpm.errors import Interrupted, Notice, TrainingError, UserError
from hpm.evaluation import Evaluation, EvaluationContext
from hpm.methods.method import Losses
from hpm.optim.clock import Clock
from hpm.runs import checkpoint
from hpm.runs.run_folder import RunFolder
from hpm.runtime.devices import device_name, peak_memory
from hpm.runtime.signals import StopSignals
from hpm.runtime.version import source_version
from hpm.training import state
from hpm.training.progress import TrainingProgress
from hpm.training.step import TrainingStep
from hpm.visualization.picture import picture

if TYPE_CHECKING:
    from hpm.training.trainer import Trainer


class _Interval(NamedTuple):
    """What the steps of an interval measured, over all processes."""

    feedback: dict[str, float]  # for the curriculum; empty where every step was skipped
    gradient_norm: float | None
    skipped: int
    in_a_row: int  # skipped, at most
    unscored: float
    unreadable: int
    stop: bool  # a process has been told to


class Run:
    """One run in progress.

    Args:
        settings: the trainer.
        step: takes the steps; prepared.
        folder: where everything goes.
        console: where a person reads.
        signals: entered; say when to stop.
    """

    def __init__(
        self, settings: Trainer, step: TrainingStep, folder: RunFolder, console: Console, signals: StopSignals
    ) -> None:
        self.settings = settings
        self.step = step
        self.folder = folder
        self.console = console
        self.signals = signals
        self.method = settings.method
        self.processes = settings.processes
        self.clock = settings.clock
        self.writer = checkpoint.CheckpointWriter(
            folder.checkpoints,
            self.processes,
            keep=settings.keep_checkpoints,
            keep_every=settings.keep_every,
            sharded=settings.sharding == "fsdp",
        )
        self._seconds = self._logged_seconds = 0.0  # of training, evaluations left out
        self._logged_step = 0
        self._saved = -1
        self._published = -1
        self._unreadable = 0
        self._pictures: list[tuple[int, Path]] = []
        self._config = folder.saved_config()

    def complete(self) -> dict[str, Any]:
        """Train and evaluate; see `Trainer.fit`."""
        tracker = self.settings.tracker
        try:
            if self.processes.is_main:
                tracker.send(self.folder.metrics.rows(), [self.folder.config, self.folder.operative])
            if self.settings.start is not None and self.clock.step == 0:
                self._save()  # so that a run that dies early goes on from these weights
                self.writer.wait()
            self._train()
            summary = self._finish()
        except BaseException as error:
            self.writer.wait()
            self._publish()
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED")
            raise
        tracker.finish("FINISHED")
        return summary if tracker.problem is None else {**summary, "tracking": tracker.problem}

    def _train(self) -> None:
        clock = self.clock
        with TrainingProgress(self.console, total=clock.total_steps, done=clock.step) as self.progress:
            while self.clock.step < clock.total_steps:
                started = time.perf_counter()
                for batches in self.settings.loader.epoch(self.clock.epoch, self.clock.step % clock.steps_per_epoch):
                    self._train_step(batches, started)
                    started = time.perf_counter()

    def _train_step(self, batches: Sequence[Batch], started: float) -> None:
        losses = self.step(batches, **self.settings.schedule(self.clock))
        done = self.clock.step + 1
        last = done == self.clock.total_steps
        stop = self.signals.received is not None and self.processes.world_size == 1
        if done % self.settings.log_every == 0 or last:
            stop = self._log(losses, started)
        self._seconds += time.perf_counter() - started
        self.clock = Clock(done, self.clock.steps_per_epoch, self.clock.epochs)
        self.progress.step(done)
        probe_every = self.settings.probe_every * self.clock.steps_per_epoch
        if probe_every and done % probe_every == 0 and not last:
            self._probe()
        if done % self.settings.checkpoint_every == 0 or last or stop:
            self._save()
        if stop:
            self._stop()

    def _stop(self) -> None:
        self.writer.wait()
        self.processes.barrier()  # torchrun ends the others as soon as one has exited
        name, done = self.signals.received or "a signal to another process", self.clock.step
        if self.writer.writes and self.writer.written < done:
            raise Interrupted(f"{name}: step {done} could not be saved, the checkpoint before it is the newest")
        raise Interrupted(f"{name}: saved after step {done}")

    def _log(self, losses: Sequence[Losses], started: float) -> bool:
        """End an interval of steps.

        Returns:
            Whether any process has been told to stop.
        """
        interval = self._fetch(losses)
        row = self._row(interval, self._seconds + time.perf_counter() - started)
        if self.processes.is_main:
            self.folder.metrics.append(row)
            self.progress.metrics(row | {"images_per_step": self.settings.batch_size})
            self._publish()
        if interval.feedback:
            self.method.curriculum.observe(interval.feedback)
        self._report_unreadable(interval.unreadable)
        self._report_skipped(interval)
        return interval.stop

    def _fetch(self, losses: Sequence[Losses]) -> _Interval:
        """Fetch what was measured: the one place that waits for the device, and for the other processes."""
        tally = self.step.tally.sums
        scores = self.method.curriculum.scores
        processes = self.processes
        mine = [float(self.signals.received is not None), float(len(self.settings.loader.unreadable))]
        measured = torch.cat(
            [
                tally,
                torch.stack([micro.ranking_accuracy().float() for micro in losses]).mean().reshape(1),
                torch.zeros_like(tally[:1]) if scores is None else scores.isnan().float().mean().reshape(1),
                torch.tensor(mine, device=self.settings.device),
            ]
        )
        *sums, accuracy, unscored, stop, unreadable = (processes.sum(measured) / processes.world_size).tolist()
        total, reconstruction, prediction, norm, taken, skipped, _, in_a_row = sums
        self.step.tally.start_interval()
        feedback: dict[str, float] = {}
        if taken:
            feedback = {"loss": total / taken, "reconstruction_loss": reconstruction / taken}
            if losses[-1].predicted_NM is not None:
                feedback |= {"prediction_loss": prediction / taken, "prediction_accuracy": accuracy}
        return _Interval(
            feedback=feedback,
            gradient_norm=norm / taken if taken else None,
            skipped=int(skipped),
            in_a_row=int(in_a_row),
            unscored=unscored,
            unreadable=round(unreadable * processes.world_size),
            stop=stop > 0,
        )

    def _row(self, interval: _Interval, seconds: float) -> dict[str, Any]:
        """A row of metrics, after `seconds` of training."""
        done, method = self.clock.step + 1, self.method
        since, steps = seconds - self._logged_seconds, done - self._logged_step
        self._logged_seconds = seconds
        self._logged_step = done
        row: dict[str, Any] = {
            "step": done,
            "time": time.time(),
            "kind": "train",
            "epoch": done / self.clock.steps_per_epoch,
            **interval.feedback,
            "alpha": method.curriculum.alpha(self.clock.progress(self.settings.progress_per)),
            "unscored": interval.unscored,
            "learning_rate": self.step.optimizer.param_groups[0]["lr"],
            "skipped_steps": interval.skipped,
            "seconds": seconds,
            "images_per_second": steps * self.settings.batch_size / max(since, 1e-9),
        }
        if interval.gradient_norm is not None:
            row["gradient_norm"] = interval.gradient_norm
        if method.ema_decay is not None:
            row["ema_decay"] = method.ema_decay(self.clock)
        return row

    def _report_unreadable(self, count: int) -> None:
        """Name images that could not be read since the last interval, those of all processes."""
        if count > self._unreadable:
            self._unreadable = count
            found = {
                name: reason
                for theirs in self.processes.gather(self.settings.loader.unreadable)
                for name, reason in theirs.items()
            }
            if self.processes.is_main:
                for line in self.folder.add_unreadable(found):
                    self.progress.report(f"skipped, unreadable: {line}")

    def _report_skipped(self, interval: _Interval) -> None:
        if interval.in_a_row >= self.settings.max_skipped:
            self.writer.wait()
            self.processes.barrier()
            kept = checkpoint.list_checkpoints(self.folder.checkpoints)
            advice = f"the last good checkpoint is {kept[0]}" if kept else "there is no checkpoint yet"
            raise TrainingError(
                f"the gradient is not finite: {interval.in_a_row} steps in a row were skipped, up to step "
                f"{self.clock.step + 1}, and Optimization.max_skipped = {self.settings.max_skipped}; {advice}. Lower "
                "Schedule.blr, lengthen Schedule.warmup_epochs, set Optimization.clip_grad = 1.0 or Runtime.precision = 'fp32'"
            )
        if interval.skipped:
            self.progress.report(
                f"step {self.clock.step + 1}: {interval.skipped} of the last steps skipped, gradient not finite"
            )

    # Evaluation

    def _subject(self) -> EvaluationContext:
        settings, method = self.settings, self.method
        student, teacher = method.gathered()
        return EvaluationContext(
            model=student,
            initial=partial(method.initial_copy, settings.seed),
            teacher=teacher,
            curriculum=method.curriculum,
            target=method.target,
            source=settings.source,
            device=settings.device,
            seed=settings.seed,
        )

    def _probe(self) -> None:
        """The main process measures and draws, the others wait."""
        context = self._subject()
        if self.processes.is_main:
            with self._uncompiled():
                metrics = self._measure(self.settings.probes, context)
                self._draw(context)
            self._record("probe", metrics)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            self.progress.report(f"epoch {self.clock.epoch}/{self.clock.epochs}  {shown}")
        self.processes.barrier()

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Evaluations ask for other shapes than training does, and would compile every one of them."""
        return torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext()

    def _measure(self, evaluations: Sequence[Evaluation], context: EvaluationContext) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for evaluation in evaluations:
            metrics |= evaluation.measure(context)
        return metrics

    def _record(self, kind: str, metrics: dict[str, float]) -> None:
        self.folder.metrics.append({"step": self.clock.step, "time": time.time(), "kind": kind, **metrics})

    def _draw(self, context: EvaluationContext) -> Path:
        path = self.folder.pictures / f"step-{self.clock.step:08d}.png"
        try:
            self.folder.pictures.mkdir(exist_ok=True)
            self._pictures.append((self.clock.step, picture(context, path)))
        except OSError as error:
            warnings.warn(f"the picture {path} could not be written: {error}", Notice, stacklevel=2)
        return path

    def _finish(self) -> dict[str, Any]:
        self.writer.wait()
        self.signals.immediate = True  # everything is saved: evaluation can be repeated
        if any(self.processes.gather(self.signals.received is not None)):
            self._stop()
        context, summary = self._subject(), {}
        if self.processes.is_main:
            started = time.perf_counter()
            with self.console.status("evaluating ..."), self._uncompiled():
                metrics = self._measure(self.settings.evaluations, context)
                drawn = self._draw(context)
            self._record("final", metrics)
            summary = self._summary(metrics, time.perf_counter() - started, drawn)
        self.processes.barrier()
        self._require_written()
        if self.processes.is_main:
            self._write_summary(summary)
        return summary

    def _summary(self, metrics: dict[str, float], seconds: float, drawn: Path) -> dict[str, Any]:
        settings, tracker = self.settings, self.settings.tracker
        return {
            "steps": self.clock.step,
            "epochs": self.clock.epochs,
            "images": self.clock.step * settings.batch_size,
            "training_seconds": self._seconds,
            "evaluation_seconds": seconds,
            "parameters": sum(parameter.numel() for parameter in self.method.student.parameters()),
            "processes": self.processes.world_size,
            "precision": settings.precision,
            "data": type(settings.source).__name__,
            "device": device_name(settings.device),
            "commit": source_version(),
            "unreadable_images": self.folder.count_unreadable(),
            "peak_memory_bytes": peak_memory(settings.device),
            "picture": str(drawn),
            "tracking": tracker.where if tracker.enabled else "off",
            "metrics": metrics,
        }

    def _require_written(self) -> None:
        """A last checkpoint that the disk had no room for is tried once more."""
        if any(self.processes.gather(self.writer.writes and self.writer.written < self.clock.step)):
            self._saved = -1
            self._save()
            self.writer.wait()
        if self.writer.writes and self.writer.written < self.clock.step:
            raise TrainingError(
                f"{self.writer.problem}; make room and go on with --resume --output {self.folder.path}, from "
                f"{'the newest checkpoint' if checkpoint.list_checkpoints(self.folder.checkpoints) else 'the beginning'}"
            )

    def _write_summary(self, summary: dict[str, Any]) -> None:
        try:
            self.folder.metrics.flush()
            self.folder.write_summary(summary)
        except OSError as error:
            raise TrainingError(
                f"{self.folder.summary} could not be written: {error}; make room and evaluate again with --resume "
                f"--output {self.folder.path}"
            ) from error
        self._publish()
        self.settings.tracker.send(self.folder.metrics.rows(), [self.folder.summary])

    # Nothing lost

    def _save(self) -> None:
        if self._saved == self.clock.step:
            return
        self._saved = self.clock.step
        values = {
            "step": self.clock.step,
            "seconds": self._seconds,
            "logged_seconds": self._logged_seconds,
            "logged_step": self._logged_step,
            "precision": self.settings.precision,
            "config": self._config,
            **state.values_of(self.step),
        }
        self.writer.save(self.clock.step, state.tensors_of(self.step), values)

    def _publish(self) -> None:
        """Send to the tracker what the newest checkpoint on disk covers: no step that a resumed run takes again."""
        if self.processes.is_main and self.writer.written > self._published:
            self._published = self.writer.written
            files = [path for step, path in self._pictures if step <= self._published]
            self._pictures = [(step, path) for step, path in self._pictures if step > self._published]
            rows = [row for row in self.folder.metrics.rows() if row["step"] <= self._published]
            self.settings.tracker.send(rows, files)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint; called before `complete`.

        Raises:
            UserError: if it is of another model, or was trained in another precision.
        """
        newest, damaged = checkpoint.load_newest(self.folder.checkpoints) if self.processes.is_main else (None, [])
        for line in damaged:
            self.console.print(f"{line}; going back to the one before", style="yellow", markup=False, highlight=False)
        (path, *_) = self.processes.gather(None if newest is None else newest.path)
        if path is None:
            origin = self.folder.started_from()
            if origin is not None and self.settings.start is None:
                raise UserError(f"{self.folder.path} holds no whole checkpoint; give --init-from {origin} once more")
            self.console.print("there is no checkpoint yet: starting from the beginning")
        else:
            self._restore(newest or checkpoint.Checkpoint(path))
        if self.processes.is_main:
            step = self.clock.step
            self.folder.prepare_resume(lambda row: row["step"] <= step and row["kind"] != "final")
            self._config = self.folder.saved_config()
            self._pictures = [(0, path) for path in sorted(self.folder.pictures.glob("*.png"))]

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        values, precision = saved.values, self.settings.precision
        if values["precision"] != precision:
            raise UserError(
                f"{saved.path} was trained in {values['precision']}, and Runtime.precision gives {precision} here; go "
                f"on with -b \"Runtime.precision = '{values['precision']}'\""
            )
        state.restore(self.step, saved)
        self._seconds = values["seconds"]
        self._logged_seconds = values["logged_seconds"]
        self._logged_step = values["logged_step"]
        self._saved = values["step"]
        self.writer.written = values["step"]
        self.clock = Clock(values["step"], self.clock.steps_per_epoch, self.clock.epochs)
        self.console.print(f"resuming after step {values['step']} of {self.clock.total_steps}", highlight=False)

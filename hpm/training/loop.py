"""TrainingLoop: from a run's start, or from its newest checkpoint, to its summary.

Nothing in a step waits for the device: what it measures adds up there and is fetched once an interval. Everything
random is addressed by (seed, step or epoch, sample), so a resumed run equals the uninterrupted one bit for bit, and
the number of processes changes only the order in which numbers are added.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from curriculum import Batch
from hpm.errors import Interrupted, TrainingError
from hpm.methods.student_pass import Losses
from hpm.metrics import find_metric
from hpm.runs.checkpoint import Checkpoint, list_checkpoints, load_newest, manifest_of, path_of
from hpm.runs.checkpoint_writer import CheckpointWriter
from hpm.runs.run_folder import RunFolder
from hpm.runtime.progress import progress_to
from hpm.runtime.signals import StopSignals
from hpm.training import state
from hpm.training.batches import batches_from
from hpm.training.divergence import Divergence, skipped_too_many, usual_remedy, weights_not_finite
from hpm.training.metrics import Interval, IntervalMetrics
from hpm.training.prober import Prober
from hpm.training.progress import TrainingProgress
from hpm.training.recorder import RunRecorder
from hpm.training.resume import check_restart, check_saved, manifest_at, require_same_training_images, take_images
from hpm.training.run_figures import run_figures
from hpm.training.step import TrainingStep

if TYPE_CHECKING:
    from hpm.training.trainer import Trainer


class TrainingLoop:
    """One run in progress.

    Args:
        trainer: whose run it is.
        step: takes the steps.
        folder: where everything goes.
        console: where a person reads.
        signals: entered; they tell when to stop.
    """

    def __init__(
        self, trainer: Trainer, step: TrainingStep, folder: RunFolder, console: Console, signals: StopSignals
    ) -> None:
        self.trainer = trainer
        self.step = step
        self.folder = folder
        self.console = console
        self.signals = signals
        self.processes = trainer.processes
        self.clock = trainer.clock
        self.writer = CheckpointWriter(
            folder.checkpoints,
            self.processes,
            keep=trainer.checkpointing.keep,
            keep_every=trainer.checkpointing.keep_every,
            sharded=trainer.runtime.sharding == "fsdp",
        )
        self.recorder = RunRecorder(folder, trainer.tracker, self.processes)
        self.prober = Prober(trainer, self.recorder)
        self.interval = IntervalMetrics(trainer, step)
        self._seconds = 0.0  # of training, evaluations left out
        self._saved = -1
        self._config = folder.saved_config()
        self._manifest = manifest_of(folder, told=False)

    def complete(self) -> dict[str, Any]:
        """Train and evaluate; see `Trainer.fit`."""
        tracker = self.trainer.tracker
        try:
            self.recorder.start()
            if self.trainer.initial_weights is not None and self.clock.step == 0:
                self._save()  # so that a run that dies early goes on from these weights
                self.writer.wait()
            self._train()
            summary = self._finish()
        except BaseException as error:
            self.writer.wait()
            self.recorder.publish(self.writer.written)
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED")
            raise
        tracker.finish("FINISHED")
        return summary if tracker.problem is None else {**summary, "tracking_problem": tracker.problem}

    def _train(self) -> None:
        clock = self.clock
        with TrainingProgress(self.console, total=clock.total_steps, done=clock.step) as self.progress:
            while self.clock.step < clock.total_steps:
                started = time.perf_counter()
                for batches in batches_from(self.trainer, self.clock):
                    self._train_step(batches, started)
                    started = time.perf_counter()

    def _train_step(self, batches: Sequence[Batch], started: float) -> None:
        losses = self.step(batches, **self.trainer.step_arguments(self.clock))
        done = self.clock.step + 1
        last = done == self.clock.total_steps
        stop = self.signals.received is not None and self.processes.world_size == 1
        if done % self.trainer.monitoring.log_every == 0 or last:
            stop = self._end_interval(losses, started)
        self._seconds += time.perf_counter() - started
        self.clock = self.clock.at(done)
        self.progress.step(done)
        probe_every = self.trainer.monitoring.probe_every * self.clock.steps_per_epoch
        probes = bool(probe_every) and done % probe_every == 0 and not last
        saves = done % self.trainer.checkpointing.every == 0 or last or stop
        if probes or saves:
            self._require(weights_not_finite(self.step, done=done))
        if probes:
            try:
                self._probe()
            except Exception:  # an evaluation of someone's own, or no memory: what was trained is kept
                if self.processes.world_size == 1:
                    self._save()
                raise
        if saves:
            self._save()
        if stop:
            self._stop()

    def _end_interval(self, losses: Sequence[Losses], started: float) -> bool:
        """Fetch, log and report what an interval measured, and tell the schedulers.

        Returns:
            Whether any process has been told to stop.
        """
        interval = self.interval.fetch(losses, stop=self.signals.received is not None)
        row = self.interval.row(interval, self.clock, self._seconds + time.perf_counter() - started)
        if self.processes.is_main:
            self.folder.metrics.append(row)
            self.progress.metrics(row | {"images_per_step": self.trainer.schedule.batch_size})
            self.recorder.publish(self.writer.written)
        if interval.feedback:
            self.trainer.method.observe(interval.feedback)
        for line in self.recorder.new_unreadable(interval.unreadable, self.trainer.loader.unreadable):
            self.progress.report(f"skipped, unreadable: {line}")
        self._report_skipped(interval)
        return interval.stop

    def _report_skipped(self, interval: Interval) -> None:
        done, limit = self.clock.step + 1, self.trainer.optimization.max_skipped
        last, fp16 = done == self.clock.total_steps, self.step.scaler is not None
        self._require(skipped_too_many(interval, done=done, last=last, limit=limit, fp16=fp16))
        if interval.skipped:
            self.progress.report(f"step {done}: {interval.skipped} of the last steps skipped, gradient not finite")

    def _require(self, divergence: Divergence | None) -> None:
        """End a run that has diverged."""
        if divergence is not None:
            self.writer.wait()
            (written, *_) = self.processes.gather(self.writer.written)
            newest = path_of(self.folder.checkpoints, written) if written >= 0 else None
            raise divergence.error(newest, usual_remedy(self.trainer.precision, self.trainer.optimization.clip_grad))

    def _probe(self) -> None:
        metrics = self.prober.probe(self.clock.step)
        if self.processes.is_main and metrics:
            # A line is short: of each protocol the first, and no controls, which are neither better nor worse.
            declared = {name: find_metric(name) for name in metrics}
            judged = [name for name, one in declared.items() if one is None or one.higher_is_better is not None]
            first = {name.rpartition("/")[0]: name for name in reversed(judged)}
            shown = "  ".join(f"{name} {metrics[name]:.3f}" for name in reversed(first.values()))
            self.progress.report(f"epoch {self.clock.epoch}/{self.clock.epochs}  {shown}")

    def _stop(self) -> None:
        self.writer.wait()
        self.processes.barrier()  # torchrun ends the others as soon as one has exited
        name, done = self.signals.received or "a signal to another process", self.clock.step
        if self.writer.writes and self.writer.written < done:
            raise Interrupted(f"{name}: step {done} could not be saved, the checkpoint before it is the newest")
        raise Interrupted(f"{name}: saved after step {done}")

    # The end

    def _finish(self) -> dict[str, Any]:
        self.writer.wait()
        self.signals.immediate = True  # everything is saved: evaluation can be repeated
        if any(self.processes.gather(self.signals.received is not None)):
            self._stop()
        with progress_to(self.console, "evaluating ..."):
            measured = self.prober.evaluate(self.clock.step)
        self._require_written()
        if not self.processes.is_main:
            return {}
        summary = run_figures(self.trainer, self.folder, self.clock, self._seconds) | measured
        self.recorder.finish(summary)
        return summary

    def _require_written(self) -> None:
        """A last checkpoint that the disk had no room for is tried once more."""
        if any(self.processes.gather(self.writer.writes and self.writer.written < self.clock.step)):
            self._saved = -1
            self._save()
            self.writer.wait()
        if self.writer.writes and self.writer.written < self.clock.step:
            newest = "the newest checkpoint" if list_checkpoints(self.folder.checkpoints) else "the beginning"
            raise TrainingError(
                f"{self.writer.problem}; make room and go on with --resume --output {self.folder.path}, from {newest}"
            )

    # Nothing lost

    def _save(self) -> None:
        if self._saved == self.clock.step:
            return
        self._saved = self.clock.step
        values = {
            "step": self.clock.step,
            "seconds": self._seconds,
            "logged_seconds": self.interval.logged_seconds,
            "logged_step": self.interval.logged_step,
            "precision": self.trainer.precision,
            "config": self._config,
            "manifest": self._manifest.as_json(),
            **state.values_of(self.step),
        }
        self.writer.save(self.clock.step, state.saved_tensors(self.step), values)

    def resume(self, *, other_images: bool) -> None:
        """Go on from the newest whole checkpoint; called before `complete`.

        Args:
            other_images: go on over other images than before.

        Raises:
            UserError: if it is of another model, another precision, or other images.
        """
        newest, damaged = self.processes.main_only(lambda: load_newest(self.folder.checkpoints)) or (None, [])
        (path, *_) = self.processes.gather(None if newest is None else newest.path)
        if path is not None:
            for line in damaged:
                self.console.print(f"{line}; going back to the one before", style="yellow")
            self._restore(newest or Checkpoint(path), other_images=other_images)
        else:
            self._begin_again(self.processes.gather(damaged)[0], other_images=other_images)
        if self.processes.is_main:
            self.recorder.resume(self.clock.step, self._manifest)
            self._config = self.folder.saved_config()

    def _begin_again(self, damaged: Sequence[str], *, other_images: bool) -> None:
        """Start the run where it started."""
        check_restart(self.folder, damaged, self._manifest.init_from, loaded=self.trainer.initial_weights is not None)
        self._take_images(self.folder.path, other_images=other_images)
        self.console.print("there is no checkpoint yet: starting from the beginning")

    def _restore(self, saved: Checkpoint, *, other_images: bool) -> None:
        values = check_saved(saved, self.clock, self.trainer.precision)
        self._manifest = manifest_at(self._manifest, saved, self.trainer.said())
        self.clock = self.clock.at(values["step"])
        self._take_images(saved.path, other_images=other_images, saved=saved)
        state.restore(self.step, saved)
        self._seconds = values["seconds"]
        self.interval.logged_seconds = values["logged_seconds"]
        self.interval.logged_step = values["logged_step"]
        self._saved = values["step"]
        self.writer.written = values["step"]
        self.console.print(f"resuming after step {values['step']} of {self.clock.total_steps}")

    def _take_images(self, where: Path, *, other_images: bool, saved: Checkpoint | None = None) -> None:
        now, step = self.trainer.data_record(), self.clock.step
        if saved is not None and self.trainer.method.remembers_images:
            require_same_training_images(where, self._manifest.data, now)
        self._manifest = take_images(
            self._manifest, now, where, other_images=other_images, until_step=step, console=self.console
        )

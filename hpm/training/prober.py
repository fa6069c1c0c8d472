"""Prober: measures and draws a model while it is trained, and at the end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpm.data import HELD_OUT, VALIDATION, Unreadable, UnreadableImages
from hpm.errors import Notice, TrainingError, UserError
from hpm.evaluation import Evaluation, EvaluationContext
from hpm.evaluation.base import Pretraining
from hpm.training.recorder import RunRecorder
from hpm.training.training_images import batches_to_evaluate
from hpm.visualization import draw_gallery
from hpm.visualization.picture import picture

if TYPE_CHECKING:
    from hpm.training.trainer import Trainer


class Prober:
    """Runs evaluations of the model as it is now, in the main process; the others wait.

    Args:
        trainer: whose model is measured.
        recorder: takes metrics and pictures.
    """

    def __init__(self, trainer: Trainer, recorder: RunRecorder) -> None:
        self._trainer = trainer
        self._recorder = recorder
        self._unreadable = UnreadableImages(trainer.loading.max_unreadable)

    def context(self, step: int, *splits: str) -> EvaluationContext:
        """What evaluations look at. Every process must call this.

        Args:
            step: taken so far.
            *splits: which held-out images they score.
        """
        trainer, method = self._trainer, self._trainer.method
        student, teacher = method.gathered()
        return EvaluationContext(
            model=student,
            initial=partial(method.initial_copy, trainer.seed),
            teacher=teacher,
            curriculum=method.curriculum,
            target=method.target,
            source=trainer.source,
            device=trainer.device,
            seed=trainer.seed,
            pretraining=Pretraining(
                trainer.clock.at(step),
                trainer.schedule.batch_size,
                trainer.progress_per,
                method.dense_prediction_every,
                method.supervision,
            ),
            splits=splits,
            training_batches=partial(batches_to_evaluate, trainer, step),
            unreadable=self._unreadable,
            image_curriculum=method.image_curriculum,
        )

    def probe(self, step: int) -> dict[str, float]:
        """Measure on validation images and draw training images, in the middle of training.

        Args:
            step: taken so far.

        Returns:
            The metrics; empty in all processes but the main one, and where nothing could be measured: what a probe
            finds wrong, such as an image that cannot be read, is told in a `Notice` and ends no training.
        """
        context = self.context(step, VALIDATION)
        metrics: dict[str, float] = {}
        if self._trainer.processes.is_main:
            try:
                with self._trainer.runtime.uncompiled():
                    metrics = _measure(self._trainer.monitoring.probes, context)
                    self._draw(context, step)
                self._record(step, "probe", metrics)
            except (UserError, TrainingError) as error:
                warnings.warn(f"step {step} is not probed, training goes on: {error}", Notice, stacklevel=2)
            self._note_unreadable()
        self._trainer.processes.barrier()
        return metrics

    def evaluate(self, step: int) -> dict[str, Any]:
        """Measure on validation and test images and draw training images, at the end of training.

        Args:
            step: taken in all.

        Returns:
            "metrics", over how many "scored_images" those are that are shares of images, the values "per_class" of
            those that are means over classes, the "seconds" that all took, and the "picture" drawn; empty in all
            processes but the main one.

        Raises:
            UserError: if something cannot be measured, such as held-out images that cannot be read; it says how to go
                on.
        """
        context = self.context(step, *HELD_OUT)
        measured: dict[str, Any] = {}
        if self._trainer.processes.is_main:
            started = time.perf_counter()
            try:
                with self._trainer.runtime.uncompiled():
                    metrics = _measure(self._trainer.monitoring.evaluations, context)
                    drawn = self._draw(context, step)
            except UserError as error:
                command = f"hpm pretrain --resume --output {self._recorder.folder.path}"
                if isinstance(error, Unreadable):  # of another size once it is mended, or removed
                    command += " --other-images"
                raise UserError(
                    f"{error}; the training itself is done: once this is mended, {command} evaluates it"
                ) from error
            self._note_unreadable()
            self._record(step, "final", metrics)
            measured = {
                "metrics": metrics,
                "scored_images": context.scored_images,
                "per_class": context.mean_per_class(metrics),
                "seconds": time.perf_counter() - started,
                "picture": drawn,
            }
        self._trainer.processes.barrier()
        return measured

    def _record(self, step: int, kind: str, metrics: dict[str, float]) -> None:
        self._recorder.folder.metrics.append({"step": step, "time": time.time(), "kind": kind, **metrics})

    def _note_unreadable(self) -> None:
        """Name the training images for which others stood in, those that nobody has named yet."""
        for line in self._recorder.folder.add_unreadable(self._unreadable.by_name) if self._unreadable.by_name else ():
            warnings.warn(f"skipped, unreadable: {line}", Notice, stacklevel=2)

    def _draw(self, context: EvaluationContext, step: int) -> Path:
        # Crops of no step, so that all of a run's pictures show the same.
        crops = replace(context, training_batches=partial(batches_to_evaluate, self._trainer, 0))
        name = self._recorder.folder.path.resolve().name
        path = self._recorder.folder.pictures / f"step-{step:08d}.png"
        self._add_picture(step, path, lambda: picture(crops, path, name=name))
        for protocol, gallery in context.galleries.items():
            other = path.with_name(f"step-{step:08d}-{protocol}.png")
            self._add_picture(step, other, partial(draw_gallery, gallery, other, name=name))
        return path

    def _add_picture(self, step: int, path: Path, draw: Callable[[], Path]) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
            self._recorder.add_picture(step, draw())
        except OSError as error:
            warnings.warn(f"the picture {path} could not be written: {error}", Notice, stacklevel=2)


def _measure(evaluations: Sequence[Evaluation], context: EvaluationContext) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for evaluation in evaluations:
        metrics |= evaluation.measure(context)
    return metrics

"""Trainer: the parts of a run, put together and checked."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from curriculum import TrainingContext
from curriculum.schedulers import Scalar
from curriculum.validation import require_choice, require_instance
from hpm.data import ImageSource, Loader, ObjectShares, RandomResizedCrop
from hpm.evaluation.base import need_held_out
from hpm.methods.method import Method
from hpm.optim.clock import Clock
from hpm.optim.image_sizes import ImageSizes
from hpm.optim.optimization import Optimization
from hpm.optim.schedule import Schedule
from hpm.runs.manifest import DataRecord, Manifest
from hpm.runs.run_folder import RunFolder
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.settings import Runtime
from hpm.runtime.signals import StopSignals
from hpm.tracking import NoTracker, Tracker
from hpm.training.cautions import cautions
from hpm.training.checks import check_image_count, check_labels, check_method, check_objects
from hpm.training.init_from import InitialWeights, load_initial_weights
from hpm.training.loop import TrainingLoop
from hpm.training.recorder import tags_of
from hpm.training.resume import fingerprint_of, record_images
from hpm.training.settings import Checkpointing, Loading, Monitoring, given_or_default
from hpm.training.setup import build_training_step
from hpm.training.step import TrainingStep

PROGRESS_PER = ("epoch", "step")


class Trainer:
    """Trains a method on a source of images.

    Args:
        method: student, teacher, curriculum, target and losses.
        source: images to train on.
        crop: augmentation.
        schedule: epochs, batches and learning rate; None for the defaults, as in all that follow.
        optimization: AdamW.
        runtime: device, precision and what makes a step fast.
        loading: how images are read.
        checkpointing: when checkpoints are written.
        monitoring: what is measured, and where it is copied to.
        progress_per: "epoch" moves the curriculum once an epoch, at (epoch + 1) / epochs as HPM publishes it;
            "step" at every step, at (step + 1) / steps.
        image_size: height in pixels that crops are brought to, a number or a scheduler of time, which moves it from
            epoch to epoch; rounded to whole patches, the width in proportion. Smaller images have fewer patches. None
            for the images' own size, at which everything is evaluated whatever this is.
        seed: of the weights, the order and augmentation of the data, and the masks.

    Attributes:
        image_sizes: of the crops of each epoch.
        processes: that train together.
        device: this process's.
        precision: what `runtime.precision` means on it.
        loader: of the training images.
        clock: at the run's start.
        tracker: where metrics are copied to.

    Raises:
        ValueError: naming the setting at fault.
    """

    def __init__(
        self,
        *,
        method: Method,
        source: ImageSource,
        crop: RandomResizedCrop,
        schedule: Schedule | None = None,
        optimization: Optimization | None = None,
        runtime: Runtime | None = None,
        loading: Loading | None = None,
        checkpointing: Checkpointing | None = None,
        monitoring: Monitoring | None = None,
        progress_per: str = "epoch",
        image_size: Scalar | None = None,
        seed: int = 0,
    ) -> None:
        require_instance("Trainer", Method, method=method)
        require_instance("Trainer", ImageSource, source=source)
        require_instance("Trainer", RandomResizedCrop, crop=crop)
        require_choice("Trainer", PROGRESS_PER, progress_per=progress_per)
        if not -(2**62) <= seed <= 2**62:  # evaluations count on from it
            raise ValueError(f"Trainer.seed = {seed} must be from -2**62 to 2**62")
        self.method = method
        self.source = source
        self.crop = crop
        self.schedule = given_or_default("schedule", schedule, Schedule)
        self.optimization = given_or_default("optimization", optimization, Optimization)
        self.runtime = given_or_default("runtime", runtime, Runtime)
        self.loading = given_or_default("loading", loading, Loading)
        self.checkpointing = given_or_default("checkpointing", checkpointing, Checkpointing)
        self.monitoring = given_or_default("monitoring", monitoring, Monitoring)
        self.progress_per, self.seed = progress_per, seed
        self.processes = DistributedContext.from_environment()
        self.device = self.runtime.choose_device(self.processes)
        self.precision = self.runtime.choose_precision(self.device)
        tracker = self.monitoring.tracker if self.processes.is_main else None
        self.tracker: Tracker = NoTracker() if tracker is None else tracker
        self.image_sizes = ImageSizes(
            image_size,
            img_size=method.student.img_size,
            patch_size=method.student.patch_size,
            epochs=self.schedule.epochs,
        )
        self._check()
        self.loader = Loader(
            source=source,
            batch_size=self.schedule.batch_size,
            patch_size=method.student.patch_size,
            crop=crop,
            seed=seed,
            num_workers=self.loading.num_workers,
            accumulate=self.schedule.accumulate,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            device=self.device,
            max_unreadable=self.loading.max_unreadable,
            gpu_decode=self.loading.gpu_decode,
            masks_per_image=self.schedule.masks_per_image,
            image_sizes=self.image_sizes,
        )
        self.clock = self.schedule.clock(len(source.train()))
        self.initial_weights: InitialWeights | None = None
        self.init_from: Path | None = None

    def _check(self) -> None:
        """The parts must go together."""
        self.runtime.check(
            device_type=self.device.type,
            precision=self.precision,
            world_size=self.processes.world_size,
            accumulate=self.schedule.accumulate,
        )
        self.runtime.check_compiler()
        if self.loading.gpu_decode and self.device.type != "cuda":
            raise ValueError(f"Loading.gpu_decode = True needs a CUDA device, this is {self.device}; set it to False")
        check_method(self.method, self.runtime, self.schedule, self.image_sizes, self.processes.world_size)
        self.method.student.check_images(self.source.img_size, self.source.in_chans, type(self.source).__name__)
        check_objects(self.method, self.source)
        check_labels(self.method, self.source)
        check_image_count(self.method, self.source)
        for evaluation in (*self.monitoring.probes, *self.monitoring.evaluations):
            evaluation.check(self.source, self.method.student)
        if need_held_out(self.monitoring.probes):
            self.source.validation()  # on which these probes are scored
        if need_held_out(self.monitoring.evaluations):
            self.source.require_held_out()

    def start_from(self, path: Path) -> list[str]:
        """Train from the weights of a run, a checkpoint or what others published, rather than from random ones.

        Returns:
            What to tell the user.

        Raises:
            UserError: if there is no model, or another one.
        """
        start = load_initial_weights(self.method, path, seed=self.seed, source=self.source, sizes=self.image_sizes)
        self.init_from, self.initial_weights, lines = start
        return lines

    def fit(
        self,
        folder: RunFolder,
        console: Console,
        *,
        name: str,
        parameters: dict[str, str],
        resume: bool = False,
        other_images: bool = False,
    ) -> dict[str, Any]:
        """Train to the end and evaluate.

        Args:
            folder: where the run lives; created already, or to be resumed.
            console: where a person reads.
            name: the run's name.
            parameters: everything in force, for the tracker.
            resume: go on from the folder's newest whole checkpoint.
            other_images: go on over other images than before, rather than refuse them.

        Returns:
            The summary, as written to `summary.json`; empty in all processes but the main one.

        Raises:
            TrainingError: if too many losses are not finite or too many images unreadable; checkpoints are kept.
            Interrupted: after SIGTERM, SIGINT, SIGHUP or SIGUSR1; everything is saved.
            UserError: if another process is writing to the folder, or images cannot be read.
        """
        self.source.prepare()
        self.loader.prepare()
        with StopSignals() as signals, folder.locked() if self.processes.is_main else nullcontext():
            loop = TrainingLoop(self, self.build_step(), folder, console, signals)
            if resume:
                loop.resume(other_images=other_images)
            self.processes.main_only(lambda: self._start_tracker(folder, name, parameters))
            for caution in cautions(self.method, self.clock, self.image_sizes):
                console.print(caution, style="yellow")
            return loop.complete()

    def replay(self, folder: RunFolder, *, name: str, parameters: dict[str, str]) -> None:
        """Send a complete run to the tracker, where it could not be reached before."""
        self._start_tracker(folder, name, parameters)
        pictures = sorted(folder.pictures.glob("*.png"))
        self.tracker.send(folder.metrics.rows(), [folder.config, folder.operative, folder.summary, *pictures])
        self.tracker.finish("FINISHED")

    def _start_tracker(self, folder: RunFolder, name: str, parameters: dict[str, str]) -> None:
        self.tracker.start(folder.path, name=name, parameters=parameters, tags=tags_of(self, folder))

    def build_step(self) -> TrainingStep:
        """What takes the steps: initialized, distributed and compiled."""
        return build_training_step(
            self.method,
            schedule=self.schedule,
            optimization=self.optimization,
            runtime=self.runtime,
            context=self.context(),
            precision=self.precision,
            processes=self.processes,
            mean=self.source.mean,
            std=self.source.std,
            labels_K=self.source.train().labels,
            start=self.initial_weights,
            image_sizes=self.image_sizes,
        )

    def context(self) -> TrainingContext:
        """The run that the curriculum is part of."""
        model, needed = self.method.student, self.method.curriculum.difficulty.needs_objects
        return TrainingContext(
            num_images=len(self.source.train()),
            steps_per_epoch=self.clock.steps_per_epoch,
            in_chans=model.in_chans,
            patch_size=model.patch_size,
            grid=model.grid,
            device=self.device,
            seed=self.seed,
            object_shares=ObjectShares.of(self.source, self.source.train(), self.device) if needed else None,
            masks_per_image=self.schedule.masks_per_image,
        )

    def step_arguments(self, clock: Clock) -> dict[str, Any]:
        """What moves with time: the arguments of a `TrainingStep` at this clock."""
        decay = self.method.ema_decay
        return {
            "step": clock.step,
            "progress": clock.progress(self.progress_per),
            "lr": self.schedule.learning_rate(clock),
            "decay": None if decay is None else decay(clock),
        }

    def manifest(self, name: str, plugins: dict[str, str]) -> Manifest:
        """What the run says of itself to other programs.

        Args:
            name: the run's.
            plugins: folders of the modules that its configuration imports, by module.
        """
        return Manifest(
            name=name,
            target=self.method.target.kind,
            alpha_share=self.method.curriculum.alpha_share,
            precision=self.precision,
            data=self.data_record(),
            init_from=None if self.init_from is None else str(self.init_from.resolve()),
            plugins=plugins,
            **self.said(),
        )

    def said(self) -> dict[str, Any]:
        """What the run says of its model beside its weights, by the names of `Manifest`'s fields."""
        student = self.method.student
        return {
            "grid": student.grid,
            "num_heads": student.encoder.num_heads,
            "decoder_num_heads": student.decoder_num_heads,
            "mean": list(map(float, self.source.mean)),
            "std": list(map(float, self.source.std)),
            "target_weights": fingerprint_of(self.method.target.frozen_weights()),
        }

    def data_record(self) -> DataRecord:
        """Which images are trained on, and which are looked at beside them."""
        return record_images(self.source, self.monitoring.held_out)

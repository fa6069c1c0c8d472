"""The trainer: every setting of a run, checked, and how its parts are put together."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from curriculum import TrainingContext
from hpm.data import ImageSource, Loader, RandomResizedCrop
from hpm.errors import UserError
from hpm.evaluation import Evaluation
from hpm.methods.method import Method
from hpm.models import pretrained as published
from hpm.models.base import MaskedModel
from hpm.models.encoder import Blocks
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.optim.clock import Clock
from hpm.optim.schedule import build_adamw, learning_rate, scaled_learning_rate
from hpm.runs import checkpoint
from hpm.runs.run_folder import RunFolder
from hpm.runtime.devices import autocast_dtype, choose_device, choose_precision, device_name, set_up
from hpm.runtime.distributed import SHARDINGS, DistributedContext
from hpm.runtime.signals import StopSignals
from hpm.runtime.version import source_version
from hpm.targets import Pixels
from hpm.tracking.mlflow import MLflowTracker
from hpm.training.compute import Compute
from hpm.training.loop import Run
from hpm.training.step import TrainingStep

_COMPUTE = (
    *("precision", "compile", "compile_mode", "cuda_graphs", "residual_precision", "teacher_precision"),
    *("accumulate", "grad_checkpointing", "sharding"),
)
_LONGEST_HORIZON = 0.2  # of the run; a teacher that averages over more still remembers its random start


class Trainer:
    """Trains a method on a source of images. The names of MAE's options mean what they mean there.

    Args:
        method: student, teacher, curriculum, target and losses.
        source: images to train on.
        crop: augmentation.
        epochs: passes over the training images.
        batch_size: images of a step, over all processes and micro-batches; an incomplete last batch is dropped.
        accumulate: micro-batches into which each process cuts its share of a batch, one after the other.
        blr: base learning rate; the learning rate is `blr * batch_size / 256`.
        min_lr: learning rate at the end.
        warmup_epochs: epochs of linear warm-up, fractions allowed.
        weight_decay: AdamW's, on parameters of two or more dimensions.
        betas: AdamW's.
        clip_grad: largest norm of the gradient; None for no limit.
        progress_per: "epoch" moves the curriculum once an epoch, at (epoch + 1) / epochs as HPM publishes it;
            "step" at every step, at (step + 1) / steps.
        seed: of the weights, the order and augmentation of the data, and the masks.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "auto" is bf16 where a CUDA device has it, else fp32; "bf16", "fp16", "tf32" or "fp32".
        compile: False; True for the student's and the teacher's whole passes, which takes minutes for a ViT-B; or
            "blocks" for their transformer blocks, which takes seconds. Evaluations are not compiled.
        compile_mode: "default", or "max-autotune-no-cudagraphs" to try more kernels, which takes longer still.
        cuda_graphs: record the student's pass and the teacher's as CUDA graphs and replay them, so that the host
            launches three graphs for hundreds of kernels: for small models and batches, and where a host is slow. Goes
            with compile False or "blocks", in one process, without accumulation.
        residual_precision: what autocast keeps the tokens between the blocks in: "fp32", or "bf16", which is faster
            and changes what is learned by its rounding.
        teacher_precision: what the moving average predicts losses in: "same" as the student, "bf16" or "fp8" (an H100,
            an RTX 4090 or newer). The average itself stays in float32, and only the order of the losses matters.
        grad_checkpointing: compute activations again in the backward pass rather than keep them.
        sharding: "none" gives every process the whole model, "fsdp" a part of it.
        deterministic: bit-exact repetition on CUDA too, at some cost; a CPU always repeats.
        num_workers: loader processes beside each training process; changes nothing but speed.
        gpu_decode: loader processes only read JPEGs, and the CUDA device decodes them (nvJPEG): for data whose decoding
            cannot keep up with training. Pixels differ slightly from those that loader processes decode.
        max_unreadable: share of the training images that may be unreadable; others stand in for them.
        max_skipped: steps in a row that may be skipped because their gradient is not finite.
        log_every: steps between rows of metrics.
        checkpoint_every: steps between checkpoints; one is written at the end as well.
        keep_checkpoints: how many of the newest are kept.
        keep_every: steps between checkpoints that are kept for good, a multiple of `checkpoint_every`; 0 for none.
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
        accumulate: int = 1,
        blr: float = 1.5e-4,
        min_lr: float = 0.0,
        warmup_epochs: float = 40,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        clip_grad: float | None = None,
        progress_per: str = "epoch",
        seed: int = 0,
        device: str = "auto",
        precision: str = "auto",
        compile: bool | str = False,
        compile_mode: str = "default",
        cuda_graphs: bool = False,
        residual_precision: str = "fp32",
        teacher_precision: str = "same",
        grad_checkpointing: bool = False,
        sharding: str = "none",
        deterministic: bool = False,
        num_workers: int = 0,
        gpu_decode: bool = False,
        max_unreadable: float = 0.01,
        max_skipped: int = 20,
        log_every: int = 20,
        checkpoint_every: int = 500,
        keep_checkpoints: int = 2,
        keep_every: int = 0,
        probe_every: int = 0,
        probes: Sequence[Evaluation] = (),
        evaluations: Sequence[Evaluation] = (),
        tracker: MLflowTracker | None = None,
    ) -> None:
        for name, value, kind in (
            ("method", method, Method),
            ("source", source, ImageSource),
            ("crop", crop, RandomResizedCrop),
        ):
            if not isinstance(value, kind):
                raise ValueError(f"Trainer.{name} must be a {kind.__name__}, got {value!r}")
        _require_numbers(
            {
                "epochs": epochs,
                "batch_size": batch_size,
                "accumulate": accumulate,
                "log_every": log_every,
                "checkpoint_every": checkpoint_every,
                "keep_checkpoints": keep_checkpoints,
                "max_skipped": max_skipped,
            },
            {
                "blr": blr,
                "min_lr": min_lr,
                "weight_decay": weight_decay,
                "num_workers": num_workers,
                "probe_every": probe_every,
                "keep_every": keep_every,
                "max_unreadable": max_unreadable,
            },
        )
        if not 0 <= warmup_epochs < epochs:
            raise ValueError(f"Schedule.warmup_epochs = {warmup_epochs} must lie in [0, Schedule.epochs = {epochs})")
        if clip_grad is not None and clip_grad <= 0:
            raise ValueError(f"Optimization.clip_grad = {clip_grad} must be positive; None for no limit")
        if keep_every % checkpoint_every:
            raise ValueError(
                f"Checkpointing.keep_every = {keep_every} must be a multiple of Checkpointing.every = {checkpoint_every}"
            )
        if progress_per not in ("epoch", "step"):
            raise ValueError(f"Trainer.progress_per = {progress_per!r} is unknown; choose epoch or step")
        model = method.student
        if (model.img_size, model.in_chans) != (source.img_size, source.in_chans):
            raise ValueError(
                f"{_owner(model)}.img_size = {model.img_size} and in_chans = {model.in_chans} do not fit the images "
                f"of {type(source).__name__}: {source.img_size} pixels and {source.in_chans} channels"
            )
        for evaluation in (*probes, *evaluations):
            if not isinstance(evaluation, Evaluation):
                raise ValueError(
                    f"Monitoring.probes and Monitoring.evaluations must hold Evaluations, got {evaluation!r}"
                )
            evaluation.check(source)
            if getattr(evaluation, "pool", None) == "token" and not model.encoder.num_prefix_tokens:
                raise ValueError(
                    f"{type(evaluation).__name__}.pool = 'token' needs a class token, and "
                    f"{type(model.encoder).__name__} has none; choose 'mean'"
                )
        self.method = method
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.lr = scaled_learning_rate(blr, batch_size)
        self.min_lr = min_lr
        self.warmup_epochs = warmup_epochs
        self.weight_decay = weight_decay
        self.betas = betas
        self.clip_grad = clip_grad
        self.progress_per = progress_per
        self.max_skipped = max_skipped
        self.log_every = log_every
        self.checkpoint_every = checkpoint_every
        self.keep_checkpoints = keep_checkpoints
        self.keep_every = keep_every
        self.probe_every = probe_every
        self.probes = tuple(probes)
        self.evaluations = tuple(evaluations)
        self.processes = DistributedContext.from_environment()
        self.tracker = MLflowTracker(enabled=False) if tracker is None or not self.processes.is_main else tracker
        self.device = choose_device(device, local_rank=self.processes.local_rank)
        if ":" in device and self.processes.world_size > 1:
            raise ValueError(f"Runtime.device = {device!r} would be shared by all processes; choose 'cuda' or 'auto'")
        self.precision = choose_precision(precision, self.device)
        self.compile = compile
        self.compile_mode = compile_mode
        self.cuda_graphs = cuda_graphs
        self.residual_precision = residual_precision
        self.teacher_precision = teacher_precision
        self.grad_checkpointing = grad_checkpointing
        self.deterministic = deterministic
        self.sharding = sharding
        self.gpu_decode = gpu_decode
        self.accumulate = accumulate
        _require_parts(self)
        self.loader = Loader(
            source=source,
            batch_size=batch_size,
            patch_size=model.patch_size,
            crop=crop,
            seed=seed,
            num_workers=num_workers,
            accumulate=accumulate,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            device=self.device,
            max_unreadable=max_unreadable,
            gpu_decode=gpu_decode,
        )
        self.clock = Clock(0, self.loader.steps_per_epoch, epochs)
        self.start: dict[str, torch.Tensor] | None = None

    def start_from(self, path: Path) -> list[str]:
        """Train from the weights of a checkpoint, this project's or a published one, rather than from random ones.

        Returns:
            What to tell the user.

        Raises:
            UserError: if the file is no checkpoint, or of another model.
        """
        student = self.method.student
        target = self.method.target
        lines = []
        student.init_weights(torch.Generator().manual_seed(self.seed))
        head = next(name for name, module in student.named_modules() if module is student.reconstruction_head)
        of_pixels = isinstance(target, Pixels)
        if path.is_dir():
            saved = checkpoint.Checkpoint(path)
            found = re.search(r"^Method\.target = @(?:[\w.]*[./])?(\w+)\(", saved.values["config"], re.MULTILINE)
            other = "" if found is None else found[1]
            same = other == type(target).__name__ or (of_pixels and other in ("Pixels", "NormalizedPixels"))
            saved.load_into(student, "student", exclude_prefix=None if same else f"{head}.")
        elif isinstance(student, MaskedAutoencoder):
            other, same = "pixels", of_pixels
            lines = published.load_published_into(student, path, exclude_prefix=None if same else f"{head}.")
        else:
            raise UserError(
                f"{path} is a file: published weights are read into a MaskedAutoencoder, and Method.model = "
                f"{type(student).__name__}; give a checkpoint-* folder of a run"
            )
        if not same:
            lines.append(
                f"the head starts from initialization: it is of {other or 'another target'} in {path}, and "
                f"Method.target = {type(target).__name__}"
            )
        self.start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        return lines

    def fit(
        self, folder: RunFolder, console: Console, *, name: str, parameters: dict[str, str], resume: bool = False
    ) -> dict[str, Any]:
        """Train to the end and evaluate.

        Args:
            folder: where the run lives; created already, or to be resumed.
            console: where a person reads.
            name: the run's name.
            parameters: everything in force, for the tracker.
            resume: go on from the folder's newest whole checkpoint.

        Returns:
            The summary, as written to `summary.json`; empty in all processes but the main one.

        Raises:
            TrainingError: if too many losses are not finite or too many images unreadable; checkpoints are kept.
            Interrupted: after SIGTERM or SIGUSR1; everything is saved.
            UserError: if another process is writing to the folder.
        """
        with StopSignals() as signals, folder.locked() if self.processes.is_main else nullcontext():
            run = Run(self, self.prepare(), folder, console, signals)
            if resume:
                run.resume()
            self.tracker.start(folder.path, name=name, parameters=parameters, tags=self._tags(name, folder))
            self._warn_of_slow_teacher(console)
            return run.complete()

    def replay(self, folder: RunFolder, *, name: str, parameters: dict[str, str]) -> None:
        """Send a complete run to the tracker, where it could not be reached before."""
        self.tracker.start(folder.path, name=name, parameters=parameters, tags=self._tags(name, folder))
        pictures = sorted(folder.pictures.glob("*.png"))
        self.tracker.send(folder.metrics.rows(), [folder.config, folder.operative, folder.summary, *pictures])
        self.tracker.finish("FINISHED")

    def dry_run(self, console: Console) -> None:
        """Run two steps, write nothing."""
        step, batches = self.prepare(), self.loader.epoch(0)
        for number in range(min(2, self.clock.steps_per_epoch)):
            clock = Clock(number, self.clock.steps_per_epoch, self.clock.epochs)
            losses = step(next(batches), **self.schedule(clock))
            console.print(f"step {number + 1}: loss {losses[-1].total.item():.4f}", highlight=False)

    def prepare(self) -> TrainingStep:
        """Meet the other processes, initialize the weights, and spread and compile the model."""
        set_up(self.device, self.precision, deterministic=self.deterministic)
        self.processes.connect(self.device)
        method = self.method
        method.student.set_residual_dtype(torch.bfloat16 if self.residual_precision == "bf16" else None)
        method.prepare(
            self.device,
            autocast=autocast_dtype(self.precision),
            seed=self.seed,
            mean=self.source.mean,
            std=self.source.std,
            teacher_precision=self.teacher_precision,
        )
        if self.start is not None:
            method.student.load_state_dict(self.start)
            method.start_teacher()
        method.student.set_grad_checkpointing(self.grad_checkpointing)
        self.prepare_curriculum()
        method.distribute(self.processes, sharding=self.sharding)
        if self.compile:
            method.compile(blocks=self.compile == "blocks", mode=self.compile_mode)
        if self.cuda_graphs:
            method.record(self.loader.micro_batch_size)
        optimizer = build_adamw(method.student, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas)
        scaler = torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None
        return TrainingStep(
            method,
            optimizer,
            processes=self.processes,
            seed=self.seed,
            batch_size=self.batch_size,
            clip_grad=self.clip_grad,
            scaler=scaler,
        )

    def prepare_curriculum(self) -> None:
        """Tell the curriculum what run it is part of; once the device is set up."""
        model, source = self.method.student, self.source
        self.method.curriculum.prepare(
            TrainingContext(
                num_images=len(source.train()),
                steps_per_epoch=self.clock.steps_per_epoch,
                in_chans=model.in_chans,
                patch_size=model.patch_size,
                grid=model.grid,
                device=self.device,
                seed=self.seed,
            )
        )

    def schedule(self, clock: Clock) -> dict[str, Any]:
        """What moves with time: the arguments of a `TrainingStep` at this clock."""
        decay = self.method.ema_decay
        return {
            "step": clock.step,
            "progress": clock.progress(self.progress_per),
            "lr": learning_rate(clock, lr=self.lr, min_lr=self.min_lr, warmup_epochs=self.warmup_epochs),
            "decay": None if decay is None else decay(clock),
        }

    def _tags(self, name: str, folder: RunFolder) -> dict[str, str]:
        return {
            "curriculum": " / ".join(self.method.curriculum.component_names()),
            "seed": str(self.seed),
            "data": type(self.source).__name__,
            "device": str(self.device),
            "precision": self.precision,
            "processes": str(self.processes.world_size),
            "folder": str(folder.path.resolve()),
            "commit": source_version(),
        }

    def _warn_of_slow_teacher(self, console: Console) -> None:
        last = Clock(self.clock.total_steps - 1, self.clock.steps_per_epoch, self.clock.epochs)
        if self.method.ema_decay is None or not self.method.curriculum.difficulty.needs:
            return
        share = 1 / (1 - self.method.ema_decay(last)) / self.clock.total_steps
        if share > _LONGEST_HORIZON:
            console.print(
                f"the teacher averages over {share:.0%} of the run's steps, so it stays close to its random "
                f"start; HorizonDecay(fraction=0.1) or less suits a run of {self.clock.total_steps} steps",
                style="yellow",
                markup=False,
                highlight=False,
            )


def _owner(model: MaskedModel) -> str:
    """The part whose settings say what images a model takes."""
    return type(model if isinstance(model, MaskedAutoencoder) else model.encoder).__name__


def _require_numbers(counts: dict[str, int], numbers: dict[str, float]) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"Trainer.{name} = {count} must be at least 1")
    for name, number in numbers.items():
        if not number >= 0:
            raise ValueError(f"Trainer.{name} = {number} must not be negative")


def _require_parts(trainer: Trainer) -> None:
    """What the machine must have for the way in which it is to train."""
    if trainer.sharding not in SHARDINGS:
        raise ValueError(f"Runtime.sharding = {trainer.sharding!r} is unknown; choose {' or '.join(SHARDINGS)}")
    if trainer.sharding == "fsdp" and trainer.processes.world_size == 1:
        raise ValueError(
            "Runtime.sharding = 'fsdp' spreads the model over processes, and this is the only one; start several with "
            "torchrun --nproc-per-node N -m hpm pretrain ..., or set Runtime.sharding = 'none'"
        )
    if trainer.sharding == "fsdp" and trainer.precision == "fp16":
        raise ValueError("Runtime.sharding = 'fsdp' goes with Runtime.precision = 'bf16' or 'fp32', not with 'fp16'")
    Compute(
        device_type=trainer.device.type,
        processes=trainer.processes.world_size,
        **{name: getattr(trainer, name) for name in _COMPUTE},
    )
    if trainer.residual_precision != "fp32":
        encoder = trainer.method.student.encoder
        if not any(isinstance(module, Blocks) for module in encoder.modules()):
            raise ValueError(
                f"Runtime.residual_precision = {trainer.residual_precision!r} is not for a {type(encoder).__name__}; "
                "set it to 'fp32'"
            )
    if trainer.teacher_precision != "same":
        _require_low_precision(trainer)
    if trainer.cuda_graphs:
        _require_recordable(trainer)
    if trainer.gpu_decode and trainer.device.type != "cuda":
        raise ValueError(f"Loading.gpu_decode = True needs a CUDA device, this is {trainer.device}; set it to False")
    if trainer.compile:
        _require_compiler(trainer.compile)


def _require_compiler(compile: bool | str) -> None:
    named = os.environ.get("CXX", "").split()
    if named and shutil.which(named[0]) is None:
        raise ValueError(f"Runtime.compile = {compile!r} needs a C++ compiler, and CXX = {named[0]} is not there")
    if not named and not (shutil.which("g++") or shutil.which("clang++")):
        raise ValueError(
            f"Runtime.compile = {compile!r} needs a C++ compiler, and there is neither g++ nor clang++ here"
        )


def _require_recordable(trainer: Trainer) -> None:
    """What a method must be for CUDA graphs to replay its steps."""
    curriculum, target = trainer.method.curriculum, trainer.method.target
    for needed, lacks in (
        ("Curriculum.mask_ratio to be one number", len(set(curriculum.mask_ratios())) > 1),
        ("Curriculum.blank_ratio = 0", curriculum.blank_ratio != 0),
        (f"another Method.target: {type(target).__name__} is not computed in the student's pass", not target.in_pass),
    ):
        if lacks:
            raise ValueError(f"Runtime.cuda_graphs = True needs {needed}")


def _require_low_precision(trainer: Trainer) -> None:
    """What a teacher of a precision of its own needs."""
    name = f"Runtime.teacher_precision = {trainer.teacher_precision!r}"
    if "predicted_loss" not in trainer.method.curriculum.difficulty.needs or trainer.method.ema_decay is None:
        raise ValueError(
            f"{name} is of a moving average that predicts losses, and this curriculum asks none: set it to 'same'"
        )
    if trainer.teacher_precision == "fp8":
        if torch.cuda.get_device_capability(trainer.device) < (8, 9):
            raise ValueError(f"{name} needs an H100, an RTX 4090 or newer, and this is {device_name(trainer.device)}")
        student = trainer.method.student
        widths = {width for _, width in student.block_sizes(1, 0)}
        widths |= {int(width * student.mlp_ratio) for width in widths}
        if any(width % 16 for width in widths):
            raise ValueError(f"{name} needs widths that are multiples of 16, and these are {sorted(widths)}")

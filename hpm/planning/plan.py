"""What a run will cost, before it is started; see `hpm.planning.cost` for how it is counted."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import gin
import torch
from gin import config as gin_config
from rich.console import Console
from rich.table import Table

from hpm.config import Config
from hpm.config.parser import _first_line, _resolve_macro
from hpm.errors import UserError
from hpm.methods.method import Method
from hpm.optim.clock import Clock
from hpm.planning import cost
from hpm.planning.gpus import GPUS, Gpu
from hpm.runtime.devices import PRECISIONS
from hpm.runtime.distributed import SHARDINGS
from hpm.training.compute import Compute
from hpm.training.trainer import Trainer

IMAGENET_IMAGES = 1_281_167
_FASHION_MNIST_IMAGES = 60_000
_USABLE = 0.9  # of a GPU's memory; what `cost.memory` does not count needs the rest
_NARROW, _NARROW_MFU = 512, 0.2  # a width, and a share of the peak that narrower models are not known to reach


@dataclass(frozen=True)
class Plan:
    """A run's cost.

    Args:
        config: the config's name.
        device: a key of `GPUS`.
        gpus: how many.
        precision: what they compute in.
        images: of the training set.
        epochs: passes over them.
        batch_size: images of a step, over all GPUs and micro-batches.
        micro_batch: images on a GPU at a time.
        steps: of the whole run.
        parameters: of each part: encoder, reconstructor (with the decoders' shared input), loss predictor, teacher.
        multiply_adds: of each part, for the forward pass of one image; the teacher's for what the difficulty asks, the
            target's for the features that are reconstructed.
        published_multiply_adds: the student's, counted as in the literature, whose code embeds and decodes every patch.
        teacher_share: share of the steps in which the teacher is asked.
        relative_cost: operations of the average step, relative to a model without loss predictor and teacher.
        step_flops: operations of the average step, two for each multiply-add, the backward pass being twice the
            forward; gradient checkpointing adds one forward more.
        memory: bytes on each GPU, by what they are for.
        device_memory: bytes that a GPU has.
        peak: FLOP/s of a GPU in this precision, from its data sheet.
        mfu: share of the peak that is assumed to be reached.
        hours: of training; evaluation and waiting for data are not counted.
        notes: what else a reader should know.
    """

    config: str
    device: str
    gpus: int
    precision: str
    images: int
    epochs: int
    batch_size: int
    micro_batch: int
    steps: int
    parameters: dict[str, int]
    multiply_adds: dict[str, float]
    published_multiply_adds: float
    teacher_share: float
    relative_cost: float
    step_flops: float
    memory: dict[str, float]
    device_memory: float
    peak: float
    mfu: float
    hours: float
    notes: tuple[str, ...]

    @property
    def images_per_second(self) -> float:
        """How many the data must deliver, over all GPUs."""
        return self.steps * self.batch_size / self.hours / 3600

    @property
    def total_memory(self) -> float:
        """Bytes on each GPU."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether that leaves a tenth of the memory for what is not counted."""
        return self.total_memory <= _USABLE * self.device_memory


def make(config: Config, *, gpus: int = 1, device: str = "h100", images: int | None = None, mfu: float = 0.3) -> Plan:
    """Plan the run of the configuration that was parsed last, without reading data or allocating weights.

    Args:
        config: that configuration.
        gpus: how many GPUs train together.
        device: a key of `GPUS`.
        images: of the training set; None for what the config says, or ImageNet-1K's 1,281,167.
        mfu: share of the peak of a GPU's data sheet that training reaches, in (0, 1]. The default is about
            what a ViT-B reached on one H100 with CUDA graphs, 29 % (docs/gpu.md).

    Raises:
        UserError: for a value that cannot be, in the arguments or the configuration.
    """
    gpu = GPUS.get(device)
    if gpu is None:
        raise UserError(f"--device {device} is unknown; choose one of {', '.join(GPUS)}")
    if gpus < 1:
        raise UserError(f"--gpus {gpus} must be at least 1")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu} must be a share of the peak, more than 0 and at most 1")
    if images is not None and images < 1:
        raise UserError(f"--images {images} must be at least 1")
    settings = _settings()
    method = _method()
    notes = []
    precision = _precision(settings.precision, device, gpu)
    settings.check(precision=precision, gpus=gpus)
    known = _images() if images is None else images
    if known is None:
        known = IMAGENET_IMAGES
        notes.append(f"{known:,} images are assumed, ImageNet-1K's training set; --images says another number")
    clock, micro_batch = _clock(settings, known), _micro_batch(settings, gpus)
    work, share = cost.multiply_adds(method), cost.teacher_share(method, clock, settings.progress_per)
    if math.isnan(work["target"]):
        work["target"] = 0.0
        notes.append(f"what {type(method.target).__name__} computes cannot be counted without data, and is left out")
    if math.isnan(work["teacher"]):
        name = type(method.curriculum.difficulty).__name__
        work["teacher"] = 0.0
        notes.append(f"what {name} asks of the teacher cannot be counted without data, and is left out")
    if method.curriculum.scheduler.watches and share:
        name = type(method.curriculum.scheduler).__name__
        notes.append(f"{name} follows what is learned, so the teacher is counted wherever it may be asked")
    if mfu >= _NARROW_MFU and (width := method.student.encoder.num_features) < _NARROW:
        notes.append(f"blocks as narrow as {width} keep a GPU less busy than wide ones: expect less than {mfu:.0%}")
    if settings.residual_precision == "bf16" or settings.teacher_precision != "same":
        notes.append(
            "what Runtime.residual_precision saves of memory and Runtime.teacher_precision adds is not counted"
        )
    plain = work["encoder"] + work["reconstructor"]
    student, asked = plain + work["loss predictor"], share * work["teacher"]
    unlearned = asked + work["target"]
    step_flops = 2 * settings.batch_size * ((4 if settings.grad_checkpointing else 3) * student + unlearned)
    return Plan(
        config=config.name,
        device=device,
        gpus=gpus,
        precision=precision,
        images=known,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        micro_batch=micro_batch,
        steps=clock.total_steps,
        parameters=cost.parameters(method),
        multiply_adds=work,
        published_multiply_adds=student + cost.macs_saved(method),
        teacher_share=share,
        relative_cost=(3 * student + unlearned) / (3 * plain),
        step_flops=step_flops,
        memory=cost.memory(
            method,
            precision=precision,
            micro_batch=micro_batch,
            shards=gpus if settings.sharding == "fsdp" else 1,
            grad_checkpointing=settings.grad_checkpointing,
        ),
        device_memory=gpu.memory * 1e9,
        peak=gpu.peaks[precision] * 1e12,
        mfu=mfu,
        hours=clock.total_steps * step_flops / (gpus * gpu.peaks[precision] * 1e12 * mfu) / 3600,
        notes=tuple(notes),
    )


# What the configuration says


class _Settings(NamedTuple):
    """The bindings of `Trainer` that cost something."""

    epochs: int
    batch_size: int
    accumulate: int
    progress_per: str
    precision: str
    grad_checkpointing: bool
    sharding: str
    compile: bool | str
    compile_mode: str
    cuda_graphs: bool
    residual_precision: str
    teacher_precision: str

    def check(self, *, precision: str, gpus: int) -> None:
        """Refuse what a run would refuse.

        Raises:
            UserError: naming the binding.
        """
        named = {name: getattr(self, name) for name in Compute.__dataclass_fields__ if hasattr(self, name)}
        try:
            Compute(**{**named, "device_type": "cuda", "precision": precision, "processes": gpus})
        except ValueError as error:
            raise UserError(str(error)) from error


def _bound(name: str) -> Any:
    return gin.get_bindings("Trainer", resolve_references=False).get(name)


def _settings() -> _Settings:
    bound = gin.get_bindings("Trainer", resolve_references=False)
    defaults = inspect.signature(Trainer).parameters
    # A deep copy is how gin follows macros.
    settings = _Settings(*(copy.deepcopy(bound.get(name, defaults[name].default)) for name in _Settings._fields))
    for name in ("epochs", "batch_size", "accumulate"):
        if getattr(settings, name) < 1:
            raise UserError(f"Trainer.{name} = {getattr(settings, name)} must be at least 1")
    for name, choice in (("progress_per", ("epoch", "step")), ("sharding", SHARDINGS)):
        if getattr(settings, name) not in choice:
            raise UserError(f"Trainer.{name} = {getattr(settings, name)!r} is unknown; choose {' or '.join(choice)}")
    return settings


def _method() -> Method:
    """The method, its tensors without content."""
    if _bound("method") is None:
        raise UserError("Trainer.method is not bound; include 'base.gin', or bind Trainer.method = @Method()")
    try:
        with torch.device("meta"):
            method = copy.deepcopy(_bound("method"))
    except UserError:
        raise
    except Exception as error:
        raise UserError(_first_line(error)) from error
    if not isinstance(method, Method):
        raise UserError(f"Trainer.method must be a Method, got {method!r}; bind Trainer.method = @Method()")
    return method


def _images() -> int | None:
    """How many images the data's `train_size` says there are; None for data that has none."""
    source = _resolve_macro(_bound("source"))
    if not isinstance(source, gin_config.ConfigurableReference):
        return None
    scope, selector = source.config_key
    known = inspect.signature(gin_config._REGISTRY[selector].wrapped).parameters.get("train_size")
    if known is None:
        return None
    with gin.config_scope(scope or None):
        size = gin.get_bindings(selector).get("train_size", known.default)
    return _FASHION_MNIST_IMAGES if size is None else size


def _precision(name: str, device: str, gpu: Gpu) -> str:
    if name == "auto":
        return "bf16" if "bf16" in gpu.peaks else "fp32"
    if name not in PRECISIONS:
        raise UserError(f"Runtime.precision = {name!r} is unknown; choose auto, {', '.join(PRECISIONS)}")
    if name not in gpu.peaks:
        raise UserError(f"Runtime.precision = {name!r} is not what --device {device} has: {', '.join(gpu.peaks)}")
    return name


def _clock(settings: _Settings, images: int) -> Clock:
    if settings.batch_size > images:
        raise UserError(f"Schedule.batch_size = {settings.batch_size} must be 1 to {images}, the images there are")
    return Clock(0, images // settings.batch_size, settings.epochs)


def _micro_batch(settings: _Settings, gpus: int) -> int:
    if settings.batch_size % (gpus * settings.accumulate):
        raise UserError(
            f"Schedule.batch_size = {settings.batch_size} must be divisible by Schedule.accumulate = "
            f"{settings.accumulate} times --gpus {gpus}"
        )
    return settings.batch_size // (gpus * settings.accumulate)


# What a person reads


def show(console: Console, plan: Plan) -> None:
    """Print a plan."""
    gpu = GPUS[plan.device]
    console.print(_parts_table(plan))
    console.print(_memory_table(plan, gpu))
    lines = [
        f"training: {plan.steps:,} steps, {plan.epochs:,} epochs of {plan.images:,} images in batches of "
        f"{plan.batch_size:,}; {_units(plan.step_flops)}FLOP a step",
        f"time:     [bold]{_duration(plan.hours)}[/] on {plan.gpus} {gpu.name}, {plan.gpus * plan.hours:,.3g} GPU "
        f"hours, with {plan.images_per_second:,.0f} images/s from the data, if {plan.mfu:.0%} of "
        f"{_units(plan.peak)}FLOP/s in {plan.precision} are reached: an assumption, see --mfu",
    ]
    if plan.precision in gpu.measured:
        lines.append(
            f"peak:     measured on {gpu.name}: {gpu.measured[plan.precision]:.0f} TFLOP/s in {plan.precision}, of "
            "large matrix products alone"
        )
    if plan.relative_cost > 1:
        lines.insert(
            1,
            f"teacher:  asked in {plan.teacher_share:.0%} of the steps; the average step costs "
            f"{plan.relative_cost:.2f} times one without loss predictor and teacher",
        )
    for line in lines:
        console.print(line, highlight=False)
    if not plan.fits:
        console.print(f"memory:   too much for the {gpu.name}; {_advice(plan)}", style="red", highlight=False)
    for note in plan.notes:
        console.print(f"note:     {note}", style="dim", highlight=False)


def _parts_table(plan: Plan) -> Table:
    table = Table(title=plan.config, title_justify="left", title_style="bold")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("multiply-adds of an image, forward", justify="right")
    for part in ("encoder", "reconstructor", "loss predictor"):
        table.add_row(part, *_cells(plan, part))
    table.add_section()
    table.add_row("student", *_cells(plan, "encoder", "reconstructor", "loss predictor"))
    table.add_row("  as published code computes it", "", _units(plan.published_multiply_adds), style="dim")
    table.add_row("teacher", *_cells(plan, "teacher"))
    if plan.multiply_adds["target"]:
        table.add_row("network of the target", "", _cells(plan, "target")[1])
    return table


def _cells(plan: Plan, *parts: str) -> tuple[str, ...]:
    sums = (sum(values.get(part, 0) for part in parts) for values in (plan.parameters, plan.multiply_adds))
    return tuple(_units(value) if value else "-" for value in sums)


def _memory_table(plan: Plan, gpu: Gpu) -> Table:
    table = Table(show_header=True)
    table.add_column(f"memory of a GPU, estimated, {plan.micro_batch:,} images at a time")
    table.add_column("", justify="right")
    for purpose, used in plan.memory.items():
        if used:
            table.add_row(purpose, f"{_units(used)}B")
    table.add_section()
    table.add_row(f"of {gpu.memory:g} GB", f"{_units(plan.total_memory)}B", style="green" if plan.fits else "red")
    return table


def _advice(plan: Plan) -> str:
    """The fewest micro-batches that fit, where any do."""
    fixed = plan.total_memory - plan.memory["activations"]
    now = plan.batch_size // (plan.gpus * plan.micro_batch)
    for parts in range(2, plan.micro_batch + 1):
        fits = fixed + plan.memory["activations"] / parts <= _USABLE * plan.device_memory
        if fits and plan.micro_batch % parts == 0:
            return f"-b 'Schedule.accumulate = {now * parts}' or -b 'Runtime.grad_checkpointing = True' needs less"
    return "more GPUs and -b \"Runtime.sharding = 'fsdp'\" need less"


def _units(value: float) -> str:
    """Three digits or so, and the prefix of a unit: 14.95 G."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 1000 or prefix == "P":
            break
        value /= 1000
    return f"{value:.4g} {prefix}"


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} seconds"
    if hours < 1:
        return f"{hours * 60:.2g} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"

"""What a run will cost, before it is started; see `hpm.planning.cost` for how it is counted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from curriculum.validation import require_choice
from hpm.config import Config
from hpm.errors import UserError
from hpm.methods.method import Method
from hpm.optim.schedule import Schedule
from hpm.planning import cost
from hpm.planning.gpus import GPUS, Gpu
from hpm.runtime.settings import Runtime
from hpm.training.setup import check_method
from hpm.training.trainer import PROGRESS_PER

IMAGENET_IMAGES = 1_281_167
USABLE_MEMORY = 0.9  # of a GPU's memory; what `cost.memory` does not count needs the rest
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
        return self.total_memory <= USABLE_MEMORY * self.device_memory


def make_plan(
    config: Config, *, gpus: int = 1, device: str = "h100", images: int | None = None, mfu: float = 0.3
) -> Plan:
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
    schedule: Schedule = config.parameter("Trainer", "schedule") or Schedule()
    runtime: Runtime = config.parameter("Trainer", "runtime") or Runtime()
    progress_per: str = config.parameter("Trainer", "progress_per")
    precision = _precision(runtime.precision, device, gpu)
    method = _method(config)
    notes = []
    try:
        require_choice("Trainer", PROGRESS_PER, progress_per=progress_per)
        runtime.check(device_type="cuda", precision=precision, world_size=gpus, accumulate=schedule.accumulate)
        check_method(method, runtime, None)
        known = _images(config) if images is None else images
        if known is None:
            known = IMAGENET_IMAGES
            notes.append(f"{known:,} images are assumed, ImageNet-1K's training set; --images says another number")
        clock = schedule.clock(known)
        micro_batch = schedule.micro_batch_size(gpus)
    except ValueError as error:
        raise UserError(str(error)) from error
    work, share = cost.multiply_adds(method), cost.teacher_share(method, clock, progress_per)
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
    if runtime.residual_precision == "bf16" or runtime.teacher_precision != "same":
        notes.append(
            "what Runtime.residual_precision saves of memory and Runtime.teacher_precision adds is not counted"
        )
    plain = work["encoder"] + work["reconstructor"]
    student, asked = plain + work["loss predictor"], share * work["teacher"]
    unlearned = asked + work["target"]
    step_flops = 2 * schedule.batch_size * ((4 if runtime.grad_checkpointing else 3) * student + unlearned)
    return Plan(
        config=config.name,
        device=device,
        gpus=gpus,
        precision=precision,
        images=known,
        epochs=schedule.epochs,
        batch_size=schedule.batch_size,
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
            shards=gpus if runtime.sharding == "fsdp" else 1,
            grad_checkpointing=runtime.grad_checkpointing,
        ),
        device_memory=gpu.memory * 1e9,
        peak=gpu.peaks[precision] * 1e12,
        mfu=mfu,
        hours=clock.total_steps * step_flops / (gpus * gpu.peaks[precision] * 1e12 * mfu) / 3600,
        notes=tuple(notes),
    )


def _method(config: Config) -> Method:
    """The method, its tensors without content."""
    with torch.device("meta"):
        method = config.parameter("Trainer", "method")
    if not isinstance(method, Method):
        raise UserError(f"Trainer.method must be a Method, got {method!r}; bind Trainer.method = @Method()")
    return method


def _images(config: Config) -> int | None:
    """How many training images the configuration says there are; None where that takes a look at the data."""
    return config.parameter("Trainer", "source").known_train_size


def _precision(name: str, device: str, gpu: Gpu) -> str:
    """What the GPU will compute in."""
    if name == "auto":
        return "bf16" if "bf16" in gpu.peaks else "fp32"
    if name not in gpu.peaks:
        raise UserError(f"Runtime.precision = {name!r} is not what --device {device} has: {', '.join(gpu.peaks)}")
    return name

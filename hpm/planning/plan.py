"""What a run will cost, before it is started; counted by `hpm.methods.operations` and `hpm.planning.cost`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from curriculum.sizes import Size
from hpm.config import Config
from hpm.data import ObjectShares
from hpm.errors import UserError
from hpm.methods.difficulty_choices import choices
from hpm.methods.method import Method
from hpm.methods.run_work import RunWork, run_work, stretches
from hpm.optim.clock import Clock
from hpm.planning import cost
from hpm.planning.gpus import Machine, require_machine, require_plannable
from hpm.planning.settings import RunSettings, read_settings

IMAGENET_IMAGES = 1_281_167
USABLE_MEMORY = 0.9  # of a GPU's memory; what `cost.memory` does not count needs the rest
_TOY = 128  # a width up to which a step is mostly overhead, which no plan counts
_NARROW, _NARROW_MFU = 512, 0.2  # a width, and a share of the peak that narrower models are not known to reach


@dataclass(frozen=True)
class Plan:
    """A run's cost.

    Args:
        config: the config's name.
        curriculum: names of its scheduler, difficulty and sampler.
        device: a key of `GPUS`.
        gpus: how many.
        precision: what they compute in.
        images: of the training set.
        epochs: passes over them.
        batch_size: images of a step, over all GPUs and micro-batches, an image counting once for each of its masks.
        masks_per_image: how many masks each image is given.
        image_sizes: of the images in pixels, each with its share of the epochs, in order of time.
        micro_batch: images on a GPU at a time, likewise.
        whole_steps: whether a GPU must take its share of a step at a time.
        steps: of the whole run.
        parameters: of each part: encoder, reconstructor (with the decoders' shared input), loss predictor, teacher;
            of the classifier where there is one.
        multiply_adds: of each part, for the forward pass of one image; the teacher's for what the difficulty asks, the
            target's for the features that are reconstructed; those of dense prediction for one step of it; those of the
            classifier and of pseudo-labels where there are any, the latter for the average step.
        published_multiply_adds: the student's, counted as in the literature, whose code embeds and decodes every patch.
        teacher_share: share of the steps in which the teacher is asked.
        dense_share: share of the steps in which the loss predictor also learns on the full image.
        relative_cost: operations of the average step, relative to one of encoder and reconstructor alone.
        step_flops: operations of the average step, two for each multiply-add, the backward pass being twice the
            forward; gradient checkpointing adds one forward more.
        image_passes_flops: operations of the passes by which an image curriculum measures all images, in the whole run.
        memory: bytes on each GPU, by what they are for.
        device_memory: bytes that a GPU has.
        peak: FLOP/s of a GPU in this precision, from its data sheet.
        mfu: share of the peak that is assumed to be reached.
        hours: of training; evaluation and waiting for data are not counted.
        notes: what else a reader should know.
    """

    config: str
    curriculum: str
    device: str
    gpus: int
    precision: str
    images: int
    epochs: int
    batch_size: int
    masks_per_image: int
    image_sizes: list[tuple[Size, float]]
    micro_batch: int
    whole_steps: bool
    steps: int
    parameters: dict[str, int]
    multiply_adds: dict[str, float]
    published_multiply_adds: float
    teacher_share: float
    dense_share: float
    relative_cost: float
    step_flops: float
    image_passes_flops: float
    memory: dict[str, float]
    device_memory: float
    peak: float
    mfu: float
    hours: float
    notes: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Operations of the whole training."""
        return self.steps * self.step_flops + self.image_passes_flops

    @property
    def images_per_second(self) -> float:
        """How many the data must deliver, over all GPUs, each counted once."""
        return self.steps * self.batch_size / self.masks_per_image / self.hours / 3600

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
        mfu: share of the peak of a GPU's data sheet that training reaches, 0.001 to 1. The default is about
            what a ViT-B reached on one H100 with CUDA graphs, 29 % (docs/gpu.md).

    Raises:
        UserError: for a value that cannot be, in the arguments or the configuration: all that a run of it would
            refuse, but for what takes the images or the machine itself.
    """
    machine = require_machine(device, gpus)
    require_plannable(mfu=mfu, images=images)
    notes: list[str] = []
    try:
        settings = read_settings(config)
        settings.check(machine)
        images = settings.source.known_train_size if images is None else images
        if images is None:
            images = IMAGENET_IMAGES
            notes.append(f"{images:,} images are assumed, ImageNet-1K's training set; --images says another number")
        clock = settings.schedule.clock(images)
        settings.schedule.micro_batch_size(gpus)
    except ValueError as error:
        raise UserError(str(error)) from error
    return _plan(config.name, settings, clock, machine, images=images, mfu=mfu, notes=notes)


def _plan(
    config: str, settings: RunSettings, clock: Clock, machine: Machine, *, images: int, mfu: float, notes: list[str]
) -> Plan:
    """The plan of settings that go together."""
    method, schedule, runtime = settings.method, settings.schedule, settings.runtime
    precision = settings.precision_on(machine)
    micro_batch = schedule.micro_batch_size(machine.gpus)
    peak = machine.gpu.peaks[precision]
    sizes = settings.image_sizes
    average, left_out = _known_work(
        method, run_work(method, clock, settings.progress_per, sizes, masks_per_image=schedule.masks_per_image)
    )
    work, share = average.work, average.teacher_share
    saved = (
        part.share * cost.macs_saved(part.method, part.progresses)
        for part in stretches(method, clock, settings.progress_per, sizes)
    )
    plain = work["encoder"] + work["reconstructor"]
    passes = 4 if runtime.grad_checkpointing else 3
    step_flops = 2 * schedule.batch_size * average.average_step(passes=passes)
    steps_flops = clock.total_steps * step_flops
    image_passes_flops = 2 * images * cost.image_passes(method, clock.epochs)
    return Plan(
        config=config,
        curriculum=", ".join(method.curriculum.component_names()),
        device=machine.device,
        gpus=machine.gpus,
        precision=precision,
        images=images,
        epochs=schedule.epochs,
        batch_size=schedule.batch_size,
        masks_per_image=schedule.masks_per_image,
        image_sizes=[(size, sizes.share(size)) for size in sizes.all],
        micro_batch=micro_batch,
        whole_steps=method.target.stateful,
        steps=clock.total_steps,
        parameters=cost.parameters(method),
        multiply_adds=work,
        published_multiply_adds=plain + work["loss predictor"] + sum(saved),
        teacher_share=share,
        dense_share=average.dense_share,
        relative_cost=average.average_step() / (3 * plain),
        step_flops=step_flops,
        image_passes_flops=image_passes_flops,
        memory={"masks of the objects": _object_masks(settings, images)}
        | cost.memory(
            method,
            precision=precision,
            micro_batch=micro_batch,
            images=images,
            shards=machine.gpus if runtime.sharding == "fsdp" else 1,
            grad_checkpointing=runtime.grad_checkpointing,
            img_size=sizes.largest if sizes.has_others else None,
        ),
        device_memory=machine.gpu.memory * 1e9,
        peak=peak * 1e12,
        mfu=mfu,
        hours=(steps_flops + image_passes_flops) / (machine.gpus * peak * 1e12 * mfu) / 3600,
        notes=(
            *notes,
            *left_out,
            *_note_passes(method, image_passes_flops / steps_flops),
            *_notes(settings, share, mfu),
        ),
    )


def _object_masks(settings: RunSettings, images: int) -> float:
    """Bytes on each device of what a difficulty asks of the data."""
    asked = settings.method.curriculum.difficulty.needs_objects
    return float(ObjectShares.bytes_for(images, settings.source.img_size)) if asked else 0.0


def _known_work(method: Method, found: RunWork) -> tuple[RunWork, list[str]]:
    """Multiply-adds of each part, 0 for what cannot be counted without data; and a note of each of those."""
    work, notes = dict(found.work), []
    for part, what in (
        ("target", f"what {type(method.target).__name__} computes"),
        ("teacher", f"what {type(method.curriculum.difficulty).__name__} asks of the teacher"),
    ):
        if math.isnan(work[part]):
            work[part] = 0.0
            notes.append(f"{what} cannot be counted without data, and is left out")
    return found._replace(work=work), notes


def _note_passes(method: Method, share: float) -> Iterator[str]:
    """What an image curriculum computes between epochs, as a share of what training computes."""
    images = method.image_curriculum
    if images is not None and share:
        name = type(images.difficulty).__name__
        yield f"the passes over all images by which {name} scores them take {share:.1%} of the operations of training"


def _notes(settings: RunSettings, teacher_share: float, mfu: float) -> Iterator[str]:
    """What else a reader should know."""
    method, runtime = settings.method, settings.runtime
    if method.curriculum.scheduler.watches and teacher_share:
        name = type(method.curriculum.scheduler).__name__
        yield f"{name} follows what is learned, so the teacher is counted wherever it may be asked"
    if len(choices(method.curriculum.difficulty)) > 1:
        yield "which difficulty is asked follows what is learned, so the dearest of them is counted"
    if method.student.loss_predictor is not None and not method.uses_predictions:
        depth = f"{type(method.student).__name__}.loss_predictor_depth = None trains"
        supervised = method.supervision is not None and method.supervision.uses_pseudo_labels
        asked = method.curriculum.difficulty.needs or method.target.needs or supervised
        average = method.ema_decay is not None and not asked
        yield f"no mask follows the loss predictor: {depth} without it" + (
            ", and Method.ema_decay = None without a moving average, which nothing asks" if average else ""
        )
    if mfu >= _NARROW_MFU and (width := method.student.encoder.num_features) < _NARROW:
        less = f"less than {mfu:.0%}" if width > _TOY else f"far less than {mfu:.0%}, so that the time says little"
        yield f"blocks as narrow as {width} keep a GPU less busy than wide ones: expect {less}"
    if runtime.residual_precision == "bf16" or runtime.teacher_precision != "same":
        yield "what Runtime.residual_precision saves of memory and Runtime.teacher_precision adds is not counted"

"""From a method and its settings to the step that trains it: initialized, sharded, compiled, recorded."""

from __future__ import annotations

import gc
import warnings

import torch
from torch.nn.parallel import DistributedDataParallel

from curriculum import TrainingContext
from curriculum.sizes import pair
from hpm.methods.gathering import ShardedModels
from hpm.methods.method import Method
from hpm.optim.image_sizes import ImageSizes
from hpm.optim.optimization import Optimization
from hpm.optim.param_groups import build_adamw
from hpm.optim.schedule import Schedule
from hpm.runtime.cuda_graphs import GraphedStudent
from hpm.runtime.devices import autocast_dtype, set_up
from hpm.runtime.distributed import DistributedContext, shard
from hpm.runtime.settings import Runtime
from hpm.training.checks import check_method
from hpm.training.init_from import InitialWeights
from hpm.training.step import TrainingStep

_BLOCK_SHAPES = 64  # widths, times numbers of tokens, times with and without gradients
_PASSES = 16  # of the student: torch's limit of eight, for as many numbers of masked patches, each dense or not
# Forward passes beside `forward`.
_QUESTIONS = (
    "reconstruct",
    "predict_loss",
    "attention",
    "sampled_attention",
    "features",
    "head_outputs",
    "class_logits",
)


def build_training_step(
    method: Method,
    *,
    schedule: Schedule,
    optimization: Optimization,
    runtime: Runtime,
    context: TrainingContext,
    precision: str,
    processes: DistributedContext,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    start: InitialWeights | None = None,
    image_sizes: ImageSizes | None = None,
    labels_K: torch.Tensor | None = None,
) -> TrainingStep:
    """Meet the other processes, initialize the weights, spread and compile the model.

    Args:
        method: what is trained; changed in place.
        schedule: batches and learning rate.
        optimization: AdamW.
        runtime: how steps are computed.
        context: the run that the curriculum is part of; says the device and the seed.
        precision: what `runtime.precision` means on the device.
        processes: that train together.
        mean: of the data's normalization, None where it is not known.
        std: likewise.
        start: the weights to start from; None for those that the seed gives.
        image_sizes: of the images of each epoch; None for the model's in all.
        labels_K: int64, the classes of all training images; None where they have none.

    Raises:
        ValueError: where the method cannot be computed as `runtime` says.
    """
    device = context.device
    check_method(method, runtime, schedule, image_sizes, processes.world_size)
    set_up(device, precision, deterministic=runtime.deterministic)
    processes.connect(device)
    student = method.student
    student.set_residual_dtype(torch.bfloat16 if runtime.residual_precision == "bf16" else None)
    method.initialize(
        device,
        autocast=autocast_dtype(precision),
        seed=context.seed,
        mean=mean,
        std=std,
        teacher_precision=runtime.teacher_precision,
    )
    if start is not None:
        start.put_into(method)
        method.start_teacher(runtime.teacher_precision)
    student.set_grad_checkpointing(runtime.grad_checkpointing)
    method.curriculum.prepare(context)
    if method.image_curriculum is not None:
        method.image_curriculum.prepare(context)
    if method.supervision is not None:
        assert labels_K is not None  # by `check_labels`
        method.supervision.prepare(labels_K, batch_size=schedule.batch_size, device=device)
    method.processes = processes
    if runtime.sharding == "fsdp":
        _shard(method, processes)
    elif processes.world_size > 1:
        _replicate(method)
    if runtime.compile:
        sizes = 1 if image_sizes is None else len(image_sizes.all)
        compile_method(method, blocks=runtime.compile == "blocks", mode=runtime.compile_mode, sizes=sizes)
    if runtime.cuda_graphs:
        _record(method, schedule.micro_batch_size(processes.world_size), schedule.masks_per_image)
    return TrainingStep(
        method,
        build_adamw(student, lr=schedule.lr, weight_decay=optimization.weight_decay, betas=optimization.betas),
        processes=processes,
        seed=context.seed,
        batch_size=schedule.batch_size,
        clip_grad=optimization.clip_grad,
        scaler=torch.amp.GradScaler(device.type) if precision == "fp16" else None,
    )


def _shard(method: Method, processes: DistributedContext) -> None:
    """Give every process a part of the student and of the teacher's average (FSDP2)."""
    method.sharded = ShardedModels(method.student, processes)
    averaged = method.teacher.averaged_model
    for model in (method.student, *([] if averaged is None else [averaged])):
        shard(model, model.blocks(), methods=_QUESTIONS, device=method.student.mask_token.device)


def _replicate(method: Method) -> None:
    """Give every process the whole student, and average its gradients (DistributedDataParallel)."""
    device = method.student.mask_token.device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the argument's new name, which older versions do not know
        method.forward = DistributedDataParallel(
            method.student_pass(),
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


def compile_method(
    method: Method, *, blocks: bool, backend: str = "inductor", mode: str = "default", sizes: int = 1
) -> None:
    """Compile the student's pass and the teacher's. Shapes are static and alpha is no part of the graphs.

    Args:
        method: initialized, and distributed.
        blocks: compile the transformer blocks rather than whole passes. Blocks of the same width and number of tokens
            share one graph, so that this takes seconds where a whole pass takes a minute and more, and what lies
            between the blocks stays as it was.
        backend: torch.compile's.
        mode: torch.compile's: "default", or "max-autotune-no-cudagraphs" to try more kernels.
        sizes: how many sizes images come in, each of which is compiled anew: torch's limits are raised for them.
    """
    if not blocks:
        if method.dense_prediction_every or sizes > 1:
            _allow_shapes(_PASSES * sizes)
        method.forward = torch.compile(method.forward, dynamic=False, backend=backend, mode=mode)
        method.teacher.compile(backend=backend, mode=mode)
        return
    # All blocks are one function to torch, which by default compiles a function for eight shapes and no more.
    _allow_shapes(_BLOCK_SHAPES * sizes)
    for block in method.student.blocks():
        block.compile(dynamic=False, backend=backend, mode=mode)
    method.teacher.compile_blocks(backend=backend, mode=mode)


def _allow_shapes(count: int) -> None:
    """Have torch compile a function for so many shapes, beyond which it would leave it as it is."""
    import torch._dynamo.config as dynamo  # seconds of imports that other runs are spared

    dynamo.recompile_limit = max(dynamo.recompile_limit, count)
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, count)


def _record(method: Method, batch_size: int, masks_per_image: int) -> None:
    """Record the student's pass and the teacher's as CUDA graphs.

    Before training; in one process, with one mask ratio, without blanked patches, and with a target that is computed
    in the pass. A step's gradients lie where the next step's will: no accumulation.

    Args:
        method: initialized, perhaps compiled.
        batch_size: images of every step, on this device, an image counting once for each of its masks.
        masks_per_image: rows that are the same image, which the teacher sees once.
    """
    gc.collect()  # the graphs of a step that is no more keep its memory until then
    student = method.student
    device = student.mask_token.device
    patches = torch.arange(student.num_patches, device=device).expand(batch_size, -1)
    num_masked = method.curriculum.count_masked(student.num_patches)
    visible, masked, _ = method.curriculum.counts(student.num_patches, num_masked)
    images = torch.randn(batch_size, student.in_chans, *pair(student.img_size), device=device)
    samples = (images, patches[:, :visible].contiguous(), patches[:, visible : visible + masked].contiguous())
    method.forward = GraphedStudent(method.student_pass(), samples)
    method.teacher.record(images[::masks_per_image].clone())

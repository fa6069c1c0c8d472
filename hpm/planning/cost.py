"""What a method costs: parameters, operations and memory, counted without data and without weights.

The method may lie on PyTorch's meta device, where tensors have a shape and nothing else; PyTorch's own counter
watches it compute there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from curriculum import Batch, Mask, Noise, TrainingContext
from hpm.methods.method import Method
from hpm.methods.teacher import StudentTeacher
from hpm.models.base import MaskedModel
from hpm.optim.clock import Clock

_SAMPLED_STEPS = 20_000  # of the schedule


def parameters(method: Method) -> dict[str, int]:
    """Parameters of each part; the reconstructor's hold the decoders' shared projection and the mask token."""
    model = method.student
    total = sum(parameter.numel() for parameter in model.parameters())
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    predictor = sum(p.numel() for p in model.loss_predictor.parameters()) if model.loss_predictor is not None else 0
    return {
        "encoder": encoder,
        "reconstructor": total - encoder - predictor,
        "loss predictor": predictor,
        "teacher": 0 if method.ema_decay is None else total,
    }


class _MetaTeacher(StudentTeacher):
    """A teacher whose passes are counted: autocast knows no meta device, and changes no count."""

    def _inference(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        return nullcontext()


def macs_saved(method: Method) -> int:
    """Multiply-adds of the student's forward pass of one image that published code spends and ours does not."""
    patches = method.student.num_patches
    return method.student.macs_published_code_adds(
        masked=method.curriculum.count_masked(patches), thrown=method.curriculum.count_thrown(patches)
    )


def multiply_adds(method: Method) -> dict[str, float]:
    """Multiply-adds of each part in the forward pass of one image.

    Matrix products, convolutions and attention are counted; norms, activation functions and losses are not. Only
    visible patches are embedded and only masked ones predicted, by the decoders' last blocks too, so a student costs a
    little less than in code that does so for all (ViT-B/16: 9.55 G instead of MAE's 9.78). The teacher's are what the
    method's own difficulty asks of it; NaN where the difficulty looks at values, which cannot be counted without data.
    The target's are those of the network whose features are reconstructed.

    Args:
        method: on the meta device.
    """
    model, difficulty = method.student, method.curriculum.difficulty
    num_masked = method.curriculum.count_masked(model.num_patches)
    with torch.device("meta"):
        images = torch.empty(1, model.in_chans, model.img_size, model.img_size)
        noise = Noise.for_batch(seed=0, step=0, batch_size=1, device="meta")
        thrown = method.curriculum.count_thrown(model.num_patches)
        mask = Mask.from_keys(noise.bits(model.num_patches), num_masked, thrown)
        if method.curriculum.trained is not None:
            method.curriculum.prepare(_no_run(model))
        batch, teacher = Batch(images, model.patch_size), _MetaTeacher(model, method.target)
        student = _count(lambda: model(images, mask))
        asked = _MetaTeacher(model, method.target)  # one that does not remember what it was asked
        target = _total(lambda: method.target(images, mask, model.patch_size, asked))
        teacher_total = _total(lambda: difficulty.at(1.0)(batch, teacher, num_masked=num_masked, noise=noise))
    name = type(model).__name__
    encoder, predictor = student[f"{name}.encoder"], student.get(f"{name}.loss_predictor", 0.0)
    return {
        "encoder": encoder,
        "reconstructor": student["Global"] - encoder - predictor,
        "loss predictor": predictor,
        "teacher": teacher_total,
        "target": target,
    }


def _no_run(model: MaskedModel) -> TrainingContext:
    """What a network beside the model needs to be built, of no run and without memory."""
    return TrainingContext(
        num_images=1,
        steps_per_epoch=1,
        in_chans=model.in_chans,
        patch_size=model.patch_size,
        grid=model.grid,
        device=torch.device("meta"),
        seed=0,
    )


@torch.no_grad()
def _count(compute: Callable[[], object]) -> dict[str, float]:
    """Multiply-adds by the module that they happen in, and of all as "Global"."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return {name: sum(counts.values()) / 2 for name, counts in counter.get_flop_counts().items()} | {
        "Global": counter.get_total_flops() / 2
    }


def _total(compute: Callable[[], object]) -> float:
    """Multiply-adds of all; NaN where that cannot be told: somebody's own part may do anything."""
    try:
        return _count(compute)["Global"]
    except Exception:
        return math.nan


def teacher_share(method: Method, clock: Clock, progress_per: str) -> float:
    """Share of a run's steps in which the curriculum asks its difficulty estimator.

    Long runs are sampled at 20,000 evenly spaced steps. A scheduler that follows what the learner achieves cannot be
    foreseen: then it is every step that may ask.

    Args:
        method: the method.
        clock: the run's length; its step is not looked at.
        progress_per: "epoch" or "step", as `Trainer` takes it.
    """
    curriculum, total = method.curriculum, clock.total_steps
    may_ask = math.ceil(total / curriculum.score_every) / total
    if curriculum.scheduler.watches:
        return may_ask
    stride = curriculum.score_every * max(1, total // curriculum.score_every // _SAMPLED_STEPS)
    asks = [
        curriculum.needs_scores_at(
            Clock(step, clock.steps_per_epoch, clock.epochs).progress(progress_per), method.student.num_patches
        )
        for step in range(0, total, stride)
    ]
    return may_ask * sum(asks) / len(asks)


def memory(
    method: Method, *, precision: str, micro_batch: int, shards: int = 1, grad_checkpointing: bool = False
) -> dict[str, float]:
    """Bytes on each device by what they are for, all at once: an upper estimate of what it counts.

    Weights, gradients, two moments and the teacher are float32. Autocast keeps a low-precision copy of the weights
    for the backward pass. Not counted: the CUDA context, libraries' workspaces, fragmentation, and the blocks that
    sharding gathers.

    Args:
        method: the method.
        precision: "bf16", "fp16", "tf32" or "fp32".
        micro_batch: images on a device at a time.
        shards: devices that share the weights; 1 where each has all of them.
        grad_checkpointing: see `activations`.
    """
    count, low = parameters(method), precision in ("bf16", "fp16")
    student = count["encoder"] + count["reconstructor"] + count["loss predictor"]
    kept = activations(method, low=low, grad_checkpointing=grad_checkpointing)
    return {
        "weights": 4 * student / shards,
        "gradients": 4 * student / shards,
        "optimizer": 8 * student / shards,
        "teacher": 4 * count["teacher"] / shards,
        "network of the target": 4.0 * method.target.num_parameters,
        "low-precision weights": 2.0 * student if low else 0.0,
        "activations": micro_batch * kept,
    }


def activations(method: Method, *, low: bool, grad_checkpointing: bool = False) -> float:
    """Bytes that the backward pass of one image keeps.

    A transformer block of width D keeps (20 + 4 r) D bytes for each token with autocast and (32 + 8 r) D without,
    where r is the ratio of its feed-forward layer: the inputs of both norms, of four matrix products and of the
    activation function, and q, k, v of the fused attention, which keeps no attention map. With gradient
    checkpointing a block keeps its input, 4 D, and one block at a time all the rest. To the blocks come the heads'
    inputs, the error of the reconstruction, the pairs of the prediction loss, and the attention maps of a Swin, whose
    kernel is not fused. A compiled model keeps less.

    Args:
        method: the method.
        low: whether autocast computes in 16 bits.
        grad_checkpointing: whether blocks compute their activations again in the backward pass.
    """
    model, curriculum = method.student, method.curriculum
    thrown = curriculum.count_thrown(model.num_patches)
    each = 20 + 4 * model.mlp_ratio if low else 32 + 8 * model.mlp_ratio
    maps = 0 if grad_checkpointing else (6 if low else 4) * model.encoder.attention_values()

    def kept(masked: int) -> float:
        sizes = [tokens * width for tokens, width in model.block_sizes(masked, thrown)]
        blocks = 4 * sum(sizes) + each * max(sizes) if grad_checkpointing else each * sum(sizes)
        heads = sum(model.head_widths) * masked * (6 if low else 8)
        pairs = 5 * masked**2 if model.loss_predictor is not None else 0
        return blocks + maps + heads + 4 * masked * model.outputs + pairs

    # Where the ratio moves, the step that keeps most.
    counts = curriculum.counts_masked(model.num_patches)
    return max(kept(masked) for masked in (min(counts), max(counts)))

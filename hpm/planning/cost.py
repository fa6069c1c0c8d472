"""What a method costs beside its operations: parameters and memory, counted without data and without weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from curriculum import Batch, ImageCurriculum, Noise
from curriculum.sizes import pair
from hpm.methods.method import Method
from hpm.methods.operations import count_all, counts_over_the_run
from hpm.models.base import MaskedModel


def parameters(method: Method) -> dict[str, int]:
    """Parameters of each part; the reconstructor's hold the decoders' shared projection and the mask token."""
    model = method.student
    total = sum(parameter.numel() for parameter in model.parameters())
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    predictor = sum(p.numel() for p in model.loss_predictor.parameters()) if model.loss_predictor is not None else 0
    classifier = sum(p.numel() for p in model.class_head.parameters()) if model.class_head is not None else 0
    return ({"classifier": classifier} if classifier else {}) | {
        "encoder": encoder,
        "reconstructor": total - encoder - predictor - classifier,
        "loss predictor": predictor,
        "teacher": 0 if method.ema_decay is None else total,
    }


def macs_saved(method: Method, progresses: list[float]) -> float:
    """Multiply-adds of the student's forward pass of one image that published code spends and ours does not.

    Args:
        method: the method.
        progresses: of equal parts of the run, over which the mean is taken.
    """
    patches, saved = method.student.num_patches, method.student.macs_published_code_adds
    return sum(
        share * saved(masked=counts.reconstructed, thrown=counts.thrown)
        for counts, share in counts_over_the_run(method.curriculum, patches, progresses).items()
    )


def memory(
    method: Method,
    *,
    precision: str,
    micro_batch: int,
    images: int = 0,
    shards: int = 1,
    grad_checkpointing: bool = False,
) -> dict[str, float]:
    """Bytes on each device by what they are for, all at once: an upper estimate of what it counts.

    Weights, gradients, two moments and the teacher are float32. Autocast keeps a low-precision copy of the weights
    for the backward pass. Not counted: the CUDA context, libraries' workspaces, fragmentation, and the blocks that
    sharding gathers.

    Args:
        method: the method.
        precision: "bf16", "fp16", "tf32" or "fp32".
        micro_batch: images on a device at a time.
        images: of the training set, of which the curriculum may keep something.
        shards: devices that share the weights; 1 where each has all of them.
        grad_checkpointing: see `activations`.
    """
    count, low = parameters(method), precision in ("bf16", "fp16")
    student = sum(parameters for part, parameters in count.items() if part != "teacher")
    kept = activations(method, low=low, grad_checkpointing=grad_checkpointing)
    return {
        "weights": 4 * student / shards,
        "gradients": 4 * student / shards,
        "optimizer": 8 * student / shards,
        "teacher": 4 * count["teacher"] / shards,
        "network of the target": 4.0 * method.target.num_parameters,
        "low-precision weights": 2.0 * student if low else 0.0,
        "labels of the images": 0.0 if method.supervision is None else 16.0 * images,
        "scores of the images": float(_kept_of_images(method, images)),
        "activations": micro_batch * kept,
    }


def _kept_of_images(method: Method, images: int) -> int:
    """Bytes that the curricula keep of so many images."""
    shown = 0 if method.image_curriculum is None else ImageCurriculum.bytes_for(images)
    return shown + method.curriculum.difficulty.kept_bytes(images, method.student.num_patches)


def image_passes(method: Method, epochs: int) -> float:
    """Multiply-adds for each training image, over a run, of the passes by which an image curriculum measures it.

    Args:
        method: the method, on the meta device.
        epochs: of the run.
    """
    images, model = method.image_curriculum, method.student
    passes = 0 if images is None else sum(images.difficulty.is_due(epoch) for epoch in range(epochs))
    if images is None or not passes:
        return 0.0
    with torch.device("meta"):
        batch = Batch(torch.empty(1, model.in_chans, *pair(model.img_size)), model.patch_size)
        noise = Noise.for_batch(seed=0, step=0, batch_size=1, device="meta")
        mask = method.curriculum.with_random_masks().draw(batch, None, 1.0, noise)
        run = (
            partial(model.features, batch.images)
            if images.difficulty.measures == "features"
            else partial(model.reconstruct, batch.images, mask)
        )
        return passes * count_all(run)


def activations(method: Method, *, low: bool, grad_checkpointing: bool = False) -> float:
    """Bytes that the backward pass of one image keeps.

    A transformer block of width D keeps (20 + 4 r) D bytes for each token with autocast and (32 + 8 r) D without,
    where r is the ratio of its feed-forward layer: the inputs of both norms, of four matrix products and of the
    activation function, and q, k, v of the fused attention, which keeps no attention map. With gradient
    checkpointing a block keeps its input, 4 D, and one block at a time all the rest. To the blocks come the heads'
    inputs, the error of the reconstruction, the pairs of the prediction loss, and the attention maps of a Swin, whose
    kernel is not fused. A step of dense prediction keeps the loss predictor's pass over all patches beside. A compiled
    model keeps less.

    Args:
        method: the method.
        low: whether autocast computes in 16 bits.
        grad_checkpointing: whether blocks compute their activations again in the backward pass.
    """
    model, curriculum = method.student, method.curriculum
    dense = method.dense_prediction_every > 0
    each = 20 + 4 * model.mlp_ratio if low else 32 + 8 * model.mlp_ratio
    maps = 0 if grad_checkpointing else (6 if low else 4) * model.encoder.attention_values()

    def kept(num_masked: int) -> float:
        _, masked, thrown = curriculum.counts(model.num_patches, num_masked)
        blocks_run = model.block_sizes(masked, thrown) + (_dense_block_sizes(model) if dense else [])
        sizes = [tokens * width for tokens, width in blocks_run]
        blocks = 4 * sum(sizes) + each * max(sizes) if grad_checkpointing else each * sum(sizes)
        outputs = sum(model.head_widths) * masked + (model.head_widths[-1] * model.num_patches if dense else 0)
        heads = outputs * (6 if low else 8)
        # With autocast some are in 16 bits, and what a norm reads is in 32.
        beside = (3 if low else 4) * model.kept_beside_blocks(masked, thrown)
        pairs = (10 if dense else 5) * masked**2 if model.loss_predictor is not None else 0
        return blocks + beside + maps + heads + 4 * masked * model.outputs + pairs

    # Where the ratio moves, the step that keeps most.
    counts = curriculum.counts_masked(model.num_patches)
    return max(kept(masked) for masked in (min(counts), max(counts)))


def _dense_block_sizes(model: MaskedModel) -> list[tuple[int, int]]:
    """(tokens, width) of the loss predictor's blocks in a pass over the full image."""
    predictor: Any = model.loss_predictor
    return [(model.encoder.num_prefix_tokens + model.num_patches, model.head_widths[-1])] * len(predictor.blocks)

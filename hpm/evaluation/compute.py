"""What a training computes, counted on a single image, so that trainings can be compared at equal computation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from curriculum import Batch, Noise
from hpm.evaluation.base import EvaluationContext

# A backward pass costs twice its forward pass.
_PASSES = 3


def equal_epochs(context: EvaluationContext, labelled: int) -> float:
    """How many epochs of fine-tuning the encoder cost what its pre-training cost.

    Args:
        context: knows how many images the pre-training saw.
        labelled: images of an epoch.
    """
    assert context.pretraining_images is not None
    encoder, image = context.model.encoder, _image(context)
    fine_tuning = _PASSES * _count(lambda: encoder(image))
    return context.pretraining_images * pretraining_flops(context) / (fine_tuning * labelled)


def pretraining_flops(context: EvaluationContext) -> float:
    """Floating-point operations of the pre-training on one image, as at its end.

    The difficulty is estimated and the mask drawn, the target made, and the student trained. What a trained difficulty
    estimator learns beside the model is not counted.
    """
    batch = Batch(_image(context), context.model.patch_size)
    curriculum = copy.copy(context.curriculum)  # drawing leaves the last batch's scores in it
    curriculum.mask_ratio = curriculum.mask_ratio.without_chance()
    noise = Noise.for_batch(seed=context.seed, step=0, batch_size=1, device=context.device)
    mask = curriculum.draw(batch, context.teacher, 1.0, noise)
    drawn = _count(lambda: curriculum.draw(batch, context.teacher, 1.0, noise))
    target = _count(lambda: context.target(batch.images, mask, batch.patch_size, context.teacher))
    return drawn + target + _PASSES * _count(lambda: context.model(batch.images, mask))


def _image(context: EvaluationContext) -> Tensor:
    source = context.source
    return source.load(source.train(), torch.zeros(1, dtype=torch.int64)).to(context.device)


@torch.no_grad()
def _count(compute: Callable[[], object]) -> float:
    # PyTorch's counter does not know the fused attention of CPUs.
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        compute()
    return counter.get_total_flops()


def _attention_flops(q_shape: Sequence[int], k_shape: Sequence[int], v_shape: Sequence[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q_shape, k_shape, v_shape)

"""What a model makes of some images: what it sees, reconstructs, expects to be hard, finds hard and attends to.

Shape suffixes: N images, C channels, S side, L patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from curriculum import Batch, Noise, Random, TrueLoss
from hpm.evaluation.base import EvaluationContext
from hpm.models.patches import patchify, unpatchify

_GRAY = 0.5


@dataclass(frozen=True)
class Panels:
    """One row of a picture for each image.

    Args:
        pixels: the images, float [N, C, S, S] in [0, 1], as all that follow.
        seen: what the encoder sees of them under a random mask; the rest is gray.
        reconstruction: the hidden patches reconstructed, the others as they are; None for a target that cannot be
            shown as pixels.
        maps: by title, a score of every patch [N, L].
        grid: rows and columns of patches.
        visible: share of the patches that the encoder sees.
    """

    pixels: Tensor
    seen: Tensor
    reconstruction: Tensor | None
    maps: dict[str, Tensor]
    grid: tuple[int, int]
    visible: float


@torch.no_grad()
def look(context: EvaluationContext, images_NCSS: Tensor) -> Panels:
    """Put images, as the source normalizes them, to a model.

    The mask is random, at the training ratio, the same for every model of one seed. The maps are the teacher's: the
    predicted loss of the full image, where there is a loss predictor; the true loss, measured by probe passes that
    together mask every patch; the last block's attention from the class token, mean over heads, where there is one.
    """
    source = context.source
    model = context.model
    teacher = context.teacher
    batch = Batch(images_NCSS.to(context.device), model.patch_size)
    noise = Noise(context.seed, 0, torch.arange(len(batch), device=context.device))
    num_masked = context.curriculum.count_masked(batch.num_patches)
    mask = Random()(None, alpha=0.0, num_masked=num_masked, grid=batch.grid, noise=noise)
    patches = patchify(batch.images, model.patch_size)
    restored = context.target.restore(model.reconstruct(batch.images, mask), batch.images, mask, model.patch_size)
    reconstruction = None
    if restored is not None:
        whole = mask.scatter(mask.gather_visible(patches), restored.to(patches.dtype))
        reconstruction = source.denormalize(unpatchify(whole, model.patch_size, batch.grid))
    hidden = unpatchify(mask.to_bool().unsqueeze(-1).expand_as(patches).float(), model.patch_size, batch.grid).bool()
    pixels = source.denormalize(batch.images)
    maps = {}
    if teacher.unsupported_reason("predicted_loss") is None:
        maps["predicted loss"] = teacher.predicted_loss(batch.images)
    true_loss = TrueLoss.covering(batch.num_patches, num_masked)
    maps["true loss"] = true_loss(batch, teacher, num_masked=num_masked, noise=noise)
    if teacher.unsupported_reason("attention") is None:
        maps["attention"] = teacher.attention(batch.images).mean(dim=1)
    return Panels(
        pixels=pixels,
        seen=pixels.masked_fill(hidden, _GRAY),
        reconstruction=reconstruction,
        maps=maps,
        grid=batch.grid,
        visible=1 - num_masked / batch.num_patches,
    )

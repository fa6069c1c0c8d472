"""What a model makes of some images, and what its curriculum does: what a picture shows of them.

Shape suffixes: N images, C channels, S S height and width, L patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from curriculum import Batch, Mask, Noise, Random, TrueLoss
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.last_step import last_step
from hpm.models.base import in_evaluation_mode
from hpm.models.patches import patchify, unpatchify
from hpm.visualization.curriculum_panels import MASKED, CurriculumPanels, cover, look_at_curriculum


@dataclass(frozen=True)
class Panels:
    """One row of a picture for each image.

    Args:
        pixels: the images, float [N, C, S, S] in [0, 1], as all that follow.
        seen: what the encoder sees of them under a random mask; the rest is gray.
        reconstruction: the hidden patches reconstructed, the others as they are; None for a target that cannot be
            shown as pixels, and for a reconstructor that nobody has trained.
        maps: by title, a score of every patch [N, L].
        grid: rows and columns of patches.
        visible: share of the patches that the encoder sees.
        curriculum: what the curriculum calls hard and masks; None where its masks follow nothing.
        crops: whether these are training images, cropped as in training.
        steps: that the model was trained for; None where that is not known.
        averaged: whether the maps are a moving average's, not the student's own.
    """

    pixels: Tensor
    seen: Tensor
    reconstruction: Tensor | None
    maps: dict[str, Tensor]
    grid: tuple[int, int]
    visible: float
    curriculum: CurriculumPanels | None
    crops: bool
    steps: int | None = None
    averaged: bool = False

    @property
    def aspect(self) -> float:
        """Height of an image over its width."""
        return self.pixels.shape[-2] / self.pixels.shape[-1]


@torch.no_grad()
def look(context: EvaluationContext, batch: Batch) -> Panels:
    """Put images to a model and its curriculum.

    The mask that hides patches from the encoder is random, at the training ratio, the same for every model of one seed.
    The maps are the teacher's: the predicted loss of the full image, where there is a loss predictor; the true loss,
    measured by probe passes that together mask every patch; the last block's attention from the class token, mean over
    heads, where there is one. What components that nobody has trained would show is left out.

    Args:
        context: model, teacher and curriculum.
        batch: the images, as the source normalizes them; training images say which they are and what was cropped.
    """
    batch = batch.to(context.device)
    with in_evaluation_mode(context.model):
        return _look(context, batch)


def reconstruct(context: EvaluationContext, batch: Batch, mask: Mask) -> Tensor | None:
    """The masked patches of images as the model, in evaluation mode, reconstructs them, the visible ones as they are.

    Args:
        context: model, target and source.
        batch: the images, as the source normalizes them.
        mask: what is hidden from the encoder.

    Returns:
        Float [N, C, S, S] in [0, 1]; None for a target that cannot be shown as pixels.
    """
    model = context.model
    restored = context.target.restore(model.reconstruct(batch.images, mask), batch.images, mask, model.patch_size)
    if restored is None:
        return None
    patches = patchify(batch.images, model.patch_size)
    whole = mask.scatter(mask.gather_visible(patches), restored.to(patches.dtype))
    return context.source.denormalize(unpatchify(whole, model.patch_size, batch.grid))


def _look(context: EvaluationContext, batch: Batch) -> Panels:
    source, teacher = context.source, context.teacher
    noise = Noise(context.seed, 0, torch.arange(len(batch), device=context.device))
    num_masked = context.curriculum.count_masked(batch.num_patches, last_step(context).progress)
    mask = Random()(None, alpha=0.0, num_masked=num_masked, grid=batch.grid, noise=noise)
    true_loss = TrueLoss.covering(batch.num_patches, num_masked)
    reconstruction = reconstruct(context, batch, mask) if context.can_answer(teacher, true_loss.needs) else None
    pixels = source.denormalize(batch.images)
    maps = {}
    if context.can_answer(teacher, ["predicted_loss"]):
        maps["predicted loss"] = teacher.predicted_loss(batch.images)
    if context.can_answer(teacher, true_loss.needs):
        maps["true loss"] = true_loss(batch, teacher, num_masked=num_masked, noise=noise)
    if context.can_answer(teacher, ["attention"]):
        maps["attention"] = teacher.attention(batch.images).mean(dim=1)
    return Panels(
        pixels=pixels,
        seen=cover(pixels, mask.to_bool(), batch, MASKED),
        reconstruction=reconstruction,
        maps=maps,
        grid=batch.grid,
        visible=1 - num_masked / batch.num_patches,
        curriculum=look_at_curriculum(context, batch, pixels),
        crops=batch.boxes is not None,
        steps=None if context.pretraining is None else context.pretraining.clock.step,
        averaged=teacher.averaged_model is not None and "moving average" not in context.untrained,
    )

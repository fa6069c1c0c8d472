"""Diagnostics: what the curriculum does at present.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curriculum import Batch, Curriculum, Mask
from curriculum import diagnostics as measure
from curriculum.validation import require_at_least, require_in
from hpm.data import Split
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.last_step import last_step, warn_of_training_images
from hpm.evaluation.samples import held_out_batches
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel


class Diagnostics(Evaluation):
    """Masks that the curriculum draws for held-out images, with the teacher as it is now; means over images.

    Masked patches are those that are reconstructed, where `Curriculum.reconstruction` leaves others out.

    Of a difficulty that knows training images alone there are no such masks. Where it would be asked, nothing is
    measured but alpha.

    Metrics, all `curriculum/...`:
        alpha: the scheduler's value at `progress`.
        hardness_gap: the student's reconstruction loss under the masks drawn, minus that under uniform masks;
            hardness_gap_relative: in units of the latter.
        hard_share: share of the M hardest patches that are masked, M being the number of masked patches; uniform
            masks reach M / L. Only where the difficulty was asked for, and scores any of these images by how
            hard they are: a memory of the training images does not, nor are numbers of parts (`Parts`) scores.
        mask_entropy: how little a patch's position says about whether it is masked, relative to the maximum.
        coverage_min, coverage_max: how often the positions that are masked least and most often are masked.
        object_overlap: share of the masked patches that lie on the object; object_overlap_to_chance: relative to
            uniform masks. Only where the data know the object.

    Args:
        images: of each held-out split, at most. Default 256.
        progress: of training, in [0, 1], at which masks are drawn; where the scheduler depends on it, this sets
            alpha. Default None, the last step that was taken.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "diagnostics"
    metrics = DECLARED[protocol]

    def __init__(self, *, images: int = 256, progress: float | None = None) -> None:
        require_at_least("Diagnostics", 1, images=images)
        require_in("Diagnostics", "[0, 1]", progress=progress)
        self.images = images
        self.progress = None if progress is None else float(progress)

    def needs_trained(self, model: MaskedModel) -> frozenset[str]:
        return frozenset({"reconstructor"})

    @torch.no_grad()
    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        curriculum = context.curriculum.for_measuring()
        progress = last_step(context).progress if self.progress is None else self.progress
        alpha = {"alpha": curriculum.alpha(progress)}
        asks = curriculum.needs_scores_at(progress, context.model.num_patches)
        unknown = asks and curriculum.difficulty.at(progress).knows_training_images_alone
        if unknown:
            told = "Diagnostics draw no masks of held-out images by it; HardnessShare asks it of training images"
            warn_of_training_images(context, told)
        metrics: dict[str, float] = {}
        for name, split in context.held_out.items():
            means = alpha | ({} if unknown else self._measure_split(context, curriculum, split, progress))
            metrics |= {metric_on(name, f"curriculum/{what}"): mean for what, mean in sorted(means.items())}
        return metrics

    def _measure_split(
        self, context: EvaluationContext, curriculum: Curriculum, split: Split, progress: float
    ) -> dict[str, float]:
        masks: list[Tensor] = []
        # The same noise draws both masks: where the curriculum's are random the gap is exactly 0.
        uniform_masks = curriculum.with_random_masks()
        values: dict[str, list[Tensor]] = {}
        for indices, batch, noise in held_out_batches(context, split, self.images):
            mask = curriculum.draw(batch, context.teacher, progress, noise)
            uniform_mask = uniform_masks.draw(batch, None, progress, noise)
            masks.append(mask.to_bool())
            object_NL = context.source.object_map(split, indices, patch_size=batch.patch_size)
            measured = _losses(context, batch, mask, uniform_mask) | _choice(curriculum, mask, object_NL)
            for name, value_N in measured.items():
                values.setdefault(name, []).append(value_N)
        means = {name: torch.cat(of_batches).double().nanmean().item() for name, of_batches in values.items()}
        if math.isnan(means.get("hard_share", 0.0)):
            del means["hard_share"]
        uniform = means.pop("uniform_loss")
        means["hardness_gap_relative"] = means["hardness_gap"] / uniform
        return means | _positions(torch.cat(masks))


def _losses(context: EvaluationContext, batch: Batch, mask: Mask, uniform: Mask) -> dict[str, Tensor]:
    """[N] each: what masks cost beside uniform ones of as many patches."""

    def loss(of: Mask) -> Tensor:
        target_NMP = context.target(batch.images, of, batch.patch_size, context.teacher)
        return context.target.loss(context.model.reconstruct(batch.images, of), target_NMP)

    drawn_NM, uniform_NM = loss(mask), loss(uniform)
    return {"hardness_gap": measure.hardness_gap(drawn_NM, uniform_NM), "uniform_loss": uniform_NM.mean(dim=1)}


def _choice(curriculum: Curriculum, mask: Mask, object_NL: Tensor | None) -> dict[str, Tensor]:
    """What the masks prefer, [N] each."""
    values, masked_NL = {}, mask.to_bool()
    if curriculum.scores is not None and curriculum.difficulty.num_parts is None:
        values["hard_share"] = measure.hard_share(curriculum.scores, masked_NL, mask.num_masked)
    if object_NL is not None:
        object_NL = object_NL.to(masked_NL.device)
        values["object_overlap"] = measure.overlap(masked_NL, object_NL)
        values["object_overlap_to_chance"] = measure.overlap_to_chance(masked_NL, object_NL)
    return values


def _positions(masked_NL: Tensor) -> dict[str, float]:
    """Where masks fall."""
    coverage_L = measure.coverage(masked_NL)
    return {
        "mask_entropy": measure.mask_entropy(masked_NL).item(),
        "coverage_min": coverage_L.min().item(),
        "coverage_max": coverage_L.max().item(),
    }

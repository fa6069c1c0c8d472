"""HardnessShare: are the patches that the curriculum calls hard also hard to reconstruct?

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from curriculum import Batch, EdgeDensity, Noise, TrueLoss
from curriculum.hardness import attainable_extra_loss, hardness_share, not_blank, position_scores
from curriculum.noise import hash_words
from curriculum.streams import Stream
from curriculum.validation import require_at_least, require_in
from hpm.data import ObjectShares, Split
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.last_step import LastStep, last_step, priorities, warn_of_training_images
from hpm.evaluation.samples import held_out_batches
from hpm.methods.teacher import StudentTeacher
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel, in_evaluation_mode

_NAME = "curriculum/hardness_share"


class _Measured(NamedTuple):
    """What is measured of some images.

    Args:
        scores_NL: the curriculum's difficulty, higher = masked rather; NaN is not scored.
        edges_NL: edge density.
        one_NL: the student's loss of each patch, mean over the masks that hid it.
        other_NL: the same under other masks.
        not_blank_NL: bool, whether the patch shows something.
        masked_NL: bool, whether the curriculum masks the patch.
        objects_NL: the object's share of the patch's pixels; None where the data do not know.
    """

    scores_NL: Tensor
    edges_NL: Tensor
    one_NL: Tensor
    other_NL: Tensor
    not_blank_NL: Tensor
    masked_NL: Tensor
    objects_NL: Tensor | None

    @property
    def loss_NL(self) -> Tensor:
        """The mean of both measurements of the loss, float64."""
        return (self.one_NL.double() + self.other_NL) / 2


class HardnessShare(Evaluation):
    """The share of attainable hardness: the extra loss of the patches that the curriculum calls hardest.

    It is the mean loss of the patches with the highest difficulty minus the mean of all, divided by the same of the
    patches whose loss is truly highest: 1 for a difficulty that finds them, 0 for chance, negative for one that prefers
    easy patches. Losses are the student's; `curriculum.hardness` says how they are kept from flattering themselves.
    As many patches count as hardest as `top` of a mask, at the mean mask ratio, whatever alpha is.

    A run measures it on its training images, cropped as it crops them, since a difficulty that keeps something of each
    image knows only these. `hpm evaluate` has no run at hand, and takes held-out images. The difficulty is asked at
    the progress of the last step that was taken, and keeps nothing of being asked; a scheduler that observes has
    observed that step too. Scores are turned round where `Curriculum.polarity` is "easiest"; where the mask does not
    follow them, but what is reconstructed of it, where `PartialReconstruction.polarity` is. Masked patches are those
    that are reconstructed.

    Metrics, all `curriculum/...`:
        hardness_share: of the curriculum's difficulty. 0 for one that is the same everywhere (`Uniform`) and where no
            sampler ever asks for scores (`Random`), whose hard patches are any patches. None where scores are
            numbers of parts (`Parts`), and outside of a run where scores depend on what is known of training images.
        hardness_share_position, hardness_share_edges: of scores that need no model, as controls: the mean loss at a
            patch's position in the other images, where there are any, and `EdgeDensity`.
        hardness_share_object: of the object's share of a patch's pixels, where the data know it (`Scenes`): how far
            what is hard is the object.
        ..._not_blank: the same among the patches that show something, see `curriculum.hardness.not_blank`.
        hardness_share_mask: of the masks themselves, as the curriculum draws them in a step that asks for scores: the
            extra loss of all masked patches, relative to that of as many truly hardest. About 0 under random
            masks; None where, outside of a run, the share itself is.
        attainable_hardness: the mean loss of the truly hardest patches relative to that of all.
        object_masked: the share of the object's pixels that lie in masked patches, under the same masks. Random
            masks hide the mask ratio of it, times `PartialReconstruction.share`. Where the data know the object,
            except likewise.

    Args:
        images: how many, at most. Default 256.
        top: share of a mask's patches that count as the hardest, in (0, 1]; rounded, but at least one. Default 0.5.
        masks: by how many masks of each image the loss is measured, and once more by as many others; more where they
            would not hide every patch, and no more than an image has patches. Default 8.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "hardness-share"
    metrics = DECLARED[protocol]
    of_training_images = True

    def __init__(self, *, images: int = 256, top: float = 0.5, masks: int = 8) -> None:
        require_at_least("HardnessShare", 1, images=images)
        require_in("HardnessShare", "[1, 1000]", masks=masks)
        require_in("HardnessShare", "(0, 1]", top=top)
        self.images = images
        self.top = float(top)
        self.masks = masks

    def needs_trained(self, model: MaskedModel) -> frozenset[str]:
        return frozenset({"reconstructor"})

    @torch.no_grad()
    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        if context.training_batches is not None:
            batches = context.training_batches(self.images)
            pairs = ((_indices_of(batch), batch) for batch in batches)
            return self._measure(context, context.source.train(), pairs, in_run=True)
        metrics: dict[str, float] = {}
        for name, split in context.held_out.items():
            pairs = ((indices, batch) for indices, batch, _ in held_out_batches(context, split, self.images))
            own = self._measure(context, split, pairs, in_run=False)
            metrics |= {metric_on(name, metric): value for metric, value in own.items()}
        return metrics

    def _measure(
        self, context: EvaluationContext, split: Split, batches: Iterable[tuple[Tensor, Batch]], *, in_run: bool
    ) -> dict[str, float]:
        now = last_step(context)
        num_masked = context.curriculum.count_masked(context.model.num_patches, now.progress)
        objects = ObjectShares.of(context.source, split)
        measured = [self._look(context, batch, indices, now, num_masked, objects) for indices, batch in batches]
        of = _Measured(*(None if x[0] is None else torch.cat(x) for x in zip(*measured, strict=True)))  # type: ignore[arg-type]
        difficulty = context.curriculum.difficulty.at(now.progress)
        numbers_parts = difficulty.num_parts is not None
        nothing_scored = bool(of.scores_NL.isnan().all())
        unknown = not in_run and (difficulty.knows_training_images_alone or nothing_scored)
        if unknown and not numbers_parts:
            told = "a run with @HardnessShare() in Monitoring.evaluations measures its share, for summary.json"
            warn_of_training_images(context, told)
        scores = {} if numbers_parts or unknown else {"": of.scores_NL}
        if len(of.loss_NL) > 1:  # of a single image there are no others whose losses it might be told
            scores["_position"] = position_scores(of.loss_NL)
        scores["_edges"] = of.edges_NL
        if of.objects_NL is not None:
            scores["_object"] = of.objects_NL
        k = max(1, round(self.top * num_masked))
        values = {
            f"{_NAME}{name}{among}": hardness_share(scores_NL, of.one_NL, of.other_NL, k, among_NL)
            for name, scores_NL in scores.items()
            for among, among_NL in (("", None), ("_not_blank", of.not_blank_NL))
        }
        if not unknown:
            masks_NL, count = of.masked_NL.double(), int(of.masked_NL[0].sum())
            values[f"{_NAME}_mask"] = hardness_share(masks_NL, of.one_NL, of.other_NL, count)
        extra = attainable_extra_loss(of.one_NL, of.other_NL, k).mean()
        values["curriculum/attainable_hardness"] = 1 + extra / of.loss_NL.mean()
        if of.objects_NL is not None and not unknown:
            # Of images whose crop has nothing of the object there is no share.
            hidden_N = (of.objects_NL * of.masked_NL).sum(dim=1) / of.objects_NL.sum(dim=1)
            values["curriculum/object_masked"] = hidden_N.nanmean()
        # Not finite: where all patches are alike, or all but one of each image blank, nothing is attainable.
        return {name: value for name, tensor in values.items() if math.isfinite(value := tensor.item())}

    def _look(
        self,
        context: EvaluationContext,
        batch: Batch,
        indices_N: Tensor,
        now: LastStep,
        num_masked: int,
        objects: ObjectShares | None,
    ) -> _Measured:
        def noise(stream: Stream, *numbers: int) -> Noise:
            return Noise(hash_words(context.seed, stream, *numbers), now.step, indices_N.to(context.device))

        student = StudentTeacher(
            context.model, context.target, autocast=context.teacher.autocast, reference=context.teacher
        )
        probes = max(self.masks, TrueLoss.covering(batch.num_patches, num_masked).probes)
        probes = min(probes, batch.num_patches)  # more would repeat masks
        objects_NL = None if objects is None else objects(replace(batch, indices=indices_N.to(context.device)))
        with in_evaluation_mode(context.model):
            one_NL, other_NL = (
                TrueLoss(probes=probes)(batch, student, num_masked=num_masked, noise=noise(Stream.HARDNESS_TRUTH, half))
                for half in range(2)
            )
            scores_NL = priorities(context, batch, now, num_masked, noise(Stream.HARDNESS_SCORES))
            masked_NL = _masked(context, batch, now, noise(Stream.HARDNESS_MASKS))
        scores_NL = torch.zeros_like(one_NL) if scores_NL is None else scores_NL.float()
        edges_NL = EdgeDensity()(batch, None, num_masked=num_masked, noise=noise(Stream.HARDNESS_SCORES))
        return _Measured(scores_NL, edges_NL, one_NL, other_NL, not_blank(batch), masked_NL, objects_NL)


def _masked(context: EvaluationContext, batch: Batch, now: LastStep, noise: Noise) -> Tensor:
    """Which patches the curriculum would mask in a step that asks for scores, bool [N, L]."""
    curriculum = context.curriculum.for_measuring()
    curriculum.score_every = 1
    return curriculum.draw(batch, context.teacher, now.progress, noise).to_bool()


def _indices_of(batch: Batch) -> Tensor:
    assert batch.indices is not None
    return batch.indices

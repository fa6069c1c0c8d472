"""HardnessShare: are the patches that the curriculum calls hard also hard to reconstruct?

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from curriculum import Batch, EdgeDensity, Noise, TrueLoss
from curriculum.hardness import attainable_extra_loss, hardness_share, not_blank, position_scores
from curriculum.noise import hash_words
from curriculum.streams import Stream
from curriculum.validation import require_at_least, require_in
from hpm.data import ObjectShares, Split
from hpm.errors import Notice
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.last_step import LastStep, last_step, priorities
from hpm.evaluation.metrics import Metric, Unit, metric_on
from hpm.evaluation.samples import held_out_batches
from hpm.methods.teacher import StudentTeacher
from hpm.models.base import in_evaluation_mode

_NAME = "curriculum/hardness_share"


class HardnessShare(Evaluation):
    """The share of attainable hardness: the extra loss of the patches that the curriculum calls hardest.

    It is the mean loss of the patches with the highest difficulty minus the mean of all, divided by the same of the
    patches whose loss is truly highest: 1 for a difficulty that finds them, 0 for chance, negative for one that prefers
    easy patches. Losses are the student's; `curriculum.hardness` says how they are kept from flattering themselves.
    As many patches count as hardest as `top` of a mask, at the mean mask ratio, whatever alpha is.

    A run measures it on its training images, cropped as it crops them, since a difficulty that keeps something of each
    image knows only these. `hpm evaluate` has no run at hand, and takes held-out images. The difficulty is asked as in
    the last step that was taken, at that progress, and keeps nothing of being asked. Scores are turned round where
    `Curriculum.polarity` is "easiest".

    Metrics, all `curriculum/...`:
        hardness_share: of the curriculum's difficulty. 0 for one that is the same everywhere (`Uniform`) and for a
            sampler that never asks for scores (`Random`), whose hard patches are any patches. None where scores are
            numbers of parts (`Parts`), and where, outside of a run, nothing is scored.
        hardness_share_position, hardness_share_edges: of scores that need no model, as controls: the mean loss at a
            patch's position in the other images, and `EdgeDensity`.
        ..._not_blank: the same among the patches that show something, see `curriculum.hardness.not_blank`.
        attainable_hardness: the mean loss of the truly hardest patches relative to that of all.

    Args:
        images: how many, at most. Default 256.
        top: share of a mask's patches that count as the hardest, in (0, 1]; rounded, but at least one. Default 0.5.
        masks: by how many masks of each image the loss is measured, and once more by as many others; more where they
            would not hide every patch. Default 8.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "hardness-share"
    metrics = (
        *(
            Metric(f"{_NAME}{control}{among}", Unit.RATIO, higher_is_better=better, of_training_images=True)
            for control, better in (("", True), ("_position", None), ("_edges", None))
            for among in ("", "_not_blank")
        ),
        Metric("curriculum/attainable_hardness", Unit.RATIO, higher_is_better=None, of_training_images=True),
    )

    def __init__(self, *, images: int = 256, top: float = 0.5, masks: int = 8) -> None:
        require_at_least("HardnessShare", 1, images=images, masks=masks)
        require_in("HardnessShare", "(0, 1]", top=top)
        self.images = images
        self.top = float(top)
        self.masks = masks

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
        object_shares = ObjectShares.of(context.source, split)
        measured: dict[str, list[Tensor]] = {}
        for indices_N, batch in batches:
            looked = self._look(context, batch, indices_N, now, num_masked)
            if object_shares is not None:
                looked["_object"] = object_shares(replace(batch, indices=indices_N.to(context.device)))
                looked["masked"] = _masked(context, batch, now, _noise(context, now, indices_N, Stream.HARDNESS_MASKS))
            for what, values_NL in looked.items():
                measured.setdefault(what, []).append(values_NL)
        of = {what: torch.cat(of_batches) for what, of_batches in measured.items()}
        of["_position"] = position_scores((of["one"].double() + of["other"]) / 2)
        numbers_parts = context.curriculum.difficulty.num_parts is not None
        knows_nothing = not in_run and bool(of[""].isnan().all())
        if numbers_parts or knows_nothing:
            del of[""]
        if knows_nothing:
            of.pop("masked", None)
            if not numbers_parts:
                name = type(context.curriculum.difficulty).__name__
                text = f"{name} knows training images alone: the curriculum's own share is in the run's summary.json"
                warnings.warn(text, Notice, stacklevel=2)
        # Not finite: where all patches are alike, or all but one of each image blank, nothing is attainable.
        values = self._values(of, max(1, round(self.top * num_masked)))
        return {name: value for name, tensor in values.items() if math.isfinite(value := tensor.item())}

    def _look(
        self, context: EvaluationContext, batch: Batch, indices_N: Tensor, now: LastStep, num_masked: int
    ) -> dict[str, Tensor]:
        """What is measured of a batch, [N, L] each, by its name in `_values`."""

        def noise(stream: Stream, *numbers: int) -> Noise:
            return _noise(context, now, indices_N, stream, *numbers)

        student = StudentTeacher(
            context.model, context.target, autocast=context.teacher.autocast, reference=context.teacher
        )
        probes = max(self.masks, TrueLoss.covering(batch.num_patches, num_masked).probes)
        with in_evaluation_mode(context.model):
            one_NL, other_NL = (
                TrueLoss(probes=probes)(batch, student, num_masked=num_masked, noise=noise(Stream.HARDNESS_TRUTH, half))
                for half in range(2)
            )
            scores_NL = priorities(context, batch, now, num_masked, noise(Stream.HARDNESS_SCORES))
        scores_NL = torch.zeros_like(one_NL) if scores_NL is None else scores_NL.float()
        edges_NL = EdgeDensity()(batch, None, num_masked=num_masked, noise=noise(Stream.HARDNESS_SCORES))
        return {"one": one_NL, "other": other_NL, "": scores_NL, "_edges": edges_NL, "not_blank": not_blank(batch)}

    def _values(self, of: dict[str, Tensor], k: int) -> dict[str, Tensor]:
        """The metrics.

        Args:
            of: what was measured of all images, [N, L] each: "one" and "other", the student's losses, means over the
                masks that hid a patch; "not_blank", bool, whether a patch shows something; scores, by what follows
                `hardness_share` in their metrics' names; and "masked", bool.
            k: how many patches count as the hardest.
        """
        one_NL, other_NL = of["one"], of["other"]
        values = {
            f"{_NAME}{scores}{among}": hardness_share(of[scores], one_NL, other_NL, k, among_NL)
            for scores in ("", "_position", "_edges", "_object")
            if scores in of
            for among, among_NL in (("", None), ("_not_blank", of["not_blank"]))
        }
        extra = attainable_extra_loss(one_NL, other_NL, k).mean()
        values["curriculum/attainable_hardness"] = 1 + extra / ((one_NL.double() + other_NL) / 2).mean()
        if "masked" in of:
            # Of images whose crop has nothing of it there is no share.
            hidden_N = (of["_object"] * of["masked"]).sum(dim=1) / of["_object"].sum(dim=1)
            values["curriculum/object_masked"] = hidden_N.nanmean()
        return values


def _noise(context: EvaluationContext, now: LastStep, indices_N: Tensor, stream: Stream, *numbers: int) -> Noise:
    return Noise(hash_words(context.seed, stream, *numbers), now.step, indices_N.to(context.device))


def _masked(context: EvaluationContext, batch: Batch, now: LastStep, noise: Noise) -> Tensor:
    """Which patches the curriculum would mask at present, bool [N, L]."""
    # A copy, for drawing leaves the last batch's scores in the curriculum.
    curriculum = copy.copy(context.curriculum)
    curriculum.mask_ratio, curriculum.score_every = curriculum.mask_ratio.without_chance(), 1
    with in_evaluation_mode(context.model):
        return curriculum.draw(batch, context.teacher, now.progress, noise).to_bool()


def _indices_of(batch: Batch) -> Tensor:
    assert batch.indices is not None
    return batch.indices

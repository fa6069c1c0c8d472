"""Localization: does difficulty find the object?

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from curriculum import Attention, Batch, DifficultyEstimator, EdgeDensity, Noise, PredictedLoss, TrueLoss
from curriculum.diagnostics import auroc, average_precision, pointing_game
from curriculum.streams import Stream
from curriculum.validation import require_at_least
from hpm.data import ImageSource, Split
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.samples import held_out_batches
from hpm.methods.teacher import ModelTeacher, StudentTeacher
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel

METRICS = {"auroc": auroc, "average_precision": average_precision, "pointing_game": pointing_game}
"""What is measured for every image: scores and object map [N, L] -> [N]."""


class Localization(Evaluation):
    """How well the scores of difficulty estimators tell the object's patches from the others, mean over images.

    Metrics: `localization/SCORES/METRIC` for every one of `METRICS`. SCORES are `teacher/predicted_loss`,
    `teacher/true_loss` and `teacher/attention`, of the moving average; `student/...`, the same of the student;
    `edge_density`, which needs no model; `center`, closeness to the image's middle, what position alone gives away;
    `random`, the floor. There is no `teacher/...` where the student is its own teacher, and no predicted loss where
    there is no loss predictor. Every one sees the full image but the true loss, which is measured by probe passes that
    mask every patch. `localization/object_share`, the object's share of the patches, is what chance reaches in average
    precision and the pointing game, about; in AUROC it is 0.5.

    Images whose object fills all patches or none are left out.

    Args:
        images: of each held-out split, at most. Default 512.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "localization"
    metrics = DECLARED[protocol]

    def __init__(self, *, images: int = 512) -> None:
        require_at_least("Localization", 1, images=images)
        self.images = images

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        if not source.knows_objects:
            name = type(source).__name__
            raise ValueError(
                f"Localization needs data that know which patches hold the object, and {name} does not; use "
                "DigitScenes, Composites or StampScenes, or remove Localization from Monitoring.probes and "
                "Monitoring.evaluations"
            )
        super().check(source, model)

    @torch.no_grad()
    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        self.check(context.source, context.model)
        metrics: dict[str, float] = {}
        for name, split in context.held_out.items():
            means = self._measure_split(context, split)
            metrics |= {metric_on(name, f"localization/{what}"): mean for what, mean in means.items()}
        return metrics

    def _measure_split(self, context: EvaluationContext, split: Split) -> dict[str, float]:
        values: dict[str, list[Tensor]] = {}
        for indices, batch, noise in held_out_batches(context, split, self.images):
            object_NL = context.source.object_map(split, indices, patch_size=batch.patch_size)
            assert object_NL is not None
            object_NL = object_NL.to(context.device)
            share_N = object_NL.double().mean(dim=1)
            values.setdefault("object_share", []).append(share_N.where((share_N > 0) & (share_N < 1), torch.nan))
            for name, scores_NL in _scores(context, batch, noise):
                for metric, measure in METRICS.items():
                    values.setdefault(f"{name}/{metric}", []).append(measure(scores_NL, object_NL))
        return {name: torch.cat(of_batches).nanmean().item() for name, of_batches in values.items()}


def _scores(context: EvaluationContext, batch: Batch, noise: Noise) -> Iterator[tuple[str, Tensor]]:
    """Scores [N, L] by name."""
    num_masked = context.curriculum.count_masked(batch.num_patches)
    estimators: dict[str, DifficultyEstimator] = {
        "predicted_loss": PredictedLoss(),
        "true_loss": TrueLoss.covering(batch.num_patches, num_masked),
        "attention": Attention(),
    }
    student = StudentTeacher(
        context.model, context.target, autocast=context.teacher.autocast, reference=context.teacher
    )
    models: dict[str, ModelTeacher] = {"student": student}
    if context.teacher.model is not context.model:
        models["teacher"] = context.teacher
    for whose, model in models.items():
        for name, estimator in estimators.items():
            if not any(model.unsupported_reason(capability) for capability in estimator.needs):
                yield f"{whose}/{name}", estimator(batch, model, num_masked=num_masked, noise=noise)
    yield "edge_density", EdgeDensity()(batch, None, num_masked=num_masked, noise=noise)
    yield "center", _closeness_to_center(batch)
    yield "random", noise.fold(Stream.LOCALIZATION_RANDOM).uniform(batch.num_patches)


def _closeness_to_center(batch: Batch) -> Tensor:
    """[N, L]: minus the squared distance of each patch's middle from the image's, in patches; the same for all."""
    rows, columns = (torch.arange(count, device=batch.images.device) - (count - 1) / 2 for count in batch.grid)
    return -(rows.square().unsqueeze(1) + columns.square()).flatten().expand(len(batch), -1)

"""Localization: does difficulty find the object?

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.diagnostics import auroc, average_precision, pointing_game
from curriculum.validation import require_at_least
from hpm.data import ImageSource, Split
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.samples import held_out_batches
from hpm.evaluation.score_maps import score_maps
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel

METRICS = {"auroc": auroc, "average_precision": average_precision, "pointing_game": pointing_game}
"""What is measured for every image: scores and object map [N, L] -> [N]."""


class Localization(Evaluation):
    """How well the scores of difficulty estimators tell the object's patches from the others, mean over images.

    Metrics: `localization/SCORES/METRIC` for every one of `METRICS`. SCORES are `teacher/predicted_loss`,
    `teacher/true_loss`, `teacher/attention` and `teacher/features`, of the moving average, the last by a cut of its
    patch tokens, see `score_maps.cut_out`; `student/...`, the same of the student; and what needs no model: `pixels`,
    the same cut of pixels; `edge_density`; `center`, closeness to the image's middle, what position alone gives away;
    `random`, the floor. There is no `teacher/...` where the student is its own teacher, no predicted loss where there
    is no loss predictor, and neither loss of an encoder that came alone. Every one sees the full image but the true
    loss, which is measured by probe passes that mask every patch. `localization/object_share`, the object's share of
    the patches, is what chance reaches in average precision and the pointing game, about; in AUROC it is 0.5.

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
            for name, scores_NL in score_maps(context, batch, noise):
                for metric, measure in METRICS.items():
                    values.setdefault(f"{name}/{metric}", []).append(measure(scores_NL, object_NL))
        return {name: torch.cat(of_batches).nanmean().item() for name, of_batches in values.items()}

"""Agreement: does the predicted loss rank patches as the true loss does?

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from curriculum import Batch, EdgeDensity, Noise, Random, TrueLoss
from curriculum.diagnostics import spearman, top_k_agreement
from curriculum.hardness import not_blank, position_scores
from curriculum.validation import require_at_least, require_in
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.samples import held_out_batches
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel


class _Looked(NamedTuple):
    """What is measured of some images.

    Args:
        true_NL: the teacher's loss of each patch.
        predicted_NL: the loss that the teacher predicts.
        edges_NL: edge density.
        not_blank_NL: bool, whether the patch shows something.
        student_NM: the loss that the student predicts for the masked patches of a random mask.
        student_true_NM: the student's loss there.
    """

    true_NL: Tensor
    predicted_NL: Tensor
    edges_NL: Tensor
    not_blank_NL: Tensor
    student_NM: Tensor
    student_true_NM: Tensor


class Agreement(Evaluation):
    """How well predicted and true loss agree over the patches of held-out images, mean over images.

    Metrics: `agreement/teacher`, Spearman's correlation of the moving average's scores of the full image with its own
    true loss, measured by probe passes that mask every patch; `agreement/student`, that of the student's prediction
    for the masked patches of a random mask with its own loss there. The two see different inputs.
    `agreement/teacher_top` and `agreement/student_top`: the share of the hardest patches by true loss that are among
    as many hardest by predicted loss, `top` of all patches for the teacher and of the masked ones for the student;
    chance gives about `top`.
    `agreement/position` and `agreement/edges`: how well scores that need no model agree with the teacher's true loss,
    as controls: the mean of that loss at a patch's position in the other images, and `EdgeDensity`.
    `agreement/teacher_not_blank`, `position_not_blank` and `edges_not_blank`: the same correlations over the patches
    that show something, see `curriculum.hardness.not_blank`.
    None of these where there is no loss predictor, and no correlation with what is the same everywhere or not known.

    Args:
        images: of each held-out split, at most. Default 256.
        top: share of the patches that count as the hardest, in (0, 1); rounded, but at least one patch. Default 0.25.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "agreement"
    metrics = DECLARED[protocol]

    def __init__(self, *, images: int = 256, top: float = 0.25) -> None:
        require_at_least("Agreement", 1, images=images)
        require_in("Agreement", "(0, 1)", top=top)
        self.images = images
        self.top = float(top)

    def needs_trained(self, model: MaskedModel) -> frozenset[str]:
        return frozenset({"reconstructor", "loss predictor"})

    @torch.no_grad()
    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        if context.model.unsupported_reason("predicted_loss") is not None:
            return {}
        metrics: dict[str, float] = {}
        for name, split in context.held_out.items():
            batches = held_out_batches(context, split, self.images)
            looked = [_look(context, batch, noise) for _, batch, noise in batches]
            values = self._compare(_Looked(*map(torch.cat, zip(*looked, strict=True))))
            # In the order in which they are declared.
            means = {metric: values[metric.pattern].nanmean().item() for metric in self.metrics}
            known = {metric: mean for metric, mean in means.items() if math.isfinite(mean)}  # one image has no others
            metrics |= {metric_on(name, metric.pattern): mean for metric, mean in known.items()}
        return metrics

    def _compare(self, looked: _Looked) -> dict[str, Tensor]:
        """Correlations and agreement on the hardest of each image, [N], by the metric's name."""
        true_NL, not_blank_NL = looked.true_NL, looked.not_blank_NL
        values = {
            "agreement/teacher_top": self._top(looked.predicted_NL, true_NL),
            "agreement/student": spearman(looked.student_NM, looked.student_true_NM),
            "agreement/student_top": self._top(looked.student_NM, looked.student_true_NM),
        }
        scores = {"teacher": looked.predicted_NL, "position": position_scores(true_NL), "edges": looked.edges_NL}
        for name, scores_NL in scores.items():
            values[f"agreement/{name}"] = spearman(scores_NL, true_NL)
            values[f"agreement/{name}_not_blank"] = spearman(scores_NL, true_NL, not_blank_NL)
        return values

    def _top(self, predicted: Tensor, true: Tensor) -> Tensor:
        return top_k_agreement(predicted, true, max(1, round(self.top * predicted.shape[1])))


def _look(context: EvaluationContext, batch: Batch, noise: Noise) -> _Looked:
    num_masked = context.curriculum.count_masked(batch.num_patches)
    true_loss = TrueLoss.covering(batch.num_patches, num_masked)
    mask = Random()(None, alpha=0.0, num_masked=num_masked, grid=batch.grid, noise=noise)
    output = context.model(batch.images, mask)
    assert output.predicted_loss_NM is not None
    target_NMP = context.target(batch.images, mask, batch.patch_size, context.teacher)
    return _Looked(
        true_NL=true_loss(batch, context.teacher, num_masked=num_masked, noise=noise),
        predicted_NL=context.teacher.predicted_loss(batch.images),
        edges_NL=EdgeDensity()(batch, None, num_masked=num_masked, noise=noise),
        not_blank_NL=not_blank(batch),
        student_NM=output.predicted_loss_NM,
        student_true_NM=context.target.loss(output.reconstruction_NMP, target_NMP),
    )

"""Agreement: does the predicted loss rank patches as the true loss does?

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum import Batch, Noise, Random, TrueLoss
from curriculum.diagnostics import spearman, top_k_agreement
from curriculum.validation import require_at_least, require_in
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.metrics import Metric, Unit, metric_on
from hpm.evaluation.samples import held_out_batches


class Agreement(Evaluation):
    """How well predicted and true loss agree over the patches of held-out images, mean over images.

    Metrics: `agreement/teacher`, Spearman's correlation of the moving average's scores of the full image with its own
    true loss, measured by probe passes that mask every patch; `agreement/student`, that of the student's prediction
    for the masked patches of a random mask with its own loss there. The two see different inputs.
    `agreement/teacher_top` and `agreement/student_top`: the share of the hardest patches by true loss that are among
    as many hardest by predicted loss, `top` of all patches for the teacher and of the masked ones for the student;
    chance gives about `top`. None of these where there is no loss predictor.

    Args:
        images: of each held-out split, at most. Default 256.
        top: share of the patches that count as the hardest, in (0, 1); rounded, but at least one patch. Default 0.25.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "agreement"
    metrics = (
        Metric("agreement/teacher", Unit.CORRELATION),
        Metric("agreement/teacher_top", Unit.SHARE),
        Metric("agreement/student", Unit.CORRELATION),
        Metric("agreement/student_top", Unit.SHARE),
    )

    def __init__(self, *, images: int = 256, top: float = 0.25) -> None:
        require_at_least("Agreement", 1, images=images)
        require_in("Agreement", "(0, 1)", top=top)
        self.images = images
        self.top = float(top)

    @torch.no_grad()
    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        if context.model.unsupported_reason("predicted_loss") is not None:
            return {}
        metrics: dict[str, float] = {}
        for name, split in context.held_out.items():
            measured: list[Tensor] = []
            for _, batch, noise in held_out_batches(context, split, self.images):
                teacher, student = self._teacher(context, batch, noise), self._student(context, batch, noise)
                measured.append(torch.stack([*teacher, *student]))
            means = torch.cat(measured, dim=1).nanmean(dim=1).tolist()
            # In the order in which they are declared.
            metrics |= {metric_on(name, one.pattern): mean for one, mean in zip(self.metrics, means, strict=True)}
        return metrics

    def _teacher(self, context: EvaluationContext, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        num_masked = context.curriculum.count_masked(batch.num_patches)
        true_loss = TrueLoss.covering(batch.num_patches, num_masked)
        true_NL = true_loss(batch, context.teacher, num_masked=num_masked, noise=noise)
        return self._compare(context.teacher.predicted_loss(batch.images), true_NL)

    def _student(self, context: EvaluationContext, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        num_masked = context.curriculum.count_masked(batch.num_patches)
        mask = Random()(None, alpha=0.0, num_masked=num_masked, grid=batch.grid, noise=noise)
        output = context.model(batch.images, mask)
        assert output.predicted_loss_NM is not None
        target_NMP = context.target(batch.images, mask, batch.patch_size, context.teacher)
        return self._compare(output.predicted_loss_NM, context.target.loss(output.reconstruction_NMP, target_NMP))

    def _compare(self, predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Correlation and agreement on the hardest, [N] each."""
        k = max(1, round(self.top * predicted.shape[1]))
        return spearman(predicted, true), top_k_agreement(predicted, true, k)

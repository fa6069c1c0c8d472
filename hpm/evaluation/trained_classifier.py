"""What the classifier of a semi-supervised run has learnt: its accuracy on held-out images, nothing being trained.

Shape suffix: N images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from curriculum.validation import require_at_least
from hpm.data import ImageSource, Split
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.samples import held_out_batches, labels_of, require_labels
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel, in_evaluation_mode


class TrainedClassifier(Evaluation):
    """Accuracy of the classifier that `SemiSupervised` has trained, on whole images: the student's and the teacher's.

    Metrics: `classifier/pretrained` and, where there is a moving average beside, `classifier/teacher`.

    Args:
        test_images: at most so many test images, and as many validation images, the same for every seed; None, the
            default, for all.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "classifier"
    metrics = DECLARED[protocol]
    seeded = False

    def __init__(self, *, test_images: int | None = None) -> None:
        require_at_least("TrainedClassifier", 1, test_images=test_images)
        self.test_images = test_images

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        super().check(source, model)
        require_labels(self, source)
        if model.class_head is None:
            raise ValueError(
                "TrainedClassifier asks the classifier of a semi-supervised run, and this model has none; set "
                "Method.supervision, or choose another protocol"
            )

    def needs_trained(self, model: MaskedModel) -> frozenset[str]:
        return frozenset({"class head"})

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        models: dict[str, Callable[[Tensor], Tensor]] = {"pretrained": context.model.class_logits}
        if context.teacher.model is not context.model and "moving average" not in context.untrained:
            models["teacher"] = context.teacher.class_logits
        metrics: dict[str, float] = {}
        with torch.no_grad(), in_evaluation_mode(context.model):
            for name, split in context.held_out.items():
                for model, logits in models.items():
                    right_N = self._right(context, split, logits)
                    metric = metric_on(name, f"classifier/{model}")
                    metrics[metric] = right_N.float().mean().item()
                    context.scored_images[metric] = len(right_N)
        return metrics

    def _right(self, context: EvaluationContext, split: Split, logits: Callable[[Tensor], Tensor]) -> Tensor:
        """Bool [N]."""
        rows = [
            logits(batch.images).argmax(dim=1).cpu() == labels_of(split)[indices].cpu()
            for indices, batch, _ in held_out_batches(context, split, self.test_images)
        ]
        return torch.cat(rows)

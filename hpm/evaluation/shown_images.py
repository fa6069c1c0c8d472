"""ShownImages: which training images did a run show, and how does that go with their difficulty?

Shape suffixes: I images of the training split.
"""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from hpm.errors import Notice
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.features import batches
from hpm.evaluation.gallery import Gallery, shown_rows
from hpm.metrics import DECLARED


class ShownImages(Evaluation):
    """What the image curriculum made of the training images; nothing is computed.

    A gallery shows images from the easiest to the hardest, as they were last scored, and how often each was trained on.
    Without an image curriculum nothing is measured, and a notice says so.

    Metrics, all `shown_images/...`, of training images:
        easiest_quarter, hardest_quarter: how often an image of the quarter with the lowest, or highest, scores was
            trained on, relative to the mean over all images. Missing where nothing was scored.
        never: share of the images that were never trained on.
        most: how often the most frequent image was trained on, relative to the mean.
    """

    protocol = "shown-images"
    metrics = DECLARED[protocol]
    seeded = False
    of_training_images: ClassVar[bool] = True
    scores_training_images: ClassVar[bool] = True

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        images, train = context.image_curriculum, context.source.train()
        told = "ShownImages measures nothing"
        if images is None:
            warnings.warn(f"{told} where no run with a Method.image_curriculum is at hand", Notice, stacklevel=2)
            return {}
        scores_I, shown_I = images.scores.cpu(), images.shown.cpu()
        if len(shown_I) != len(train):
            text = f"{told} of {len(train)} training images, for the run showed {len(shown_I)}"
            warnings.warn(text, Notice, stacklevel=2)
            return {}
        relative_I = shown_I / shown_I.double().mean().clamp(min=1e-12)  # before the first step none was shown
        metrics = {"never": float((shown_I == 0).double().mean()), "most": float(relative_I.max())}
        order_I = scores_I.argsort(stable=True)[: int((~scores_I.isnan()).sum())]  # NaN comes last
        if quarter := len(order_I) // 4:
            metrics["easiest_quarter"] = float(relative_I[order_I[:quarter]].mean())
            metrics["hardest_quarter"] = float(relative_I[order_I[-quarter:]].mean())
            context.galleries[self.protocol] = self._gallery(context, order_I, scores_I, shown_I)
        return {f"shown_images/{name}": value for name, value in metrics.items()}

    def _gallery(self, context: EvaluationContext, order_I: Tensor, scores_I: Tensor, shown_I: Tensor) -> Gallery:
        chosen, train = order_I[shown_rows(len(order_I))], context.source.train()
        loaded = batches(context.source, train, chosen, device=torch.device("cpu"), unreadable=context.unreadable)
        pixels = context.source.denormalize(torch.cat(list(loaded)))
        read = context.unreadable.stand_ins(chosen, train)
        notes = tuple(
            f"{score:.3g}, shown {times} times"
            for score, times in zip(scores_I[read].tolist(), shown_I[read].tolist(), strict=True)
        )
        title = "training images from the easiest to the hardest"
        return Gallery(title, pixels, context.model.grid, notes=notes)

"""Equal computation: how long fine-tuning goes on with what pre-training has cost."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

from curriculum import Curriculum
from curriculum.sizes import Size
from hpm.evaluation.base import EvaluationContext
from hpm.methods.operations import encoder_multiply_adds
from hpm.methods.run_work import run_work
from hpm.methods.supervision import SemiSupervised
from hpm.models.base import MaskedModel
from hpm.targets import Target

# A backward pass costs twice its forward pass.
_PASSES = 3


class _OnMeta(NamedTuple):
    """A method without weights."""

    student: MaskedModel
    curriculum: Curriculum
    target: Target
    dense_prediction_every: int
    supervision: SemiSupervised | None = None

    def at_size(self, img_size: Size) -> _OnMeta:
        return self._replace(student=self.student.at_size(img_size))


def equal_epochs(context: EvaluationContext, labelled: int) -> float | None:
    """How many epochs of fine-tuning the encoder cost what its pre-training has cost, in multiply-adds.

    Counted is the average step of the pre-training, as `hpm plan` counts it: the student, the teacher in the steps
    that ask it, the target, what it trains itself, dense prediction and supervision. What a trained difficulty
    estimator learns beside the model is not counted, nor are an image curriculum's passes over all images.

    Args:
        context: knows how the model was trained.
        labelled: images of an epoch of fine-tuning.

    Returns:
        The epochs; None where it is not known how the model was trained, or a part cannot be counted without data.
    """
    pretraining = context.pretraining
    if pretraining is None:
        return None
    model = copy.deepcopy(context.model).to("meta")
    curriculum = copy.deepcopy(context.curriculum)
    if curriculum.difficulty.module is not None:
        curriculum.difficulty.module.to("meta")  # what it has kept lies where the training was
    target = context.target
    if target.module is not None:
        target = copy.deepcopy(target)
        assert target.module is not None
        target.module.to("meta")
    dense_prediction_every, supervision = pretraining.dense_prediction_every, pretraining.supervision
    method = _OnMeta(model, curriculum, target, dense_prediction_every, supervision)
    average = run_work(
        method,
        pretraining.clock,
        pretraining.progress_per,
        pretraining.image_sizes,
        masks_per_image=pretraining.masks_per_image,
    ).average_step()
    images = pretraining.clock.step * pretraining.batch_size
    fine_tuning = _PASSES * encoder_multiply_adds(model) * labelled
    epochs = images * average / fine_tuning
    return None if math.isnan(epochs) else epochs

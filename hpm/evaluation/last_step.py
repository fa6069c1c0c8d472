"""The curriculum as it is asked in the last step that was taken.

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch import Tensor

from curriculum import Batch, Curriculum, Noise
from hpm.errors import Notice
from hpm.evaluation.base import EvaluationContext


class LastStep(NamedTuple):
    """When the curriculum is asked.

    Args:
        step: the last one that was taken, 0 before the first.
        progress: of training, at that step.
    """

    step: int
    progress: float


def last_step(context: EvaluationContext) -> LastStep:
    """The last step of the pre-training; its end where nothing is known of it."""
    if context.pretraining is None:
        return LastStep(0, 1.0)
    clock = context.pretraining.clock
    clock = clock.at(max(0, clock.step - 1))
    return LastStep(clock.step, clock.progress(context.pretraining.progress_per))


def priorities(context: EvaluationContext, batch: Batch, now: LastStep, num_masked: int, noise: Noise) -> Tensor | None:
    """[N, L]: what the curriculum would mask first, at any alpha above 0; None where no sampler ever asks.

    These are the difficulty's scores, turned round where `polarity_of_masks` is "easiest".
    """
    polarity = polarity_of_masks(context.curriculum, now, num_masked)
    if polarity is None:
        return None
    difficulty = context.curriculum.difficulty.at(now.progress)
    scores_NL = difficulty(batch, context.teacher, num_masked=num_masked, noise=noise)
    return scores_NL if polarity == "hardest" else -scores_NL


def polarity_of_masks(curriculum: Curriculum, now: LastStep, num_masked: int) -> str | None:
    """The polarity by which scores are followed; None where no sampler ever asks for them.

    It is that of the mask, or of what is reconstructed where that alone follows them.
    """
    if curriculum.sampler.at(now.progress).needs_scores(1.0, num_masked):
        return curriculum.polarity
    part = curriculum.reconstruction
    if part is None or not part.sampler.at(now.progress).needs_scores(1.0, part.count(num_masked)):
        return None
    return part.polarity


_told: set[tuple[int, str]] = set()


def warn_of_training_images(context: EvaluationContext, consequence: str) -> None:
    """Tell, once of each curriculum, that its difficulty scores images of a training run alone.

    Args:
        context: knows the curriculum.
        consequence: what follows for others.
    """
    difficulty = context.curriculum.difficulty
    if (id(difficulty), consequence) not in _told:
        _told.add((id(difficulty), consequence))
        text = f"{type(difficulty).__name__} scores images of a training run alone: {consequence}"
        warnings.warn(text, Notice, stacklevel=2)

"""What the steps of a whole run compute on average: over time, and over the sizes of its images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from hpm.methods import operations
from hpm.methods.operations import Trained
from hpm.optim.clock import Clock
from hpm.optim.image_sizes import ImageSizes

_SAMPLED_STEPS = 20_000  # of the schedule
_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, less whole numbers, lie evenly and in no rhythm


class Stretch(NamedTuple):
    """The epochs of a run in which images are of one size.

    Args:
        method: what is computed, as one of images of that size.
        share: of the run.
        epochs: which, counted from 0.
        progresses: of some of their steps, as `operations.moments` gives them.
    """

    method: Trained
    share: float
    epochs: Sequence[int]
    progresses: list[float]


class RunWork(NamedTuple):
    """What the average step of a run computes.

    Args:
        work: multiply-adds of each part in the forward pass of one image, as `operations.multiply_adds` gives them; the
            teacher's on average over the steps in which it is asked.
        teacher_share: of the steps in which the teacher is asked.
        dense_share: of the steps in which the loss predictor also learns on the full image.
    """

    work: dict[str, float]
    teacher_share: float
    dense_share: float

    def average_step(self, *, passes: int = 3) -> float:
        """Multiply-adds of the average step for one image; see `average_step`."""
        return average_step(self.work, self.teacher_share, self.dense_share, passes=passes)


def stretches(method: Trained, clock: Clock, progress_per: str, image_sizes: ImageSizes | None = None) -> list[Stretch]:
    """Cut a run by the size of its images.

    Args:
        method: the method.
        clock: the run's length; its step is not looked at.
        progress_per: "epoch" or "step", as `Trainer` takes it.
        image_sizes: of each epoch; None for the method's own in all.
    """
    if image_sizes is None or not image_sizes.has_others:
        return [Stretch(method, 1.0, range(clock.epochs), operations.moments(clock, progress_per))]
    return [
        Stretch(method.at_size(size), image_sizes.share(size), epochs, operations.moments(clock, progress_per, epochs))
        for size in image_sizes.all
        if (epochs := image_sizes.epochs_of(size))
    ]


def run_work(
    method: Trained,
    clock: Clock,
    progress_per: str,
    image_sizes: ImageSizes | None = None,
    *,
    masks_per_image: int = 1,
) -> RunWork:
    """Count what the average step of a run computes; arguments are as in `stretches` and `operations.multiply_adds`."""
    parts = stretches(method, clock, progress_per, image_sizes)
    works = [operations.multiply_adds(part.method, part.progresses, masks_per_image=masks_per_image) for part in parts]
    asked = [part.share * teacher_share(part.method, clock, progress_per, part.epochs) for part in parts]
    mean = {name: _mean([work[name] for work in works], [part.share for part in parts]) for name in works[0]}
    if sum(asked):
        mean["teacher"] = _mean([work["teacher"] for work in works], asked)
    return RunWork(mean, sum(asked), dense_share(method, clock))


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    return sum(weight * value for value, weight in zip(values, weights, strict=True) if weight) / sum(weights)


def teacher_share(method: Trained, clock: Clock, progress_per: str, epochs: Sequence[int] | None = None) -> float:
    """Share of a run's steps in which the curriculum asks its difficulty estimator, and this computes something.

    Long runs are sampled at 20,000 steps. A scheduler that follows what the learner achieves cannot be
    foreseen: then it is every step that may ask.

    Args:
        method: the method.
        clock: the run's length; its step is not looked at.
        progress_per: "epoch" or "step", as `Trainer` takes it.
        epochs: those whose steps are looked at. Default None, all.
    """
    curriculum, num_patches, total = method.curriculum, method.student.num_patches, clock.total_steps
    difficulty, foreseen = curriculum.difficulty, not curriculum.scheduler.watches
    may_score = math.ceil(total / curriculum.score_every)

    def asks(step: int) -> bool:
        if not difficulty.asks(step, clock.steps_per_epoch):
            return False
        progress = Clock(step, clock.steps_per_epoch, clock.epochs).progress(progress_per)
        return not foreseen or curriculum.needs_scores_at(progress, num_patches)

    few = may_score <= _SAMPLED_STEPS
    places = range(may_score) if few else [int(may_score * (n * _GOLDEN % 1)) for n in range(_SAMPLED_STEPS)]
    if epochs is None or len(epochs) == clock.epochs:
        return may_score / total * fmean(asks(curriculum.score_every * place) for place in places)
    within = set(epochs)
    steps = (curriculum.score_every * place for place in places)
    found = sum(asks(step) for step in steps if step // clock.steps_per_epoch in within)
    return may_score / len(places) * found / (len(epochs) * clock.steps_per_epoch)


def dense_share(method: Trained, clock: Clock) -> float:
    """Share of a run's steps in which the loss predictor also learns on the full image.

    Args:
        method: the method.
        clock: the run's length; its step is not looked at.
    """
    every = method.dense_prediction_every
    return math.ceil(clock.total_steps / every) / clock.total_steps if every else 0.0


def average_step(work: dict[str, float], teacher_share: float, dense_share: float, *, passes: int = 3) -> float:
    """Multiply-adds of the average step for one image.

    Args:
        work: of each part, forward, as `multiply_adds` gives them.
        teacher_share: of the steps in which the teacher is asked.
        dense_share: of the steps in which the loss predictor also learns on the full image.
        passes: how many forward passes the student's costs are worth; the backward pass counts two.
    """
    student = work["encoder"] + work["reconstructor"] + work["loss predictor"] + work.get("classifier", 0.0)
    dense = work["dense input"] + passes * work["dense prediction"]
    beside = teacher_share * work["teacher"] + work["target"] + work.get("pseudo-labels", 0.0)
    return passes * student + dense_share * dense + beside

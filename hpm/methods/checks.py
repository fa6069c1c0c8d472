"""What the parts of a method ask of each other, found out before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpm.methods.method import Method


def check_teacher(method: Method) -> None:
    """What is asked of a teacher must be there.

    Raises:
        ValueError: naming what asks.
    """
    curriculum, target = method.curriculum, method.target
    if method.ema_decay is None and curriculum.difficulty.needs and curriculum.ever_needs_scores:
        raise ValueError(
            f"Curriculum.difficulty = {type(curriculum.difficulty).__name__} asks a teacher, but Method.ema_decay "
            "= None means that there is none; set it, e.g. to @HorizonDecay()"
        )
    name = type(target).__name__
    if method.ema_decay is None and target.needs:
        raise ValueError(
            f"Method.target = {name} is what the moving average makes of an image, but Method.ema_decay = None "
            "means that there is none; set it, e.g. to @HorizonDecay()"
        )
    if curriculum.difficulty.needs_predictions and method.student.loss_predictor is None:
        raise ValueError(
            f"Curriculum.difficulty = {type(curriculum.difficulty).__name__} takes predicted losses, and this "
            f"{type(method.student).__name__} has no loss predictor; set its loss_predictor_depth, e.g. to 1"
        )
    if method.prediction_weight == 0 and method.reads_predictions and curriculum.ever_needs_scores:
        raise ValueError(
            f"Curriculum.difficulty = {type(curriculum.difficulty).__name__} follows the loss predictor, which "
            "Method.prediction_weight = 0 leaves untrained; set it, e.g. to 1"
        )
    for capability in target.needs:
        if reason := method.teacher.unsupported_reason(capability):
            raise ValueError(f"Method.target = {name} needs {capability}, but {reason}")


def check_feedback(method: Method) -> None:
    """What schedulers follow must be measured.

    Raises:
        ValueError: naming the metric.
    """
    for scheduler in method.schedulers():
        for metric in set(scheduler.watches) - set(method.feedback):
            raise ValueError(
                f"{type(scheduler).__name__} watches the metric {metric!r}; this run measures "
                f"{', '.join(method.feedback)}"
            )


def check_counts(method: Method) -> None:
    """What compares the reconstructed patches of an image with each other must be given more than one.

    Raises:
        ValueError: naming what compares.
    """
    curriculum, num_patches = method.curriculum, method.student.num_patches
    count = min(
        curriculum.counts(num_patches, masked).reconstructed for masked in curriculum.counts_masked(num_patches)
    )
    comparing = f"Method.target = {type(method.target).__name__} compares"
    if count >= method.target.fewest_masked:
        if count > 1 or not (method.reads_predictions and curriculum.ever_needs_scores):
            return
        difficulty = type(curriculum.difficulty).__name__
        comparing = f"Curriculum.difficulty = {difficulty} follows the loss predictor, which learns to compare"
    part = "" if curriculum.reconstruction is None else "PartialReconstruction.share or "
    raise ValueError(
        f"{comparing} the reconstructed patches of an image with each other, and {count} of its {num_patches} is "
        f"reconstructed; raise {part}Curriculum.mask_ratio"
    )

"""What a method refuses before training: parts that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpm.methods.method import Method


def check_parts(method: Method) -> None:
    """Refuse parts of a method that do not go together.

    Raises:
        ValueError: naming the setting at fault.
    """
    student = method.student
    _check_dense_prediction(method)
    method.curriculum.check(method.teacher, student.num_patches, student.grid)
    student.check_curriculum(method.curriculum)
    _check_teacher(method)
    _check_supervision(method)
    _check_feedback(method)
    _check_counts(method)


def check_grid(method: Method) -> None:
    """Refuse a curriculum and a target that the grid of the student's patches is too small for.

    Raises:
        ValueError: naming the setting at fault.
    """
    student = method.student
    method.curriculum.check(method.teacher, student.num_patches, student.grid)
    _check_counts(method)


def _check_dense_prediction(method: Method) -> None:
    """Dense prediction needs a loss predictor, and a weight for it."""
    every = method.dense_prediction_every
    if every and method.student.loss_predictor is None:
        raise ValueError(
            f"Method.dense_prediction_every = {every} trains a loss predictor, and "
            f"{type(method.student).__name__}.loss_predictor_depth is None; set it to a number of blocks, or "
            "Method.dense_prediction_every = 0"
        )
    if every and method.prediction_weight == 0:
        raise ValueError(
            f"Method.dense_prediction_every = {every} trains a loss predictor, to which "
            "Method.prediction_weight = 0 gives no weight; set one of them otherwise"
        )


def _check_teacher(method: Method) -> None:
    """What is asked of a teacher must be there."""
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


def _check_supervision(method: Method) -> None:
    """Predicted losses that pseudo-labels are chosen by must be there, be trained, and tell images from each other."""
    supervision = method.supervision
    if supervision is None or not supervision.reads_predictions:
        return
    asked = "SemiSupervised.difficulty = 'predicted_loss'"
    others = "set SemiSupervised.difficulty to 'reconstruction_loss' or 'confidence'"
    if method.student.loss_predictor is None:
        raise ValueError(
            f"{asked} asks a loss predictor, and {type(method.student).__name__}.loss_predictor_depth is None; set it "
            f"to a number of blocks, or {others}"
        )
    if method.prediction_weight == 0:
        raise ValueError(
            f"{asked} asks a loss predictor, which Method.prediction_weight = 0 leaves untrained; set it, e.g. to 1, "
            f"or {others}"
        )
    if not method.prediction_loss.compares_images:
        raise ValueError(
            f"{asked} compares images, and Method.prediction_loss = {type(method.prediction_loss).__name__} learns "
            "what is harder within an image alone; set it to @AbsoluteLoss() with AbsoluteLoss.standardized = False, "
            f"or {others}"
        )


def _check_feedback(method: Method) -> None:
    """What schedulers follow must be measured."""
    for scheduler in method.schedulers():
        for metric in set(scheduler.watches) - set(method.feedback):
            raise ValueError(
                f"{type(scheduler).__name__} watches the metric {metric!r}; this run measures "
                f"{', '.join(method.feedback)}"
            )


def _check_counts(method: Method) -> None:
    """What compares the reconstructed patches of an image with each other must be given more than one."""
    curriculum, num_patches = method.curriculum, method.student.num_patches
    count = min(
        curriculum.counts(num_patches, masked).reconstructed for masked in curriculum.counts_masked(num_patches)
    )
    comparing = f"Method.target = {type(method.target).__name__} compares"
    if count >= method.target.fewest_masked:
        follows = method.reads_predictions and curriculum.ever_needs_scores
        if count > 1 or not follows or method.prediction_loss.compares_images:
            return
        difficulty = type(curriculum.difficulty).__name__
        comparing = f"Curriculum.difficulty = {difficulty} follows the loss predictor, which learns to compare"
    part = "" if curriculum.reconstruction is None else "PartialReconstruction.share or "
    raise ValueError(
        f"{comparing} the reconstructed patches of an image with each other, and {count} of its {num_patches} is "
        f"reconstructed; raise {part}Curriculum.mask_ratio"
    )

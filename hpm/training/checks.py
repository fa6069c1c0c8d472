"""What is refused before training: settings that do not go with a method, and images that it cannot learn from."""

from __future__ import annotations

from curriculum.sizes import spell_size
from hpm.data import ImageSource, Scenes
from hpm.methods.method import Method
from hpm.optim.image_sizes import ImageSizes
from hpm.optim.schedule import Schedule
from hpm.runtime.settings import Runtime


def check_method(
    method: Method,
    runtime: Runtime,
    schedule: Schedule,
    image_sizes: ImageSizes | None = None,
    world_size: int = 1,
) -> None:
    """Refuse a method that cannot be computed as the settings say.

    Args:
        method: what is to be trained.
        runtime: how.
        schedule: in which batches.
        image_sizes: of the images of each epoch; None for the model's in all.
        world_size: processes that share a batch.

    Raises:
        ValueError: naming the setting at fault.
    """
    method.curriculum.mask_ratio.check_parts(schedule.accumulate * world_size)
    if image_sizes is not None and image_sizes.has_others:
        _check_sizes(method, runtime, image_sizes)
    for sampler in method.curriculum.samplers:
        sampler.check_masks_per_image(schedule.masks_per_image)
    if method.target.stateful and schedule.accumulate > 1:
        groups = method.curriculum.mask_ratio.groups
        more = f", and train with {groups} processes, or a multiple, for UniformRatio.groups = {groups}"
        raise ValueError(
            f"Schedule.accumulate = {schedule.accumulate} cuts a step into micro-batches, and Method.target = "
            f"{type(method.target).__name__} learns from all images of a step at once; set it to 1"
            f"{more if world_size % groups else ''}"
        )
    for setting, alpha in method.curriculum.scheduler.reaches():
        if not 0 <= alpha <= 1:
            raise ValueError(f"{setting} leads alpha to {alpha}; it must stay in [0, 1]")
    if runtime.residual_precision != "fp32" and not method.student.has_residual_dtype:
        raise ValueError(
            f"Runtime.residual_precision = {runtime.residual_precision!r} is not for a "
            f"{type(method.student.encoder).__name__}; set it to 'fp32'"
        )
    if runtime.cuda_graphs:
        _check_recordable(method)
    if runtime.teacher_precision != "same":
        _check_low_precision(method, runtime)


def _check_sizes(method: Method, runtime: Runtime, image_sizes: ImageSizes) -> None:
    """What goes with images of other sizes than the model's."""
    if runtime.cuda_graphs:
        raise ValueError(
            f"Runtime.cuda_graphs = True replays steps of one shape, and Trainer.image_size = {image_sizes.describe()} "
            "needs others; set one of them otherwise"
        )
    for size in image_sizes.all:
        try:
            method.at_size(size)
        except ValueError as error:
            raise ValueError(f"Trainer.image_size brings images of {spell_size(size)} pixels: {error}") from error


def check_objects(method: Method, source: ImageSource) -> None:
    """Refuse a difficulty that needs to know which pixels are the object, over images that do not say so.

    Args:
        method: what is to be trained.
        source: of the images.

    Raises:
        ValueError: naming both.
    """
    difficulty = method.curriculum.difficulty
    if difficulty.needs_objects and not isinstance(source, Scenes):
        name, given = type(difficulty).__name__, type(source).__name__
        raise ValueError(
            f"Curriculum.difficulty = {name} asks which pixels are the object, and {given} does not know; use "
            "DigitScenes, Composites or StampScenes"
        )


def check_labels(method: Method, source: ImageSource) -> None:
    """Refuse to learn from labels that the training images do not have, or to compare classes that are not there.

    It takes the images.

    Args:
        method: what is to be trained.
        source: of the images.

    Raises:
        ValueError: naming the setting at fault.
    """
    if method.supervision is not None:
        method.supervision.check_labels(source.train().labels, source.num_classes, type(source).__name__)
    images = method.image_curriculum
    if images is None or not images.difficulty.needs_labels:
        return
    labels_I = source.train().labels
    if labels_I is None or len(labels_I.unique()) < 2:
        lacks = "have none" if labels_I is None else "are of one class"
        raise ValueError(
            f"ImageCurriculum.difficulty = {type(images.difficulty).__name__} compares classes, and the training "
            f"images of {type(source).__name__} {lacks}; use another, e.g. @ImageLoss()"
        )
    if method.supervision is not None and method.supervision.hides_labels(labels_I):
        raise ValueError(
            f"ImageCurriculum.difficulty = {type(images.difficulty).__name__} reads the labels of all training images, "
            "and Method.supervision = SemiSupervised hides those of images that it does not draw; use another, e.g. "
            "@ImageLoss()"
        )


def check_image_count(method: Method, source: ImageSource) -> None:
    """Refuse a difficulty of images that so many cannot be scored by.

    It takes the images.

    Args:
        method: what is to be trained.
        source: of the images.

    Raises:
        ValueError: naming the setting at fault.
    """
    if method.image_curriculum is not None:
        method.image_curriculum.difficulty.check(len(source.train()))


def _check_recordable(method: Method) -> None:
    """What a method must be for CUDA graphs to replay its steps."""
    curriculum, target = method.curriculum, method.target
    for needed, lacks in (
        ("Curriculum.mask_ratio to be one number", len(set(curriculum.mask_ratios())) > 1),
        ("Curriculum.blank_ratio = 0", curriculum.blank_ratio != 0),
        ("Method.dense_prediction_every = 0", method.dense_prediction_every != 0),
        ("Method.supervision = None", method.supervision is not None),
        (f"another Method.target: {type(target).__name__} is not computed in the student's pass", not target.in_pass),
    ):
        if lacks:
            raise ValueError(f"Runtime.cuda_graphs = True needs {needed}")


def _check_low_precision(method: Method, runtime: Runtime) -> None:
    """What a teacher of a precision of its own needs."""
    supervised = method.supervision is not None and method.supervision.reads_predictions
    asked = supervised or "predicted_loss" in method.curriculum.difficulty.needs
    if not asked or method.ema_decay is None:
        raise ValueError(
            f"Runtime.teacher_precision = {runtime.teacher_precision!r} is of a moving average that predicts losses, "
            "and nothing asks for these here: set it to 'same'"
        )

"""Whether a study's metric can be measured, and what may be chosen by it."""

from __future__ import annotations

from collections.abc import Sequence

from hpm.data import ImageSource
from hpm.errors import UserError
from hpm.evaluation import Evaluation
from hpm.metrics import TEST, VALIDATION, find_metric, metric_on, split_of


def may_choose_by(metric: str) -> bool:
    """Whether a metric is of validation or training images, so that what is chosen by it has not seen test images."""
    declared = find_metric(metric)
    return split_of(metric) == VALIDATION or (declared is not None and declared.of_training_images)


def require_metric(metric: str, evaluations: Sequence[Evaluation], source: ImageSource, name: str, what: str) -> None:
    """Find a metric that no evaluation can give, or no image, before anything is trained; reads no images.

    Args:
        metric: as a run's summary names it.
        evaluations: those that are asked for. One that declares no metrics may give any.
        source: of the images. That validation images are switched off is found; whether data that carve as many as
            they have will have any is not.
        name: the binding that names the metric.
        what: whose evaluations these are.

    Raises:
        UserError: naming the binding, and the evaluations or the source's binding.
    """
    declared = all(evaluation.metrics for evaluation in evaluations)
    found = next((found for evaluation in evaluations if (found := evaluation.find_metric(metric))), None)
    if declared and found is None:
        shown = ", ".join(f"@{type(evaluation).__name__}()" for evaluation in evaluations) or "none"
        raise UserError(f"{name} = {metric!r} is measured by none of the evaluations of {what}: {shown}")
    if found is not None and found.of_training_images:
        if split_of(metric) == VALIDATION:
            own = metric.removeprefix(f"{VALIDATION}/")
            raise UserError(f"{name} = {metric!r} is measured on training images in {what}; name it {own!r}")
        return
    if found is not None and split_of(metric) == TEST and not source.has_test:
        raise UserError(
            f"{name} = {metric!r} is measured on test images, of which {type(source).__name__} has none in {what}; "
            f"{metric_on(VALIDATION, metric)!r} is measured on validation images"
        )
    if split_of(metric) == VALIDATION and source.validation_images == 0 and not source.has_own_validation:
        owner = type(source).__name__
        raise UserError(
            f"{name} = {metric!r} is measured on validation images, of which {owner}.validation_images = 0 leaves "
            f"none in {what}; set it to a number of training images"
        )

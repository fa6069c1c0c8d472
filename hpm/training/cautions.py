"""What a person should know before a run trains: settings that are legal, but by which something learns nothing, most
often because the run is too short for them.
"""

from __future__ import annotations

from curriculum.images.features import PassDifficulty
from curriculum.sizes import pair, spell_size
from hpm.methods.method import Method
from hpm.optim.clock import Clock
from hpm.optim.image_sizes import ImageSizes

_LONGEST_HORIZON = 0.2  # of the run; a teacher that averages over more stays close to its random start


def cautions(method: Method, clock: Clock, image_sizes: ImageSizes) -> list[str]:
    """A sentence for each setting that the run is too short for.

    Args:
        method: what is trained.
        clock: the run's.
        image_sizes: of the images of each epoch.
    """
    found = (
        _slow_teacher(method, clock),
        _no_scores(method, clock),
        _no_image_scores(method, clock),
        _rare_dense_prediction(method, clock),
        _small_to_the_end(image_sizes),
        _nothing_to_compare(method),
    )
    return [caution for caution in found if caution is not None]


def _small_to_the_end(image_sizes: ImageSizes) -> str | None:
    """What is evaluated at a size that the last epoch was not trained at."""
    last, whole = image_sizes.at(-1), image_sizes.img_size
    if last == whole:
        return None
    return (
        f"the last epoch trains at {spell_size(last)} pixels, and evaluations look at {spell_size(whole)}; let "
        f"Trainer.image_size end at {pair(whole)[0]}"
    )


def _slow_teacher(method: Method, clock: Clock) -> str | None:
    """A teacher that averages over most of the run still remembers its random start."""
    pseudo = method.supervision is not None and method.supervision.uses_pseudo_labels
    if (decay := method.ema_decay) is None or not (method.curriculum.difficulty.needs or pseudo):
        return None
    share = decay.horizon(clock.at((total := clock.total_steps) - 1)) / total
    if share <= _LONGEST_HORIZON:
        return None
    return (
        f"the teacher averages over {share:.0%} of the run's steps, so it stays close to its random start; "
        f"HorizonDecay(fraction=0.1) or less suits a run of {total} steps"
    )


def _no_scores(method: Method, clock: Clock) -> str | None:
    """A run may be over before its difficulty scores an image."""
    curriculum = method.curriculum
    first = curriculum.difficulty.first_scored_epoch
    if clock.epochs > first or not curriculum.ever_needs_scores:
        return None
    return (
        f"Curriculum.difficulty = {type(curriculum.difficulty).__name__} scores images from epoch {first + 1} on, and "
        f"Schedule.epochs = {clock.epochs}: no mask follows scores; train for more"
    )


def _no_image_scores(method: Method, clock: Clock) -> str | None:
    """A run may be over before an image curriculum knows how difficult an image is."""
    if method.image_curriculum is None:
        return None
    difficulty = method.image_curriculum.difficulty
    known = difficulty.remembers and clock.epochs > 1  # from the second epoch on
    if known or any(difficulty.is_due(epoch) for epoch in range(clock.epochs)):
        return None
    name = type(difficulty).__name__
    mend = f", or lower {name}.first_epoch" if isinstance(difficulty, PassDifficulty) else ""
    return (
        f"ImageCurriculum.difficulty = {name} scores no image before the last epoch begins, and Schedule.epochs = "
        f"{clock.epochs}: every epoch shows each image once; train for more{mend}"
    )


def _rare_dense_prediction(method: Method, clock: Clock) -> str | None:
    """The first step is dense; the next may lie beyond the run's end."""
    every, total = method.dense_prediction_every, clock.total_steps
    if every <= 1 or every < total:
        return None
    return (
        f"Method.dense_prediction_every = {every}, and the run has {total} step{'s' * (total > 1)}: the loss predictor "
        "learns on full images in the first alone; lower it, e.g. to 4"
    )


def _nothing_to_compare(method: Method) -> str | None:
    """A loss predictor that no mask follows may be given one patch of each image, where `Method` refuses another."""
    model, curriculum = method.student, method.curriculum
    if model.loss_predictor is None or method.prediction_weight == 0 or method.prediction_loss.compares_images:
        return None
    counts = [curriculum.counts(model.num_patches, masked) for masked in curriculum.counts_masked(model.num_patches)]
    if max(count.reconstructed for count in counts) > 1:
        return None
    part = "" if curriculum.reconstruction is None else "PartialReconstruction.share or "
    return (
        f"1 of an image's {model.num_patches} patches is reconstructed, and the loss predictor, which compares them, "
        f"learns nothing; raise {part}Curriculum.mask_ratio, or do without it, "
        f"{type(model).__name__}.loss_predictor_depth = None"
    )

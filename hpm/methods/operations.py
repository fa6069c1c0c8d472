"""What a method computes, counted without data and without weights: multiply-adds of its parts, on average over a run.

The model lies on PyTorch's meta device, where tensors have a shape and nothing else; see `hpm.methods.counting`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Protocol

import torch

from curriculum import Batch, Curriculum, DifficultyEstimator, Mask, Noise, TrainingContext
from curriculum.mask import Counts
from curriculum.sizes import Size, pair
from hpm.methods.counting import MetaTeacher, count_all, count_by_module
from hpm.methods.difficulty_choices import choices
from hpm.methods.once_per_image import StepTeacher, once_per_image
from hpm.methods.supervision import SemiSupervised
from hpm.models.base import MaskedModel
from hpm.optim.clock import Clock
from hpm.runtime.distributed import DistributedContext
from hpm.targets import Target

_MOMENTS = 48  # of a run, at which what moves with time is counted
_MOST_COUNTS = 16  # of masked patches, for each of which the student is counted anew; the middle of three moments each
_ALONE = DistributedContext()


class Trained(Protocol):
    """What is counted: a `Method`, or parts of one."""

    @property
    def student(self) -> MaskedModel:
        """The model that is trained."""

    @property
    def curriculum(self) -> Curriculum:
        """What decides the masks."""

    @property
    def target(self) -> Target:
        """What is reconstructed."""

    @property
    def dense_prediction_every(self) -> int:
        """How many steps lie between two in which the loss predictor also learns on the full image; 0 for never."""

    @property
    def supervision(self) -> SemiSupervised | None:
        """What labels teach beside; None for nothing."""

    def at_size(self, img_size: Size) -> Trained:
        """The same where images are of another size; as `Method.at_size`."""


def moments(clock: Clock, progress_per: str, epochs: Sequence[int] | None = None) -> list[float]:
    """The progress of some steps, evenly over a run or over some of its epochs.

    Args:
        clock: the run's length; its step is not looked at.
        progress_per: "epoch" or "step", as `Trainer` takes it.
        epochs: those that are looked at. Default None, all.
    """
    chosen = range(clock.epochs) if epochs is None else epochs
    count, steps = max(1, round(_MOMENTS * len(chosen) / clock.epochs)), len(chosen) * clock.steps_per_epoch
    places = (divmod(int(steps * (number + 0.5) / count), clock.steps_per_epoch) for number in range(count))
    return [clock.at(chosen[epoch] * clock.steps_per_epoch + step).progress(progress_per) for epoch, step in places]


_EVENLY = moments(Clock(0, 1, _MOMENTS), "epoch")


def multiply_adds(
    method: Trained, progresses: Sequence[float] = _EVENLY, *, masks_per_image: int = 1
) -> dict[str, float]:
    """Multiply-adds of each part in the forward pass of one image, on average over a run.

    Matrix products, convolutions and attention are counted; norms, activation functions and losses are not. Only
    visible patches are embedded and only masked ones predicted, by the decoders' last blocks too, so a student costs a
    little less than in code that does so for all (ViT-B/16: 9.55 G instead of MAE's 9.78). The teacher's are what the
    method's own difficulty asks of it; NaN where the difficulty looks at values, which cannot be counted without data.
    The target's are those of the network whose features are reconstructed, and of what it trains itself. What a step of
    dense prediction computes beside is "dense input", all that comes before the loss predictor, without a backward
    pass, and "dense prediction", the predictor itself; 0 where there is none. Supervision adds the student's
    "classifier" and, without a backward pass, the "pseudo-labels" that its teacher gives, on average over the run.

    Where the mask ratio moves, the mean over the run is taken, of at most 16 numbers of masked patches. Chance is given
    its mean ratio.

    Args:
        method: on the meta device; a curriculum whose difficulty is trained is prepared for a run.
        progresses: at which what moves with time is counted, each for as long a part of the run, as `moments` gives
            them. Default: 48, evenly from 0 to 1.
        masks_per_image: rows that are one image, which counts in each and which a teacher may see once. Default 1.
    """
    model, curriculum, target = method.student, method.curriculum, method.target
    with torch.device("meta"):
        images = torch.empty(1, model.in_chans, *pair(model.img_size))
        noise = Noise.for_batch(seed=0, step=0, batch_size=1, device="meta")
        shares = counts_over_the_run(curriculum, model.num_patches, progresses)
        masks = [
            Mask.from_keys(noise.bits(model.num_patches), counts.reconstructed, counts.thrown) for counts in shares
        ]
        if curriculum.trained is not None:
            curriculum.prepare(_no_run(model))
        student = _mean([count_by_module(partial(model, images, mask)) for mask in masks], list(shares.values()))
        rows = Batch(images.expand(masks_per_image, -1, -1, -1), model.patch_size, masks_per_image=masks_per_image)
        noises = Noise.for_batch(seed=0, step=0, batch_size=masks_per_image, device="meta")
        mask = Mask.from_keys(noises.bits(model.num_patches), masks[0].num_masked, masks[0].num_thrown)

        def asked(question: Callable[[StepTeacher], object]) -> float:
            """Of a row, by a teacher that does not remember what others were asked."""
            return count_all(lambda: question(once_per_image(MetaTeacher(model, target), rows))) / masks_per_image

        targets = asked(lambda teacher: target.learn(rows.images, mask, model.patch_size, teacher, _ALONE))

        def asks(difficulty: DifficultyEstimator, num_masked: int) -> float:
            return asked(lambda teacher: difficulty(rows, teacher, num_masked=num_masked, noise=noises))

        teacher_total = _dearest(
            [
                _over_the_run(asks, one, curriculum, model.num_patches, progresses)
                for one in choices(curriculum.difficulty)
            ]
        )
        dense = (
            count_by_module(lambda: model.predict_loss(images)) if method.dense_prediction_every else {"Global": 0.0}
        )
        supervision = method.supervision
        if supervision is not None:
            pseudo_labels = supervision.asked_share(progresses) * asked(partial(supervision.ask, rows))
    name = type(model).__name__
    encoder, predictor = student[f"{name}.encoder"], student.get(f"{name}.loss_predictor", 0.0)
    predicted = dense.get(type(model.loss_predictor).__name__, 0.0)
    classifier = student.get(f"{name}.class_head", 0.0)
    beside = {} if supervision is None else {"classifier": classifier, "pseudo-labels": pseudo_labels}
    return beside | {
        "encoder": encoder,
        "reconstructor": student["Global"] - encoder - predictor - classifier,
        "loss predictor": predictor,
        "dense input": dense["Global"] - predicted,
        "dense prediction": predicted,
        "teacher": teacher_total,
        "target": targets,
    }


def masked_shares(curriculum: Curriculum, num_patches: int, progresses: Sequence[float]) -> dict[int, float]:
    """How many patches are masked, and in which share of a run: of no more than 16 numbers.

    Args:
        curriculum: what says so.
        num_patches: L.
        progresses: of equal parts of the run.
    """
    counts = sorted(curriculum.count_masked(num_patches, progress) for progress in progresses)
    if len(set(counts)) > _MOST_COUNTS:
        counts = [counts[int(len(counts) * (part + 0.5) / _MOST_COUNTS)] for part in range(_MOST_COUNTS)]
    return {count: counts.count(count) / len(counts) for count in counts}


def counts_over_the_run(curriculum: Curriculum, num_patches: int, progresses: Sequence[float]) -> dict[Counts, float]:
    """What masks are made of, and in which share of a run: at the numbers that `masked_shares` gives.

    Args:
        curriculum: what says so.
        num_patches: L.
        progresses: of equal parts of the run.
    """
    shares = masked_shares(curriculum, num_patches, progresses)
    return {curriculum.counts(num_patches, count): share for count, share in shares.items()}


def _over_the_run(
    asks: Callable[[DifficultyEstimator, int], float],
    difficulty: DifficultyEstimator,
    curriculum: Curriculum,
    num_patches: int,
    progresses: Sequence[float],
) -> float:
    """What a difficulty computes where it is asked, on average over a run."""
    if not curriculum.scheduler.watches:
        asked = [progress for progress in progresses if curriculum.needs_scores_at(progress, num_patches)]
        progresses = asked or progresses
    if not difficulty.schedulers():
        shares = masked_shares(curriculum, num_patches, progresses)
        return sum(share * asks(difficulty, count) for count, share in shares.items())
    return fmean(asks(difficulty.at(now), curriculum.count_masked(num_patches, now)) for now in progresses)


def _mean(counts: list[dict[str, float]], shares: list[float]) -> dict[str, float]:
    """The mean of each module's count."""
    return {name: sum(share * count[name] for share, count in zip(shares, counts, strict=True)) for name in counts[0]}


def _dearest(costs: list[float]) -> float:
    return math.nan if any(map(math.isnan, costs)) else max(costs)


def encoder_multiply_adds(model: MaskedModel) -> float:
    """Multiply-adds of the encoder's forward pass of one whole image; of a model on the meta device."""
    with torch.device("meta"):
        images = torch.empty(1, model.in_chans, *pair(model.img_size))
        return count_by_module(lambda: model.encoder(images))["Global"]


def _no_run(model: MaskedModel) -> TrainingContext:
    """What a network beside the model needs to be built, of no run and without memory."""
    return TrainingContext(
        num_images=1,
        steps_per_epoch=1,
        in_chans=model.in_chans,
        patch_size=model.patch_size,
        grid=model.grid,
        device=torch.device("meta"),
        seed=0,
    )

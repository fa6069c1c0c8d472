"""What a method computes, counted without data and without weights: multiply-adds of its parts, on average over a run.

The model lies on PyTorch's meta device, where tensors have a shape and nothing else; PyTorch's own counter watches
it compute there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import fmean
from typing import Any, Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode

from curriculum import Batch, Curriculum, DifficultyEstimator, Mask, Noise, TrainingContext
from curriculum.mask import Counts
from curriculum.sizes import pair
from hpm.methods.difficulty_choices import choices
from hpm.methods.supervision import SemiSupervised
from hpm.methods.teacher import StudentTeacher
from hpm.models.base import MaskedModel
from hpm.optim.clock import Clock
from hpm.targets import Target

_SAMPLED_STEPS = 20_000  # of the schedule
_MOMENTS = 48  # of a run, at which what moves with time is counted
_MOST_COUNTS = 16  # of masked patches, for each of which the student is counted anew; the middle of three moments each
_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, less whole numbers, lie evenly and in no rhythm


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


class _MetaTeacher(StudentTeacher):
    """A teacher whose passes are counted: autocast knows no meta device, and changes no count."""

    def _inference(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        return nullcontext()


def moments(clock: Clock, progress_per: str) -> list[float]:
    """The progress of some steps, evenly over a run.

    Args:
        clock: the run's length; its step is not looked at.
        progress_per: "epoch" or "step", as `Trainer` takes it.
    """
    steps = (int(clock.total_steps * (number + 0.5) / _MOMENTS) for number in range(_MOMENTS))
    return [clock.at(step).progress(progress_per) for step in steps]


_EVENLY = moments(Clock(0, 1, _MOMENTS), "epoch")


def multiply_adds(method: Trained, progresses: Sequence[float] = _EVENLY) -> dict[str, float]:
    """Multiply-adds of each part in the forward pass of one image, on average over a run.

    Matrix products, convolutions and attention are counted; norms, activation functions and losses are not. Only
    visible patches are embedded and only masked ones predicted, by the decoders' last blocks too, so a student costs a
    little less than in code that does so for all (ViT-B/16: 9.55 G instead of MAE's 9.78). The teacher's are what the
    method's own difficulty asks of it; NaN where the difficulty looks at values, which cannot be counted without data.
    The target's are those of the network whose features are reconstructed. What a step of dense prediction computes
    beside is "dense input", all that comes before the loss predictor, without a backward pass, and "dense prediction",
    the predictor itself; 0 where there is none. Supervision adds the student's "classifier" and, without a backward
    pass, the "pseudo-labels" that its teacher gives, on average over the run.

    Where the mask ratio moves, the mean over the run is taken, of at most 16 numbers of masked patches. Chance is given
    its mean ratio.

    Args:
        method: on the meta device; a curriculum whose difficulty is trained is prepared for a run.
        progresses: at which what moves with time is counted, each for as long a part of the run, as `moments` gives
            them. Default: 48, evenly from 0 to 1.
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
        student = _mean([_count(partial(model, images, mask)) for mask in masks], list(shares.values()))
        # Each is asked by a teacher that does not remember what another asked.
        targets = count_all(lambda: target(images, masks[0], model.patch_size, _MetaTeacher(model, target)))

        def asks(difficulty: DifficultyEstimator, num_masked: int) -> float:
            teacher, batch = _MetaTeacher(model, target), Batch(images, model.patch_size)
            return count_all(lambda: difficulty(batch, teacher, num_masked=num_masked, noise=noise))

        teacher_total = _dearest(
            [
                _over_the_run(asks, one, curriculum, model.num_patches, progresses)
                for one in choices(curriculum.difficulty)
            ]
        )
        dense = _count(lambda: model.predict_loss(images)) if method.dense_prediction_every else {"Global": 0.0}
        supervision = method.supervision
        if supervision is not None:
            asked = partial(supervision.ask, Batch(images, model.patch_size), _MetaTeacher(model, target))
            pseudo_labels = supervision.asked_share(progresses) * _count(asked)["Global"]
    name = type(model).__name__
    encoder, predictor = student[f"{name}.encoder"], student.get(f"{name}.loss_predictor", 0.0)
    densely = dense.get(type(model.loss_predictor).__name__, 0.0)
    classifier = student.get(f"{name}.class_head", 0.0)
    beside = {} if supervision is None else {"classifier": classifier, "pseudo-labels": pseudo_labels}
    return beside | {
        "encoder": encoder,
        "reconstructor": student["Global"] - encoder - predictor - classifier,
        "loss predictor": predictor,
        "dense input": dense["Global"] - densely,
        "dense prediction": densely,
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
        return _count(lambda: model.encoder(images))["Global"]


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


@torch.no_grad()
def _count(compute: Callable[[], object]) -> dict[str, float]:
    """Multiply-adds by the module that they happen in, and of all as "Global"."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return {name: sum(counts.values()) / 2 for name, counts in counter.get_flop_counts().items()} | {
        "Global": counter.get_total_flops() / 2
    }


def count_all(compute: Callable[[], object]) -> float:
    """Multiply-adds of all; NaN where that cannot be told: somebody's own part may do anything."""
    try:
        return _count(compute)["Global"]
    except Exception:
        return math.nan


def teacher_share(method: Trained, clock: Clock, progress_per: str) -> float:
    """Share of a run's steps in which the curriculum asks its difficulty estimator, and this computes something.

    Long runs are sampled at 20,000 steps. A scheduler that follows what the learner achieves cannot be
    foreseen: then it is every step that may ask.

    Args:
        method: the method.
        clock: the run's length; its step is not looked at.
        progress_per: "epoch" or "step", as `Trainer` takes it.
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
    return may_score / total * fmean(asks(curriculum.score_every * place) for place in places)


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

"""Trainings that are compared fairly: each goes on until it levels off, at the learning rate that suits it.

Shape suffixes: N images, C channels, S side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from curriculum.validation import require_at_least, require_positive
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.compute import equal_epochs
from hpm.evaluation.early_stopping import EarlyStopping
from hpm.evaluation.supervised import SupervisedTraining
from hpm.models.base import MaskedModel
from hpm.optim.clock import Clock


@dataclass(frozen=True)
class Levelled:
    """A training that has levelled off.

    Args:
        logits_of: the classifier with its best weights: logits [N, classes] of normalized images [N, C, S, S].
        lr: its learning rate, which validation images chose.
        epochs: after which it was best on validation images.
        levelled_off: False where it was ended before, at its most epochs.
        within_budget: the classifier that was best within an epoch budget; None where there was none.
    """

    logits_of: Callable[[Tensor], Tensor]
    lr: float
    epochs: int
    levelled_off: bool
    within_budget: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class WarmupRates:
    """Linear warm-up to a learning rate that stays: for a training whose length is not known beforehand.

    Args:
        epochs: passes over the training images, at most.
        lr: the learning rate.
        warmup_epochs: epochs of linear warm-up, fractions allowed.
    """

    epochs: int
    lr: float
    warmup_epochs: float

    def learning_rate(self, clock: Clock) -> float:
        """The learning rate of a step."""
        return self.lr * min(1.0, (clock.step + 1) / max(1.0, self.warmup_epochs * clock.steps_per_epoch))


def require_rates(owner: str, **rates: float | Sequence[float]) -> tuple[float, ...]:
    """One learning rate, or several to choose from, as a tuple.

    Raises:
        ValueError: naming the setting, where there is none or one is not positive.
    """
    ((name, given),) = rates.items()
    several = tuple(given) if isinstance(given, Sequence) else (given,)
    if not several:
        raise ValueError(f"{owner}.{name} = {given} must be a positive number, or several to choose from")
    for rate in several:
        require_positive(owner, **{name: rate})
    if len(set(several)) < len(several):
        raise ValueError(f"{owner}.{name} = {given} must name each number once")
    return several


def require_levelling(owner: str, *, patience: float | None, trial_epochs: int) -> None:
    """Check the settings of early stopping and of `train_until_level`.

    Raises:
        ValueError: naming the setting at fault.
    """
    require_positive(owner, patience=patience)
    require_at_least(owner, 1, trial_epochs=trial_epochs)


def train_until_level(
    start: Callable[[float], SupervisedTraining], lrs: Sequence[float], *, trial_epochs: int
) -> Levelled:
    """Train at the learning rate that does best on validation images, until that levels off.

    The rates race by successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): all are trained for
    `trial_epochs`, the worse half by validation accuracy is given up, the others go on for twice as long, until one is
    left, which is trained to the end.

    Args:
        start: begins a training with early stopping at a learning rate.
        lrs: to choose from, at least one.
        trial_epochs: of the first round.
    """
    racing = {lr: start(lr) for lr in lrs}
    epochs = trial_epochs
    while len(racing) > 1:
        for training in racing.values():
            training.run(epochs)
        ranked = sorted(racing, key=lambda lr: _stopping(racing[lr]).best_accuracy, reverse=True)
        racing = {lr: racing[lr] for lr in ranked[: (len(ranked) + 1) // 2]}
        epochs *= 2
    ((lr, training),) = racing.items()
    training.run()
    stopping = _stopping(training)
    within_budget = stopping.best_within_budget()
    return Levelled(
        logits_of=partial(training.logits_with, stopping.best()),
        lr=lr,
        epochs=stopping.best_epoch,
        levelled_off=stopping.levelled_off(training.epochs),
        within_budget=None if within_budget is None else partial(training.logits_with, within_budget),
    )


def compare_with_scratch(
    start: Callable[[MaskedModel, str, float, float | None], SupervisedTraining],
    lrs: Sequence[float],
    context: EvaluationContext,
    *,
    trial_epochs: int,
    most_epochs: int,
    labelled: int,
    scratch: bool,
) -> dict[str, Levelled]:
    """Train from pre-trained weights and from scratch, each until it levels off at its own learning rate.

    "scratch" has at least the computation that pre-training and fine-tuning took together. "scratch_equal_compute" is
    the best that it was within that, by validation accuracy; it is left out where the computation is not known, or
    is more than `most_epochs`.

    Args:
        start: begins a training with early stopping, given a model to start from, what is judged ("pretrained" or
            "scratch"), a learning rate, and the budget of its early stopping.
        lrs: learning rates to choose from.
        context: gives both models, and what the pre-training took.
        trial_epochs: see `train_until_level`.
        most_epochs: of a training.
        labelled: images of an epoch.
        scratch: whether to train from scratch too.
    """
    pretrained = train_until_level(
        lambda lr: start(context.model, "pretrained", lr, None), lrs, trial_epochs=trial_epochs
    )
    rows = {"pretrained": pretrained}
    if not scratch:
        return rows
    budget = None
    if context.pretraining_images is not None:
        budget = pretrained.epochs + equal_epochs(context, labelled)
        budget = budget if budget <= most_epochs else None
    initial = context.initial()
    rows["scratch"] = train_until_level(
        lambda lr: start(initial, "scratch", lr, budget), lrs, trial_epochs=trial_epochs
    )
    if rows["scratch"].within_budget is not None:
        rows["scratch_equal_compute"] = replace(rows["scratch"], logits_of=rows["scratch"].within_budget)
    return rows


def _stopping(training: SupervisedTraining) -> EarlyStopping:
    assert training.stopping is not None
    return training.stopping

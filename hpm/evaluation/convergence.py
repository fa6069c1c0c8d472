"""Trainings that are compared fairly: each goes on until it has converged, at the learning rate that suits it.

Shape suffixes: N images, C channels, S side.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from curriculum.validation import require_at_least, require_in, require_positive
from hpm.errors import Notice, TrainingError
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.compute import equal_epochs
from hpm.evaluation.early_stopping import EarlyStopping
from hpm.evaluation.supervised import SupervisedTraining
from hpm.models.base import MaskedModel
from hpm.optim.clock import Clock

NOT_CONVERGED = "had not converged"
"""What the notice says of a training whose epochs were used up, for whoever counts them."""


@dataclass(frozen=True)
class Converged:
    """What a training was at its best on validation images.

    Args:
        logits_of: the classifier: logits [N, classes] of normalized images [N, C, S, S].
        lr: its learning rate, which validation images chose.
        epochs: that it had been trained for.
        network: what gives the logits.
    """

    logits_of: Callable[[Tensor], Tensor]
    lr: float
    epochs: int
    network: nn.Module


class Start(Protocol):
    """Begins a training with early stopping."""

    def __call__(
        self, model: MaskedModel, name: str, lr: float, *, most_epochs: int, budget: float | None
    ) -> SupervisedTraining:
        """Begin.

        Args:
            model: to start from.
            name: what is judged, "pretrained" or "scratch".
            lr: learning rate.
            most_epochs: to train for.
            budget: of early stopping.
        """


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


def require_early_stopping(
    owner: str, *, patience: float | None, threshold: float, min_epochs: int, trial_epochs: int
) -> None:
    """Check the settings of `EarlyStopping` and of `train_until_converged`.

    Raises:
        ValueError: naming the setting at fault.
    """
    require_positive(owner, patience=patience)
    require_in(owner, "[0, 1)", threshold=threshold)
    require_at_least(owner, 0, min_epochs=min_epochs)
    require_at_least(owner, 1, trial_epochs=trial_epochs)


def train_until_converged(
    start: Callable[[float], SupervisedTraining], lrs: Sequence[float], *, trial_epochs: int
) -> tuple[SupervisedTraining, float]:
    """Train until convergence at the learning rate that does best on validation images.

    It is found by successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): all rates are trained for
    `trial_epochs`, the worse half by validation accuracy is given up, the others go on for twice as long, until one is
    left, which is trained to its end. A rate at which the loss is not finite is given up, unless all are such.

    Args:
        start: begins a training with early stopping at a learning rate.
        lrs: to choose from, at least one.
        trial_epochs: of the first round.

    Returns:
        The training that is left, and its learning rate.
    """
    racing = {lr: start(lr) for lr in lrs}
    epochs = trial_epochs
    while len(racing) > 1:
        accuracies: dict[float, float] = {}
        diverged: TrainingError | None = None
        for lr, training in racing.items():
            try:
                training.run(epochs)
                accuracies[lr] = stopping_of(training).best_accuracy
            except TrainingError as error:
                diverged = error
        if diverged is not None and not accuracies:
            raise diverged
        ranked = sorted(accuracies, key=lambda lr: accuracies[lr], reverse=True)
        racing = {lr: racing[lr] for lr in ranked[: (len(racing) + 1) // 2]}
        epochs *= 2
    ((lr, training),) = racing.items()
    training.run()
    return training, lr


def compare_with_scratch(
    start: Start,
    lrs: Sequence[float],
    context: EvaluationContext,
    *,
    owner: str,
    trial_epochs: int,
    most_epochs: int,
    labelled: int,
    scratch: bool,
) -> dict[str, Converged]:
    """Train from pre-trained weights and from scratch, each until it has converged at its own learning rate.

    "scratch_equal_compute" is what the training from scratch was at its best within the computation that pre-training
    and fine-tuning, up to its best weights, took together; "scratch" goes on beyond that until it has converged. Where
    pre-training alone took more than `most_epochs`, or what it took is not known, there is no "scratch_equal_compute",
    and a notice says so.

    Args:
        start: begins a training.
        lrs: learning rates to choose from.
        context: gives both models, and how the model was pre-trained.
        owner: of the settings, for notices.
        trial_epochs: see `train_until_converged`.
        most_epochs: of a training. From scratch, where there is a "scratch_equal_compute", so many beyond what
            pre-training and fine-tuning computed.
        labelled: images of an epoch.
        scratch: whether to train from scratch too.
    """

    def train(model: MaskedModel, name: str, most: int, budget: float | None) -> tuple[SupervisedTraining, float]:
        begin = partial(start, model, name, most_epochs=most, budget=budget)
        training, lr = train_until_converged(begin, lrs, trial_epochs=trial_epochs)
        if not stopping_of(training).converged:
            _notify(f"{training.name} {NOT_CONVERGED} after {most} epochs; raise {owner}.epochs")
        return training, lr

    pretrained, lr = train(context.model, "pretrained", most_epochs, None)
    rows = {"pretrained": _best(pretrained, lr)}
    if not scratch:
        return rows
    pretraining, budget, most = equal_epochs(context, labelled), None, most_epochs
    if pretraining is None:
        _notify("what pre-training computed is not known, so nothing from scratch is compared at equal computation")
    elif pretraining > most_epochs:
        _notify(
            f"pre-training computed as much as {pretraining:,.0f} epochs from scratch, more than {owner}.epochs = "
            f"{most_epochs}, so nothing from scratch is compared at equal computation"
        )
    else:
        budget = pretraining + stopping_of(pretrained).best_epoch
        most = math.ceil(budget) + most_epochs
    training, lr = train(context.initial(), "scratch", most, budget)
    rows["scratch"] = _best(training, lr)
    stopping = stopping_of(training)
    if (within := stopping.best_within_budget()) is not None:
        logits_of = partial(training.logits_with, within)
        rows["scratch_equal_compute"] = Converged(logits_of, lr, stopping.epoch_within_budget, within)
    return rows


def stopping_of(training: SupervisedTraining) -> EarlyStopping:
    """The early stopping of a training that has one."""
    assert training.stopping is not None
    return training.stopping


def _best(training: SupervisedTraining, lr: float) -> Converged:
    stopping = stopping_of(training)
    network = stopping.best()
    return Converged(partial(training.logits_with, network), lr, stopping.best_epoch, network)


def _notify(text: str) -> None:
    warnings.warn(text, Notice, stacklevel=3)

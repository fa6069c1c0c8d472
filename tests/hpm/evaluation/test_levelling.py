"""Trainings that go on until they level off: averages, early stopping, the race of learning rates, equal compute."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from hpm.data import DigitScenes, Split
from hpm.evaluation import EvaluationContext, FineTune, LowShot
from hpm.evaluation.compute import equal_epochs, pretraining_flops
from hpm.evaluation.early_stopping import EarlyStopping, WeightAverage
from hpm.evaluation.levelling import train_until_level
from hpm.evaluation.supervised import SupervisedTraining

SETTINGS = {"labels": 40, "batch_size": 10, "test_images": 100, "lr": (1e-3, 4e-3), "trial_epochs": 2}


def test_the_average_is_of_about_the_last_tenth_of_the_steps() -> None:
    """Against the weights that each step has by the rule written out as one sum."""
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module)
    values = np.sin(np.arange(1, 201))
    for value in values:
        nn.init.constant_(module.weight, value)
        average.update(module)
    shares = np.array([1 - (1 - 1 / t) ** 10 for t in range(1, 201)])
    weights = np.array([share * np.prod(1 - shares[t + 1 :]) for t, share in enumerate(shares)])
    assert weights.sum() == pytest.approx(1)
    assert weights[170:].sum() > 0.75
    assert average.module.weight.item() == pytest.approx(float(weights @ values), abs=1e-5)
    assert not average.module.training


def stopping_at(
    accuracies: list[float], *, patience: float = 0.5, budget: float | None = None
) -> tuple[int, EarlyStopping]:
    """The epochs after which a training of these validation accuracies ends, and what ended it."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    epochs = 0
    stopping = EarlyStopping(module, lambda _: accuracies[epochs - 1], patience=patience, least=1, budget=budget)
    while epochs < len(accuracies) and not stopping.levelled_off(epochs):
        epochs += 1
        nn.init.constant_(module.weight, float(epochs))
        stopping.after_step()
        stopping.after_epoch(epochs)
    return epochs, stopping


def test_it_ends_when_half_as_many_epochs_again_bring_nothing_better() -> None:
    epochs, stopping = stopping_at([0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert (epochs, stopping.best_epoch, stopping.best_accuracy) == (6, 4, 0.4)
    module = nn.Linear(1, 1)
    lucky = EarlyStopping(module, lambda _: 0.1, patience=0.5, least=3)
    lucky.after_epoch(1)
    assert [lucky.levelled_off(epochs) for epochs in (1, 2, 3, 4)] == [False, False, False, True]
    assert stopping_at([0.1 * epoch for epoch in range(1, 9)])[0] == 8  # still rising: nothing ends it


def test_the_budget_is_used_up_and_its_best_weights_kept() -> None:
    assert stopping_at([0.1, 0.5, *[0.2] * 9])[0] == 3
    assert stopping_at([0.1, 0.5, *[0.2] * 9], budget=7.5)[0] == 8
    epochs, stopping = stopping_at([0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.6, 0.6, 0.7, *[0.2] * 9], budget=5.5)
    assert (epochs, stopping.best_epoch) == (14, 9)
    within = stopping.best_within_budget()
    assert within is not None
    best = stopping.best()
    assert within.weight.item() < best.weight.item()  # the averages after five epochs and after nine
    assert stopping_at([0.5] + [0.1] * 20, budget=None)[1].best_within_budget() is None


def test_what_is_saved_goes_on_as_if_nothing_had_been() -> None:
    _, stopping = stopping_at([0.1, 0.2, 0.3])
    other = EarlyStopping(nn.Linear(1, 1, bias=False), lambda _: 0.25, patience=0.5, least=1)
    other.load_state_dict(stopping.state_dict())
    assert (other.best_epoch, other.best_accuracy) == (3, 0.3)
    assert torch.equal(other.best().weight, stopping.best().weight)


def test_the_rate_that_does_best_on_validation_images_wins(colors: EvaluationContext) -> None:
    """A rate at which nothing is learned is given up after the first round."""
    evaluation = LowShot(labels=100, batch_size=20, epochs=20)
    started = {}

    def start(lr: float) -> SupervisedTraining:
        started[lr] = evaluation._start(colors, colors.model, torch.arange(100), "pretrained", lr, None, 0)
        return started[lr]

    levelled = train_until_level(start, (1e-9, 2e-3, 1e-8), trial_epochs=8)
    assert levelled.lr == 2e-3
    assert started[1e-9].epochs <= 16
    assert started[1e-8].epochs <= 16


@pytest.mark.parametrize(
    "evaluation",
    [
        LowShot(**SETTINGS, epochs=8),
        FineTune(
            batch_size=100,
            epochs=4,
            warmup_epochs=0,
            patience=0.5,
            trial_epochs=1,
            blr=(1e-3, 4e-3),
            test_images=100,
            precision="fp32",
            baselines=True,
        ),
    ],
)
def test_the_labels_of_test_images_choose_nothing(context: EvaluationContext, evaluation: LowShot | FineTune) -> None:
    """With the test labels shuffled everything but the test figures is the same, to the bit."""

    class Shuffled(DigitScenes):
        def read(self, split: str) -> Split:  # type: ignore[override]
            read = super().read(split)
            if split == "test":
                assert read.labels is not None
                read.labels = read.labels[torch.randperm(len(read), generator=torch.Generator().manual_seed(0))]
            return read

    both = dataclasses.replace(context, splits=("validation", "test"))
    shuffled = Shuffled(img_size=16, train_size=400, validation_size=150, test_size=120)
    one, other = evaluation(both), evaluation(dataclasses.replace(both, source=shuffled))
    chosen = [name for name in one if name.startswith("validation/") or name.endswith(("/lr", "/epochs"))]
    assert [one[name] for name in chosen] == [other[name] for name in chosen]
    assert one != other


def test_from_scratch_has_the_computation_of_both(context: EvaluationContext) -> None:
    evaluation = LowShot(**SETTINGS | {"lr": 1e-3}, epochs=40, patience=0.1)
    metrics = evaluation(dataclasses.replace(context, splits=("validation",), pretraining_images=800))
    assert metrics["validation/low_shot/scratch_equal_compute"] <= metrics["validation/low_shot/scratch"]
    unknown = evaluation(dataclasses.replace(context, pretraining_images=None))
    assert "low_shot/scratch" in unknown
    assert "low_shot/scratch_equal_compute" not in unknown


def test_the_computation_is_counted(context: EvaluationContext) -> None:
    """By hand: matrix products and attention of encoder, decoder, loss predictor and teacher, for one image."""
    width, inner, patches, masked = 32, 16, 16, 12

    def block(tokens: int, dim: int) -> int:
        return 2 * (12 * tokens * dim**2 + 2 * tokens**2 * dim)

    full = 2 * block(patches + 1, width) + 2 * patches * 48 * width
    epochs = equal_epochs(context, labelled=10)
    assert epochs == pytest.approx(40 * pretraining_flops(context) / (3 * full * 10), rel=0.01)
    seen = 2 * block(patches - masked + 1, width)
    decoders = 2 * block(patches + 1, inner)
    at_least, at_most = 3 * (seen + 0.6 * decoders), full + 3 * (full + 1.5 * decoders) + full
    assert at_least < pretraining_flops(context) < at_most

"""Early stopping: the average that is validated, when a training has converged, and which weights are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hpm.evaluation.early_stopping import EarlyStopping, WeightAverage


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


def stopping_at(accuracies: list[float], *, steps: int = 100, **settings: float):  # type: ignore[no-untyped-def]
    """The epochs after which a training of these validation accuracies ends, those measured, and what ended it."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    epochs, measured = 0, []

    def accuracy_of(_: nn.Module) -> float:
        measured.append(epochs)
        return accuracies[epochs - 1]

    stopping = EarlyStopping(module, accuracy_of, **{"patience": 0.5} | settings)
    while epochs < len(accuracies) and not stopping.converged:
        epochs += 1
        nn.init.constant_(module.weight, float(epochs))
        for _ in range(steps):
            stopping.after_step()
        stopping.after_epoch(epochs)
    return epochs, measured, stopping


RISING = [0.01 * epoch for epoch in range(1, 100)]


def test_it_ends_when_half_as_many_epochs_again_bring_nothing_better() -> None:
    epochs, measured, stopping = stopping_at([0.1, 0.2, 0.3, 0.4, *[0.3] * 20])
    assert (epochs, stopping.best_epoch, stopping.best_accuracy) == (6, 4, 0.4)
    assert measured == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("patience", [0.05, 0.2, 0.5])
def test_nothing_that_still_rises_has_converged(patience: float) -> None:
    assert stopping_at(RISING, patience=patience)[0] == len(RISING)


def test_gains_below_the_threshold_do_not_keep_it_going_but_are_kept() -> None:
    """0.30 after three epochs, then a little more each time: over after five, with the weights of the fifth."""
    accuracies = [0.1, 0.2, 0.3, *[0.3 + 0.001 * more for more in range(1, 30)]]
    epochs, _, stopping = stopping_at(accuracies, threshold=0.02)
    assert (epochs, stopping.best_epoch, stopping.best_accuracy) == (5, 5, accuracies[4])
    assert stopping.best().weight.item() > 3.5
    # Small gains add up to an improvement: 0.004 an epoch are more than 0.02 of 0.31 within half as long again.
    slowly = [0.1, 0.2, 0.3, 0.3, 0.31, *[0.31 + 0.004 * more for more in range(1, 20)]]
    assert stopping_at(slowly, threshold=0.02)[0] == len(slowly)


def test_what_has_not_taken_off_yet_has_not_ended() -> None:
    """From a thousand classes' chance: gains are small beside the end, not beside the accuracy. And a warm-up ends."""
    accuracies = [0.0002 * 1.6**epoch for epoch in range(1, 18)]
    assert stopping_at(accuracies, threshold=0.01)[0] == len(accuracies)
    warming = [*[0.001] * 5, *[0.001 + 0.05 * more for more in range(10)]]
    assert stopping_at(warming, threshold=0.01)[0] == 2
    assert stopping_at(warming, threshold=0.01, warmup_epochs=5)[0] == len(warming)


def test_a_lucky_start_does_not_end_it() -> None:
    assert stopping_at([0.1] * 200, steps=1)[0] >= 100


def test_the_budget_is_used_up_and_its_best_weights_kept() -> None:
    assert stopping_at([0.1, 0.5, *[0.2] * 9])[0] == 3
    assert stopping_at([0.1, 0.5, *[0.2] * 9], budget=7.9)[0] == 7
    epochs, measured, stopping = stopping_at([*RISING[:30], *[0.0] * 40], budget=18.9)
    assert 18 in measured  # the whole budget
    assert (stopping.epoch_within_budget, stopping.best_epoch) == (18, 29)
    assert epochs == 44
    within = stopping.best_within_budget()
    assert within is not None
    assert within.weight.item() < stopping.best().weight.item()
    assert stopping_at([0.5, *[0.1] * 20])[2].best_within_budget() is None


def test_what_is_saved_goes_on_as_if_nothing_had_been() -> None:
    """Killed in the middle of gains that are no improvement, which are told from one by what was before."""
    accuracies = [*RISING[:9], *[0.09 + 0.001 * more for more in range(1, 30)]]

    def train(stopping: EarlyStopping, module: nn.Module, first: int, last: int) -> None:
        for epoch in range(first, last):
            nn.init.constant_(module.weight, float(epoch))
            for _ in range(50):
                stopping.after_step()
            now[0] = epoch
            stopping.after_epoch(epoch)

    now = [0]
    states = []
    for cut in (None, 12):
        module = nn.Linear(1, 1, bias=False)
        stopping = EarlyStopping(module, lambda _: accuracies[now[0] - 1], patience=0.5, threshold=0.1, budget=10)
        train(stopping, module, 1, 16 if cut is None else cut)
        if cut is not None:
            other = EarlyStopping(module, lambda _: accuracies[now[0] - 1], patience=0.5, threshold=0.1, budget=10)
            other.load_state_dict(stopping.state_dict())
            train(other, module, cut, 16)
            stopping = other
        states.append(stopping.state_dict())
    torch.testing.assert_close(states[0], states[1], atol=0, rtol=0)
    assert (states[0]["best_epoch"], states[0]["improved"][1], states[0]["converged"]) == (14, 9, True)

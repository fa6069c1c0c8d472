"""Trainings that go on until they have converged: successive halving, equal compute, going on after a kill."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from curriculum import (
    Constant,
    Curriculum,
    EdgeDensity,
    HardestFirst,
    LossMemory,
    Mixture,
    PositionLoss,
    PredictedLoss,
    Ramp,
    Random,
    Residual,
    Scheduler,
    Stepped,
    TrainingContext,
    Uniform,
)
from hpm.data import DigitScenes, Split
from hpm.errors import Notice, TrainingError
from hpm.evaluation import EvaluationContext, FineTune, LowShot
from hpm.evaluation.base import Pretraining
from hpm.evaluation.compute import _OnMeta, equal_epochs
from hpm.evaluation.convergence import train_until_converged
from hpm.evaluation.supervised import SupervisedTraining
from hpm.methods import operations
from hpm.optim.clock import Clock

SETTINGS = {"labels": 40, "batch_size": 10, "test_images": 100, "lr": (1e-3, 4e-3), "trial_epochs": 2}


def test_the_rate_that_does_best_on_validation_images_wins(colors: EvaluationContext) -> None:
    """A rate at which nothing is learned is given up after the first round."""
    evaluation = LowShot(labels=100, batch_size=20)
    started = {}

    def start(lr: float) -> SupervisedTraining:
        started[lr] = evaluation._start(
            colors, torch.arange(100), 0, colors.model, "pretrained", lr, most_epochs=40, budget=None
        )
        return started[lr]

    training, lr = train_until_converged(start, (1e-9, 2e-3, 1e-8), trial_epochs=8)
    assert lr == 2e-3
    assert training is started[lr]
    assert training.epochs > 16
    assert started[1e-9].epochs <= 16
    assert started[1e-8].epochs <= 16


def test_evaluations_stop_as_their_settings_say(colors: EvaluationContext) -> None:
    """Where nothing is learned, half as long again after the warm-up; without a warm-up, after 100 steps."""

    def epochs(**settings: float) -> int:
        evaluation = LowShot(labels=100, batch_size=20, **settings)  # type: ignore[arg-type]
        training = evaluation._start(
            colors, torch.arange(100), 0, colors.model, "pretrained", 1e-9, most_epochs=60, budget=None
        )
        training.run()
        return training.epochs

    assert epochs(threshold=0.9, warmup_epochs=24, patience=0.5, min_epochs=0) == 36
    assert epochs(threshold=0.9, warmup_epochs=24, patience=0.25, min_epochs=0) == 30
    assert epochs(threshold=0.9, warmup_epochs=24, patience=0.25, min_epochs=41) == 41
    assert 20 < epochs(threshold=0.9, warmup_epochs=0, patience=0.5, min_epochs=0) < 36


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
    chosen = [name for name in one if name.startswith("validation/") or name.endswith(("/lr", "/blr", "/epochs"))]
    assert [one[name] for name in chosen] == [other[name] for name in chosen]
    assert one != other


def test_a_rate_at_which_the_loss_is_not_finite_is_given_up(colors: EvaluationContext) -> None:
    settings = {"labels": 100, "batch_size": 20, "epochs": 6, "trial_epochs": 2, "baselines": False}
    metrics = LowShot(lr=(1e20, 2e-3), **settings)(colors)
    assert metrics["low_shot/pretrained/lr"] == 2e-3
    assert LowShot(lr=2e-3, **settings)(colors) == metrics
    with pytest.raises(TrainingError, match="the loss is not finite"):
        LowShot(lr=(1e20, 1e19), **settings)(colors)


def pretrained_for(context: EvaluationContext, steps: int, **settings: object) -> EvaluationContext:
    """As if the model had been trained for so many steps of ten images, of a run of 100."""
    clock = Clock(steps, 25, 4)
    return dataclasses.replace(context, pretraining=Pretraining(clock, 10, "epoch"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("curriculum", "share"),
    [
        (Curriculum(scheduler=Ramp(start=0.0, end=0.5), difficulty=PredictedLoss(), sampler=HardestFirst()), 1),
        (Curriculum(scheduler=Ramp(start=0.5, end=0.0), difficulty=PredictedLoss(), sampler=HardestFirst()), 0.75),
        (
            Curriculum(
                scheduler=Ramp(start=0.0, end=0.5), difficulty=PredictedLoss(), sampler=HardestFirst(), score_every=4
            ),
            0.25,
        ),
        (Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random()), 0),
    ],
)
def test_equal_computation_is_what_the_plan_counts(
    context: EvaluationContext, curriculum: Curriculum, share: float
) -> None:
    """By hand: the teacher's pass counts in the share of the steps that ask it, the student's three times."""
    model = copy.deepcopy(context.model).to("meta")
    work = operations.multiply_adds(_OnMeta(model, curriculum, context.target, 0))
    assert work["teacher"] > 0 or share == 0
    student = work["encoder"] + work["reconstructor"] + work["loss predictor"]
    whole = operations.encoder_multiply_adds(model)
    # Twelve multiply-adds for each token and pair of widths, two for each pair of tokens and width, and the embedding.
    assert whole == 2 * (12 * 17 * 32**2 + 2 * 17**2 * 32) + 16 * 48 * 32
    expected = 100 * 10 * (3 * student + share * work["teacher"]) / (3 * whole * 40)
    trained = pretrained_for(context, 100, curriculum=curriculum)
    assert equal_epochs(trained, labelled=40) == pytest.approx(expected)
    assert equal_epochs(pretrained_for(context, 50, curriculum=curriculum), 40) == pytest.approx(expected / 2)
    assert equal_epochs(dataclasses.replace(context, pretraining=None), 40) is None
    assert trained.pretraining is not None
    dense = dataclasses.replace(trained.pretraining, dense_prediction_every=1)
    work = operations.multiply_adds(_OnMeta(model, curriculum, context.target, 1))
    more = 100 * 10 * (work["dense input"] + 3 * work["dense prediction"]) / (3 * whole * 40)
    assert equal_epochs(dataclasses.replace(trained, pretraining=dense), 40) == pytest.approx(expected + more)


def test_what_a_difficulty_has_kept_does_not_stand_in_the_way(context: EvaluationContext) -> None:
    """What lies on the device of the training is no part of what is counted without data."""
    grid = context.model.grid
    run = TrainingContext(60, 5, 3, context.model.patch_size, grid, torch.device("cpu"), seed=0)
    for difficulty in (
        PositionLoss(),
        Mixture(estimators=[PositionLoss(), EdgeDensity()]),
        Residual(estimator=PredictedLoss()),
        Residual(estimator=LossMemory()),
    ):
        curriculum = Curriculum(scheduler=Constant(value=0.5), difficulty=difficulty, sampler=HardestFirst())
        trained = pretrained_for(context, 100, curriculum=curriculum)
        before = equal_epochs(trained, 40)
        difficulty.prepare(run)
        assert before is not None
        assert equal_epochs(trained, 40) == before
        assert difficulty.module is not None
        assert {tensor.device.type for tensor in difficulty.module.state_dict().values()} == {"cpu"}


def test_a_mask_ratio_that_moves_is_counted_over_the_run(context: EvaluationContext) -> None:
    def epochs(ratio: float | Scheduler) -> float:
        curriculum = Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random(), mask_ratio=ratio)
        found = equal_epochs(pretrained_for(context, 100, curriculum=curriculum), 40)
        assert found is not None
        return found

    assert epochs(Stepped(scheduler=Ramp(start=0.375, end=0.875), steps=2)) == pytest.approx(
        (epochs(0.5) + epochs(0.75)) / 2
    )


def test_from_scratch_has_the_computation_of_both(context: EvaluationContext) -> None:
    """The training from scratch goes on for at least its budget, and the row is the best within it."""
    evaluation = LowShot(**SETTINGS | {"lr": 1e-3}, epochs=20, patience=0.1, min_epochs=7)
    started = {}
    most = {}
    start = evaluation._start

    def watched(*arguments: Any, **settings: Any) -> SupervisedTraining:
        training = start(*arguments, **settings)
        started[arguments[4]] = (training, settings["budget"])
        most[arguments[4]] = settings["most_epochs"]
        return training

    evaluation._start = watched  # type: ignore[method-assign]
    trained = pretrained_for(context, 60)
    metrics = evaluation(trained)
    (pretrained, none), (scratch, budget) = started["pretrained"], started["scratch"]
    assert none is None
    assert pretrained.stopping is not None
    equal = equal_epochs(trained, 40)
    assert equal is not None
    assert 7 <= pretrained.epochs <= 20
    assert budget == pytest.approx(equal + pretrained.stopping.best_epoch)
    assert scratch.epochs >= int(budget)
    assert most == {"pretrained": 20, "scratch": math.ceil(budget) + 20}
    assert metrics["low_shot/scratch_equal_compute/epochs"] <= budget
    assert metrics["low_shot/scratch/epochs"] >= metrics["low_shot/scratch_equal_compute/epochs"]


@pytest.mark.parametrize(
    ("steps", "message"), [(None, "what pre-training computed is not known"), (10**6, "more than LowShot.epochs = 4")]
)
def test_no_row_at_equal_computation_is_told(context: EvaluationContext, steps: int | None, message: str) -> None:
    trained = dataclasses.replace(context, pretraining=None) if steps is None else pretrained_for(context, steps)
    with pytest.warns(Notice, match=message):
        metrics = LowShot(**SETTINGS, epochs=4, draws=2)(trained)
    assert "low_shot/scratch" in metrics
    assert "low_shot/scratch_equal_compute" not in metrics


def test_a_killed_one_goes_on_to_the_same_figures(context: EvaluationContext, tmp_path: Path) -> None:
    """In the middle of the race of learning rates, and of the training from scratch."""
    evaluation, trained = LowShot(**SETTINGS, epochs=10), pretrained_for(context, 30)
    expected = evaluation(trained)

    class Killed(Exception): ...

    for name in ("pretrained-lr0.004: epoch 2/", "scratch-lr0.001: epoch 3/", "scratch-lr0.004: epoch 5/"):

        def kill(line: str, name: str = name) -> None:
            if name in line:
                raise Killed

        with contextlib.suppress(Killed):
            evaluation(dataclasses.replace(trained, folder=tmp_path, report=kill))
    lines: list[str] = []
    assert evaluation(dataclasses.replace(trained, folder=tmp_path, report=lines.append)) == expected
    assert any("going on after epoch" in line for line in lines)

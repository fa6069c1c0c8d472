"""Difficulty estimators made of others."""

from __future__ import annotations

import math

import pytest
from estimators import Given, score

from curriculum import (
    Attention,
    Bandit,
    Constant,
    Curriculum,
    DifficultyEstimator,
    EdgeDensity,
    HardestFirst,
    Mixture,
    Noise,
    PredictedLoss,
    Ramp,
    Smoothed,
    Switched,
    TrueLoss,
    Uniform,
)
from curriculum.testing import DifficultyConformance, TinyTeacher, tiny_batch


class TestMixture(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Mixture(estimators=[PredictedLoss(), TrueLoss(probes=1), EdgeDensity()], weights=[1.0, 2.0, 0.5])


class TestSmoothed(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Smoothed(estimator=TrueLoss(probes=1))


def test_a_mixture_weighs_ranks() -> None:
    first, second = Given([0.0, 10.0, 5.0, math.nan]), Given([1e6, 0.0, math.nan, 5.0])
    batch = tiny_batch(grid=(2, 2))
    found = score(Mixture(estimators=[first, second], weights=[3.0, 1.0]), batch)[0].tolist()
    assert found == pytest.approx([(3 * 0 + 1) / 4, (3 * 1 + 0) / 4, 0.5, 0.5])
    nobody = score(Mixture(estimators=[Given([math.nan, 1.0, 2.0, 3.0])]), batch)[0]
    assert bool(nobody[0].isnan())


def test_smoothing_spreads_and_skips_what_is_not_scored() -> None:
    batch = tiny_batch(grid=(3, 3))
    point = [0.0] * 9
    point[4] = 1.0
    found = score(Smoothed(estimator=Given(point), sigma=1.0), batch)[0].view(3, 3)
    assert float(found[1, 1]) > float(found[0, 1]) > float(found[0, 0]) > 0
    constant = score(Smoothed(estimator=Given([2.0] * 8 + [math.nan])), batch)[0]
    assert constant.tolist() == pytest.approx([2.0] * 9)


def test_a_switch_asks_the_one_that_its_scheduler_names() -> None:
    batch, teacher = tiny_batch(), TinyTeacher()
    switch = Switched(estimators=[PredictedLoss(), Attention()], scheduler=Ramp(start=0.0, end=1.0))
    assert switch.needs == ("predicted_loss", "attention")
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=switch, sampler=HardestFirst())
    for progress in (0.0, 1.0):
        curriculum.draw(batch, teacher, progress, Noise.for_batch(seed=0, step=0, batch_size=4))
    assert teacher.calls == ["predicted_loss", "attention"]
    with pytest.raises(ValueError, match=r"Switched\.scheduler gives 2.0, which is the place of none of 2"):
        Switched(estimators=[PredictedLoss(), Attention()], scheduler=Constant(value=2.0))


def test_schedulers_within_learn_and_are_kept() -> None:
    def build() -> Curriculum:
        switch = Switched(estimators=[Uniform(), EdgeDensity()], scheduler=Bandit(values=[0.0, 1.0]))
        return Curriculum(scheduler=Constant(value=1.0), difficulty=switch, sampler=HardestFirst())

    first, second = build(), build()
    assert list(first.schedulers()) == ["scheduler", "difficulty.scheduler"]
    for loss in (1.0, 0.8, 0.7, 0.3):
        first.observe({"probe_loss": loss})
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict() != build().state_dict()

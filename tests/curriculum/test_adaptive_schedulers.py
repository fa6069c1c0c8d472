"""Competence, restarts, plateaus, and schedulers made of schedulers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.schedulers import (
    Bandit,
    Chained,
    Competence,
    Constant,
    Cyclic,
    Held,
    MetricPaced,
    Plateau,
    Ramp,
    Reversed,
    Scaled,
    Scheduler,
    Stepped,
    WarmRestarts,
    values_of,
)
from curriculum.schedulers.scheduled import restore_states
from curriculum.testing import SchedulerConformance

progress = st.floats(0, 1)


class TestCompetence(SchedulerConformance):
    low, high = 0.0, 0.5

    def build(self) -> Scheduler:
        return Competence()


class TestWarmRestarts(SchedulerConformance):
    low, high = 0.1, 0.6

    def build(self) -> Scheduler:
        return WarmRestarts(low=0.1, high=0.6, cycles=4, growth=1.5, shape="cosine")


class TestPlateau(SchedulerConformance):
    low, high = 0.0, 0.5

    def build(self) -> Scheduler:
        return Plateau(patience=2)


class TestBandit(SchedulerConformance):
    low, high = 0.0, 0.5

    def build(self) -> Scheduler:
        return Bandit(eta=0.1)


class TestReversed(SchedulerConformance):
    low, high = 0.0, 0.5

    def build(self) -> Scheduler:
        return Reversed(scheduler=Ramp())


class TestScaledPlateau(SchedulerConformance):
    low, high = 0.1, 0.6

    def build(self) -> Scheduler:
        return Scaled(scheduler=Plateau(end=1.0, patience=1), factor=0.5, offset=0.1)


class TestHeld(SchedulerConformance):
    low, high = 0.0, 0.5

    def build(self) -> Scheduler:
        return Held(scheduler=Cyclic(), begin=0.2, until=0.8)


class TestChained(SchedulerConformance):
    low, high = 0.0, 0.5

    def build(self) -> Scheduler:
        return Chained(schedulers=[Constant(value=0.0), MetricPaced(), Ramp(start=0.5, end=0.2)])


@pytest.mark.parametrize(
    ("power", "golden"),
    [
        (2, [0.01, 0.5001, 0.7071, 0.866, 1]),
        (3, [0.01, 0.63, 0.7937, 0.9086, 1]),
        (1, [0.01, 0.2575, 0.505, 0.7525, 1]),
    ],
)
def test_competence_is_the_published_one(power: float, golden: list[float]) -> None:
    """Platanios et al. 2019, c0 = 0.01, at progress 0, 1/4, 1/2, 3/4, 1."""
    scheduler = Competence(high=1.0, power=power)
    assert [scheduler(place / 4) for place in range(5)] == pytest.approx(golden, abs=5e-5)
    assert Competence(high=1.0, power=power, until=0.5)(0.7) == 1.0


def test_restarts_grow() -> None:
    scheduler = WarmRestarts(high=1.0, cycles=3, growth=2.0)
    assert [round(scheduler(place / 7), 6) for place in range(8)] == [0, 0, 0.5, 0, 0.25, 0.5, 0.75, 1]


@given(progress)
def test_equal_restarts_are_a_sawtooth(place: float) -> None:
    sawtooth, restarts = Cyclic(cycles=4, rise=1.0), WarmRestarts(cycles=4, growth=1.0)
    assert restarts(place) == pytest.approx(sawtooth(place), abs=1e-9)


def test_a_plateau_raises_the_value() -> None:
    scheduler = Plateau(start=0.1, end=0.35, step=0.1, patience=2, threshold=0.01)

    def see(*losses: float) -> float:
        for loss in losses:
            scheduler.observe({"reconstruction_loss": loss})
        return scheduler(0.0)

    assert see(1.0, 0.9, 0.8) == 0.1  # it improves
    assert see(0.799) == 0.1  # by less than a hundredth, once
    assert see(0.798) == pytest.approx(0.2)
    assert see(float("nan")) == pytest.approx(0.2)
    assert see(0.9, 0.9) == pytest.approx(0.3)  # harder masks, a new level
    assert see(0.7, 0.6) == pytest.approx(0.3)
    assert see(0.6, 0.6, 0.6, 0.6) == pytest.approx(0.35)


def test_a_plateau_of_an_accuracy() -> None:
    scheduler = Plateau(start=0.5, end=0.0, step=0.2, metric="prediction_accuracy", rises=True, patience=1)
    for value in (0.5, 0.6, 0.6):
        scheduler.observe({"prediction_accuracy": value})
    assert scheduler(0.0) == pytest.approx(0.3)
    assert scheduler.watches == ("prediction_accuracy",)
    with pytest.raises(ValueError, match=r"Plateau.metric = 'prediction_accuracy' is not measured; choose one of"):
        scheduler.observe({"loss": 1.0})


def exp3s(weights: np.ndarray, arm: int, reward: float, t: int, *, eta: float, epsilon: float) -> np.ndarray:
    """Graves et al. 2017, as written, in plain numbers."""
    count = len(weights)
    pi = (1 - epsilon) * np.exp(weights) / np.exp(weights).sum() + epsilon / count
    gain = np.where(np.arange(count) == arm, reward, 0.0) / pi
    grown = np.exp(weights + eta * gain)
    return np.log((1 - 1 / t) * grown + (1 / t) / (count - 1) * (grown.sum() - grown))


@pytest.mark.parametrize(("eta", "updates"), [(0.5, 38), (1e-3, 1500)])
def test_the_bandit_is_exp3s(eta: float, updates: int) -> None:
    """With the published eta too, and longer than what it remembers of its progress."""
    scheduler = Bandit(values=[0.0, 0.3, 0.6], eta=eta, epsilon=0.1, seed=3)
    generator, losses = np.random.default_rng(0), [1.0]
    weights, progress = np.zeros(3), []
    scheduler.observe({"probe_loss": losses[0]})
    for t in range(2, updates + 2):
        arm = scheduler.values.index(scheduler(0.5))
        losses.append(losses[-1] - generator.normal(0.01, 0.02))
        scheduler.observe({"probe_loss": losses[-1]})
        progress = [*progress[-999:], losses[-2] - losses[-1]]
        low, high = np.quantile(progress, [0.2, 0.8])
        reward = 0.0 if high <= low else float(np.clip(2 * (progress[-1] - low) / (high - low) - 1, -1, 1))
        weights = exp3s(weights, arm, reward, t, eta=eta, epsilon=0.1)
        assert scheduler.state_dict()["weights"] == pytest.approx(weights.tolist())


def test_the_bandit_prefers_what_it_learns_from() -> None:
    """A learner that improves under one value only is given that value more and more."""
    scheduler, loss = Bandit(values=[0.0, 0.25, 0.5], eta=0.2, seed=1), 100.0
    played = []
    for _ in range(400):
        played.append(scheduler(0.0))
        loss -= 0.1 if played[-1] == 0.25 else 0.0
        scheduler.observe({"probe_loss": loss})
    assert played[-200:].count(0.25) > 120
    assert sum(scheduler.probabilities()) == pytest.approx(1)
    assert min(scheduler.probabilities()) >= 0.05 / 3 - 1e-12


def preference(updates: int, seed: int, **settings: float) -> float:
    """The probability, after so many updates, of the one of three values under which alone a learner improves."""
    scheduler, loss = Bandit(seed=seed, **settings), 1000.0
    scheduler.observe({"probe_loss": loss})
    for _ in range(updates):
        loss -= scheduler(0.0) == 0.25
        scheduler.observe({"probe_loss": loss})
    return scheduler.probabilities()[1]


def test_the_bandit_learns_within_a_short_run() -> None:
    """31 updates: the quickstart's. With the rate that was published for 1e5 updates it would play at random."""
    default, published = ([preference(31, seed, **settings) for seed in range(40)] for settings in ({}, {"eta": 1e-3}))
    assert np.median(default) > 0.8
    assert np.quantile(default, 0.1) > 0.75
    assert np.allclose(published, 1 / 3, atol=0.01)


def test_the_published_rate_learns_in_a_long_run() -> None:
    assert preference(5000, 0, eta=1e-3) > 0.75


@given(progress)
def test_backwards(place: float) -> None:
    assert Reversed(scheduler=Ramp(start=0.2, end=0.7))(place) == pytest.approx(Ramp(start=0.7, end=0.2)(place))


@given(progress)
def test_hold_is_a_delayed_ramp(place: float) -> None:
    held = Held(scheduler=Ramp(shape="cosine"), begin=0.25, until=0.75)
    assert held(place) == pytest.approx(Ramp(shape="cosine", begin=0.25, until=0.75)(place))


def test_a_chain_goes_from_one_to_the_next() -> None:
    chain = Chained(schedulers=[Ramp(end=0.4), Constant(value=0.1), Ramp(start=0.4, end=0.0)], boundaries=[0.5, 0.6])
    assert [chain(place) for place in (0.0, 0.25, 0.5, 0.55, 0.6, 0.8, 1.0)] == pytest.approx(
        [0.0, 0.2, 0.1, 0.1, 0.4, 0.2, 0.0]
    )


def test_what_follows_feedback_is_heard_within() -> None:
    chain = Chained(schedulers=[MetricPaced(metric="loss"), Plateau(metric="prediction_loss")])
    assert chain.watches == ("loss", "prediction_loss")


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Competence(initial=0.0), "Competence.initial = 0.0"),
        (lambda: Competence(power=0.5), "Competence.power = 0.5"),
        (lambda: Competence(until=0.0), "Competence.until = 0.0"),
        (lambda: WarmRestarts(cycles=0), "WarmRestarts.cycles = 0"),
        (lambda: WarmRestarts(growth=0.0), "WarmRestarts.growth = 0.0"),
        (lambda: WarmRestarts(cycles=2**62), "WarmRestarts.cycles = 4611686018427387904"),
        (lambda: WarmRestarts(cycles=100, growth=1e30), "WarmRestarts.growth = 1e.30 cannot be told apart"),
        (lambda: WarmRestarts(growth=1e-30), "WarmRestarts.growth = 1e-30 cannot be told apart"),
        (lambda: Bandit(eta=1e30), "Bandit.eta = 1e.30 must lie in"),
        (lambda: WarmRestarts(shape="x"), "WarmRestarts.shape = 'x' is unknown"),
        (lambda: Plateau(step=0.0), "Plateau.step = 0.0"),
        (lambda: Plateau(patience=0), "Plateau.patience = 0"),
        (lambda: Plateau(threshold=-1.0), "Plateau.threshold = -1.0"),
        (lambda: Bandit(values=[0.5]), "at least two values"),
        (lambda: Bandit(eta=0.0), "Bandit.eta = 0.0"),
        (lambda: Bandit(beta=-1.0), "Bandit.beta = -1.0"),
        (lambda: Bandit(epsilon=0.0), "Bandit.epsilon = 0.0"),
        (lambda: Reversed(scheduler=0.5), "Reversed.scheduler must be a Scheduler, got 0.5"),
        (lambda: Held(scheduler=Ramp(), begin=0.5, until=0.5), "Held.begin = 0.5"),
        (lambda: Chained(schedulers=[]), "at least one"),
        (lambda: Chained(schedulers=[Ramp(), Ramp()], boundaries=[0.2, 0.4]), "must be 1 for 2 schedulers"),
        (lambda: Chained(schedulers=[Ramp(), Ramp()], boundaries=[1.0]), "must ascend within"),
    ],
)
def test_refuses(build: object, told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("(", r"\(")):
        build()


def test_a_stepped_scheduler_uses_every_value() -> None:
    stepped = Stepped(scheduler=Ramp(start=0.0, end=1.0), steps=4)
    assert [stepped((epoch + 1) / 4) for epoch in range(4)] == [0.125, 0.375, 0.625, 0.875]
    assert stepped(0.0) == 0.125


@pytest.mark.parametrize(
    ("scheduler", "farthest"),
    [
        (Ramp(), []),
        (Plateau(start=0.2, end=3.0), [("Plateau.start", 0.2), ("Plateau.end", 3.0)]),
        (Scaled(scheduler=Bandit(values=(0.5, 1.5)), factor=2.0), [("Bandit.values", 1.0), ("Bandit.values", 3.0)]),
        (Held(scheduler=MetricPaced(end=0.4)), [("MetricPaced.start", 0.0), ("MetricPaced.end", 0.4)]),
    ],
)
def test_where_feedback_may_lead_is_known_before(scheduler: Scheduler, farthest: list[tuple[str, float]]) -> None:
    assert scheduler.reaches() == farthest
    assert set(dict(farthest).values()) <= {0.2, *values_of(scheduler)}


@pytest.mark.parametrize(
    ("scheduler", "state"),
    [
        (Plateau(), {"best": "x", "since": 0, "steps": 0}),
        (Plateau(), {"best": None, "since": True, "steps": 0}),
        (Plateau(), {"best": None, "since": 0, "steps": [1]}),
        (Bandit(), {"weights": ["a", 0.0, 0.0], "interval": 0, "last": None, "progress": []}),
        (MetricPaced(), {"reference": None, "average": None}),
        (Reversed(scheduler=Plateau()), {"inner": [{"best": "x", "since": 0, "steps": 0}]}),
    ],
)
def test_a_state_of_other_kinds_is_refused(scheduler: Scheduler, state: dict[str, object]) -> None:
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match="what was observed does not fit alpha"):
        restore_states({"alpha": scheduler}, {"alpha": state})
    assert scheduler.state_dict() == before

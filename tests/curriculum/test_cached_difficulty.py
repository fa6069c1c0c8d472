"""Scores that are kept and moved to other crops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from estimators import Given, crop, score, train, training_context

from curriculum import (
    Attention,
    Cached,
    DifficultyEstimator,
    EdgeDensity,
)
from curriculum.testing import DifficultyConformance, tiny_batch


class TestCached(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Cached(estimator=Attention())


def cached(**changes: object) -> Cached:
    estimator = Cached(estimator=EdgeDensity(), **{"every": 2, "period": "epoch", **changes})  # type: ignore[arg-type]
    estimator.prepare(training_context())
    return estimator


def test_a_cache_asks_in_its_epochs_alone() -> None:
    assert [cached().asks(step, 5) for step in (0, 4, 5, 9, 10)] == [True, True, False, False, True]
    assert [cached(start=1).asks(step, 5) for step in (0, 4, 5, 9, 10)] == [False, False, True, True, False]
    assert [cached(period="step", every=3).asks(step, 5) for step in range(5)] == [True, False, False, True, False]


def test_the_same_crop_has_the_same_scores_later() -> None:
    estimator, batch = cached(), tiny_batch(num_images=3)
    seen = crop(batch, [7, 150, 20], [3.0, 5.0, 40.0, 30.0])
    scores = train(estimator, seen, step=0)
    other = crop(replace(batch, images=batch.images * 0), [20, 7, 150], [3.0, 5.0, 40.0, 30.0])
    later = score(estimator, other, step=5)
    assert torch.allclose(later, scores[[2, 0, 1]], rtol=2e-3)
    never = score(estimator, crop(batch, [1, 2, 7], [3.0, 5.0, 40.0, 30.0]), step=6)
    assert bool(never[:2].isnan().all()) and not bool(never[2].isnan().any())  # noqa: PT018


def test_a_score_that_is_infinite_costs_an_image_no_others() -> None:
    estimator = Cached(estimator=Given([1.0, torch.inf, 3.0, -torch.inf] * 4), every=2)
    estimator.prepare(training_context())
    batch = crop(tiny_batch(num_images=1), [7], [0.0, 0.0, 40.0, 40.0])
    train(estimator, batch, step=0)
    assert score(estimator, batch, step=5)[0].nan_to_num(99.0).tolist() == [1.0, 99.0, 3.0, 99.0] * 4


def test_scores_move_with_crop_and_flip() -> None:
    """A ramp from left to right over an image of 40 x 40 pixels."""
    estimator = Cached(estimator=Given([(patch % 4) / 4 + 0.25 for patch in range(16)]), every=2)
    estimator.prepare(training_context())
    batch = tiny_batch(num_images=2)
    train(estimator, crop(batch, [0, 1], [0.0, 0.0, 40.0, 40.0]), step=0)
    right_half = score(estimator, crop(batch, [0, 1], [20.0, 0.0, 20.0, 40.0]), step=5)[0].view(4, 4)
    assert right_half[0].tolist() == pytest.approx([0.75, 0.75, 1.0, 1.0], abs=1e-3)
    mirrored = score(estimator, crop(batch, [0, 1], [0.0, 0.0, 40.0, 40.0], flip=True), step=5)[0].view(4, 4)
    assert mirrored[0].tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=1e-3)
    beyond = score(estimator, crop(batch, [0, 1], [20.0, 0.0, 40.0, 40.0]), step=5)[0].view(4, 4)
    assert beyond[0, :2].tolist() == pytest.approx([0.75, 1.0], abs=1e-3)
    assert bool(beyond[:, 2:].isnan().all())
    train(estimator, crop(batch, [0, 1], [0.0, 0.0, 40.0, 40.0], flip=True), step=10)  # the mirror image is scored
    upright = score(estimator, crop(batch, [0, 1], [0.0, 0.0, 40.0, 40.0]), step=15)[0].view(4, 4)
    assert upright[0].tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=1e-3)


def test_what_is_cached_survives_a_checkpoint() -> None:
    first, second = cached(), cached()
    batch = crop(tiny_batch(num_images=3), [7, 150, 20], [3.0, 5.0, 40.0, 30.0])
    train(first, batch, step=0)
    assert first.module is not None and second.module is not None  # noqa: PT018
    second.module.load_state_dict(first.module.state_dict())
    assert torch.equal(score(first, batch, step=5), score(second, batch, step=5))


def test_a_cache_keeps_scale_and_small_numbers() -> None:
    estimator = Cached(estimator=Given([0.0, 1.0, 2.0, 3.0, 4.0, 5.0] + [-7.5] * 10), every=2)
    estimator.prepare(training_context())
    batch = crop(tiny_batch(num_images=3), [7, 150, 20], [3.0, 5.0, 40.0, 30.0])
    assert torch.equal(train(estimator, batch, step=0), score(estimator, batch, step=5))


def test_asking_about_an_image_keeps_nothing() -> None:
    """Evaluations ask too; a run must not depend on whether it is watched."""
    estimator, batch = cached(), crop(tiny_batch(num_images=3), [7, 150, 20], [3.0, 5.0, 40.0, 30.0])
    score(estimator, batch, step=0)
    assert bool(score(estimator, batch, step=5).isnan().all())

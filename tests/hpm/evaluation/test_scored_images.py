"""Evaluations say over how many images their accuracies are, and every accuracy is a multiple of one over that."""

from __future__ import annotations

import pytest

from hpm.evaluation import KNN, Agreement, Evaluation, EvaluationContext, FineTune, Linear, LowShot, Ridge
from hpm.metrics import Unit

ALL = 120  # test images of the fixture's source


@pytest.mark.parametrize(
    ("evaluation", "images"),
    [
        (KNN(k=[3, 5], test_images=37, baselines=True), 37),
        (KNN(k=3), ALL),
        (Ridge(train_images=100, test_images=29, strengths=[1.0]), 29),
        (Linear(train_images=100, test_images=29, strengths=[1.0]), 29),
        (FineTune(epochs=1, batch_size=40, warmup_epochs=0, precision="fp32", test_images=31), 31),
    ],
)
def test_every_accuracy(context: EvaluationContext, evaluation: Evaluation, images: int) -> None:
    metrics = evaluation.measure(context)
    accuracies = {name: value for name, value in metrics.items() if evaluation.find_metric(name).unit is Unit.ACCURACY}  # type: ignore[union-attr]
    assert context.scored_images == dict.fromkeys(accuracies, images)
    for value in accuracies.values():
        assert value * images == pytest.approx(round(value * images), abs=1e-4)


def test_a_mean_over_draws_counts_its_images_for_each(context: EvaluationContext) -> None:
    metrics = LowShot(labels=50, draws=3, epochs=1, batch_size=25, test_images=21).measure(context)
    accuracies = {name for name in metrics if LowShot.find_metric(name).unit in (Unit.ACCURACY, Unit.POINTS)}
    expected = {name for name in accuracies if not name.endswith("/interval")}
    assert context.scored_images.keys() == expected
    for name in expected:
        images = 21 if "/draw" in name else 63
        assert context.scored_images[name] == images
        assert metrics[name] * images == pytest.approx(round(metrics[name] * images), abs=1e-4)


def test_what_is_no_share_of_images_is_not_in_it(context: EvaluationContext) -> None:
    assert Agreement(images=8).measure(context)
    assert context.scored_images == {}

"""Low-shot fine-tuning: shares of the labels, intervals, and memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hpm.data import DigitScenes, Split, TensorSplit
from hpm.evaluation import EvaluationContext, LowShot
from hpm.evaluation.few_labels import draw_labels
from hpm.metrics import half_interval

QUICK = {"epochs": 1, "batch_size": 10, "test_images": 60, "lr": 1e-3}


def test_a_fraction_is_each_class_s_share(source: DigitScenes) -> None:
    labels = source.train().labels
    assert labels is not None
    counts = LowShot(fraction=0.1, **QUICK)._per_class(source)
    assert counts == [max(1, round(0.1 * count)) for count in torch.bincount(labels).tolist()]
    drawn = draw_labels(labels, counts, 10, seed=0)
    assert torch.bincount(labels[drawn], minlength=10).tolist() == counts
    assert LowShot(fraction=0.001, **QUICK)._per_class(source) == [1] * 10


def test_as_labels_where_classes_are_equal(context: EvaluationContext) -> None:
    images = torch.randint(0, 256, (200, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)

    class Even(DigitScenes):
        def read(self, split: str) -> Split:  # type: ignore[override]
            return TensorSplit(images, torch.arange(10).repeat(20)) if split == "train" else super().read(split)

    even = dataclasses.replace(context, source=Even(img_size=16, train_size=200, test_size=120))
    settings = QUICK | {"draws": 1, "baselines": False}
    assert LowShot(fraction=0.1, **settings)(even) == LowShot(labels=20, **settings)(even)


def test_the_interval_is_students(context: EvaluationContext) -> None:
    metrics = LowShot(labels=20, draws=3, **QUICK)(context)
    for name in ("pretrained", "scratch", "raw_pixels", "gain"):
        draws = [metrics[f"low_shot/{name}/draw{number}"] for number in range(3)]
        assert metrics[f"low_shot/{name}"] == pytest.approx(sum(draws) / 3)
        assert metrics[f"low_shot/{name}/interval"] == half_interval(draws)


def test_no_more_than_a_step_is_augmented_at_once(context: EvaluationContext) -> None:
    largest = 0

    class Watched(TensorSplit):
        def crop(self, indices_N, boxes_N4, flips_N, size):  # type: ignore[no-untyped-def]
            nonlocal largest
            largest = max(largest, len(indices_N))
            return super().crop(indices_N, boxes_N4, flips_N, size)

    images = torch.zeros(100, 3, 16, 16, dtype=torch.uint8)
    split = Watched(images, torch.arange(10).repeat(10))

    class Watching(DigitScenes):
        def read(self, name: str) -> Split:  # type: ignore[override]
            return split if name == "train" else super().read(name)

    watching = dataclasses.replace(context, source=Watching(img_size=16, train_size=100, test_size=120))
    LowShot(labels=100, draws=1, baselines=False, **QUICK)(watching)
    assert largest == QUICK["batch_size"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": 100, "fraction": 0.1}, "say the same thing twice; set one to None"),
        ({"fraction": 0.0}, "LowShot.fraction = 0.0"),
        ({"fraction": 1.5}, "LowShot.fraction = 1.5"),
        ({"draws": 0}, "LowShot.draws = 0"),
        ({"warmup_epochs": -1}, "LowShot.warmup_epochs = -1"),
        ({"lr": ()}, r"LowShot.lr = \(\) must be a positive number, or several to choose from"),
        ({"lr": (1e-3, 0.0)}, "LowShot.lr = 0.0"),
        ({"lr": (1e-3, 1e-3)}, "LowShot.lr = .* must name each number once"),
        ({"patience": 0}, "LowShot.patience = 0"),
        ({"threshold": 1.0}, "LowShot.threshold = 1.0"),
        ({"trial_epochs": 0}, "LowShot.trial_epochs = 0"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowShot(**arguments)


def test_refuses_too_small_a_fraction(context: EvaluationContext) -> None:
    with pytest.raises(ValueError, match=r"LowShot.batch_size = 50 is more than the \d+ images that LowShot.fraction"):
        LowShot(fraction=0.05).check(context.source, context.model)

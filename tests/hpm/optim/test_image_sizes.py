"""The size of the images of each epoch."""

from __future__ import annotations

import math
import re

import pytest

from curriculum import Constant, MetricPaced, Piecewise, Ramp, Scheduler
from curriculum.schedulers import Scalar
from curriculum.sizes import Size
from hpm.optim.image_sizes import ImageSizes


def sizes(size: Scalar | None, *, epochs: int = 10, img_size: Size = 224, patch_size: Size = 16) -> ImageSizes:
    return ImageSizes(size, img_size=img_size, patch_size=patch_size, epochs=epochs)


def of_all_epochs(found: ImageSizes, epochs: int = 10) -> list[Size]:
    return [found.at(epoch) for epoch in range(epochs)]


def test_each_epoch_has_the_multiple_of_a_patch_that_is_nearest_at_its_end() -> None:
    found = sizes(Ramp(start=112, end=224), epochs=800)
    assert of_all_epochs(found, 800) == [
        16 * math.floor((112 + 112 * (epoch + 1) / 800) / 16 + 0.5) for epoch in range(800)
    ]
    assert found.all == [112, 128, 144, 160, 176, 192, 208, 224]
    assert found.at(799) == found.largest == 224
    assert sum(found.share(size) for size in found.all) == pytest.approx(1)
    assert [len(found.epochs_of(size)) for size in found.all] == [57, 114, 114, 114, 115, 114, 114, 58]
    assert (found.has_others, found.describe()) == (True, "112 -> 224")


def test_a_size_may_come_back() -> None:
    """As where resolution first falls and then rises."""
    there_and_back = Piecewise(points=((0.0, 192.0), (0.5, 96.0), (1.0, 192.0)))
    found = sizes(there_and_back, epochs=5)
    assert of_all_epochs(found, 5) == [160, 112, 112, 160, 192]
    assert found.all == [160, 112, 192]
    assert (found.epochs_of(112), found.share(112)) == ([1, 2], 0.4)


@pytest.mark.parametrize("size", [None, 224, 224.0, 217, Constant(value=224.0)])
def test_the_models_own_size_is_no_other(size: Scalar | None) -> None:
    found = sizes(size)
    assert of_all_epochs(found) == [224] * 10
    assert (found.has_others, found.all, found.describe()) == (False, [224], "224")


def test_a_constant_size() -> None:
    found = sizes(128)
    assert (found.has_others, found.all, found.largest, found.describe()) == (True, [128], 128, "128")


def test_the_width_is_in_proportion_to_the_height() -> None:
    found = sizes(Ramp(start=8, end=16), img_size=(16, 24), patch_size=(4, 8), epochs=4)
    assert of_all_epochs(found, 4) == [(12, 16), (12, 16), (16, 24), (16, 24)]  # of 10, 12, 14, 16 by 15, 18, 21, 24
    assert found.describe() == "12 x 16 -> 16 x 24"
    assert sizes(12, img_size=(16, 24), patch_size=(4, 12)).all == [(12, 24)]


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (7, "Trainer.image_size = 7 must be a number of pixels from 16, a patch, to 224: the images and the model"),
        (-32, "Trainer.image_size = -32 must be"),
        (math.nan, "Trainer.image_size = nan must be"),
        (math.inf, "Trainer.image_size = inf must be"),
        (225, "Trainer.image_size = 225 must be a number of pixels from 16, a patch, to 224"),
        (Ramp(end=224), "Trainer.image_size = 0 must be"),
        (Ramp(start=112, end=256), "Trainer.image_size = 224.32 must be"),
        (MetricPaced(), "Trainer.image_size = MetricPaced follows what is learned; it can follow time alone"),
        ("224", "Trainer.image_size"),
    ],
)
def test_what_is_no_size_is_refused(size: Scalar | Scheduler, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        sizes(size)

"""ShownImages: how often easy and hard images were trained on, counted anew from what a run recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hpm.data import UnreadableImages
from hpm.errors import Notice
from hpm.evaluation import ShownImages
from hpm.inference.loading import LoadedModel, load_model


@pytest.fixture
def model(pretrained: Callable[..., Path]) -> LoadedModel:
    """160 training images, of which the harder ones are shown more often."""
    return load_model(
        pretrained(
            "Method.image_curriculum = @ImageCurriculum()",
            "ImageCurriculum.difficulty = @ImageLoss()",
            "ImageCurriculum.selection = @ImageWeights()",
            "ImageCurriculum.polarity = 'hardest'",
            "ImageWeights.beta = 1.0",
            "Monitoring.evaluations = []",
        )
    )


def test_quarters_are_counted_image_by_image(model: LoadedModel) -> None:
    context = model.context()
    images = context.image_curriculum
    assert images is not None
    metrics = ShownImages()(context)
    shown, scores = images.shown.tolist(), images.scores.tolist()
    order = sorted(range(160), key=lambda image: scores[image])
    mean = math.fsum(shown) / 160
    assert mean == 4.0  # epochs
    for name, quarter in (("easiest_quarter", order[:40]), ("hardest_quarter", order[120:])):
        expected = math.fsum(shown[image] for image in quarter) / 40 / mean
        assert metrics[f"shown_images/{name}"] == pytest.approx(expected)
    assert metrics["shown_images/most"] == max(shown) / mean
    assert metrics["shown_images/never"] == shown.count(0) / 160


def test_the_gallery_goes_from_the_easiest_to_the_hardest(model: LoadedModel) -> None:
    context = model.context()
    images = context.image_curriculum
    assert images is not None
    ShownImages()(context)
    gallery = context.galleries["shown-images"]
    first, last = int(images.scores.argmin()), int(images.scores.argmax())
    expected = context.source.denormalize(context.source.load(context.source.train(), torch.tensor([first, last])))
    torch.testing.assert_close(gallery.pixels[[0, -1]], expected)
    assert gallery.notes[0] == f"{float(images.scores[first]):.3g}, shown {int(images.shown[first])} times"
    assert len(gallery.notes) == len(gallery.pixels)


def test_what_was_never_scored_has_no_quarters(model: LoadedModel) -> None:
    context = model.context()
    images = context.image_curriculum
    assert images is not None
    images.allocate(160, torch.device("cpu"))
    images.shown[:80] = 2
    metrics = ShownImages()(context)
    assert metrics == {"shown_images/never": 0.5, "shown_images/most": 2.0}
    images.shown.zero_()
    assert ShownImages()(context) == {"shown_images/never": 1.0, "shown_images/most": 0.0}


def test_without_an_image_curriculum_nothing_is_measured(pretrained: Callable[..., Path]) -> None:
    context = load_model(pretrained("Monitoring.evaluations = []")).context()
    with pytest.warns(Notice, match=r"measures nothing where no run with a Method.image_curriculum is at hand"):
        assert ShownImages()(context) == {}


def test_other_images_than_the_run_showed_are_not_measured(pretrained: Callable[..., Path], model: LoadedModel) -> None:
    assert model.run is not None
    other = load_model(model.run.path, bindings=["DigitScenes.train_size = 100"])
    with pytest.warns(Notice, match="measures nothing of 100 training images, for the run showed 160"):
        assert ShownImages()(other.context()) == {}


def test_it_lets_others_stand_in_for_unreadable_images(model: LoadedModel) -> None:
    context = model.context()
    assert isinstance(context.unreadable, UnreadableImages)
    images = context.image_curriculum
    assert images is not None
    easiest = int(images.scores.argmin())
    context.unreadable.by_index[easiest] = "torn"
    ShownImages()(context)
    stand_in = (easiest + 1) % 160
    pixels = context.source.denormalize(context.source.load(context.source.train(), torch.tensor([stand_in])))
    torch.testing.assert_close(context.galleries["shown-images"].pixels[:1], pixels)

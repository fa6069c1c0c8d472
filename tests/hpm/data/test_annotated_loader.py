"""What is annotated in crops comes with them, from the processes that load them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.data import AnnotatedBatch, Loader, RandomResizedCrop, SegmentationFolder, annotated_views
from hpm.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve pictures of random classes, whose color is their class."""
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 1)):
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for number in range(count):
            classes = random.integers(0, 5, (6, 8), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            pixels = np.stack([classes * 40] * 3, axis=2)
            Image.fromarray(pixels).save(tmp_path / part / "images" / f"{number:02}.png")
            Image.fromarray(classes).save(tmp_path / part / "masks" / f"{number:02}.png")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    return tmp_path


def make(root: Path, num_workers: int, **settings: float) -> tuple[Loader, SegmentationFolder]:
    source = SegmentationFolder(root=root, img_size=(16, 24), validation_images=0)
    annotate = partial(annotated_views.class_maps_in, source.train(), size=source.img_size)
    crop, sizes = RandomResizedCrop(scale=(0.3, 1.0), flip=0.5), {"batch_size": 4, "patch_size": 8, "seed": 3}
    return Loader(source=source, crop=crop, num_workers=num_workers, annotate=annotate, **sizes, **settings), source


def batches_of(loader: Loader) -> list[AnnotatedBatch]:
    batches = [batch for step in loader.epoch(1) for batch in step]
    assert all(isinstance(batch, AnnotatedBatch) for batch in batches)
    return batches


def class_maps_of(batch: AnnotatedBatch, source: SegmentationFolder) -> torch.Tensor:
    """Of the crops that the batch says it shows."""
    assert batch.indices is not None
    assert batch.boxes is not None
    assert batch.flips is not None
    crops = batch.indices, batch.boxes, batch.flips
    return annotated_views.class_maps_in(source.train(), *crops, source.img_size)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_annotations_are_of_the_crops(root: Path, num_workers: int) -> None:
    loader, source = make(root, num_workers)
    batches = batches_of(loader)
    assert len(batches) == 3
    for batch in batches:
        assert torch.equal(batch.annotations, class_maps_of(batch, source))
        # Both show the same place, mirrored where the other is; their resampling differs at borders alone.
        colors_NSS = source.denormalize(batch.images)[:, 0] * 255 / 40
        assert ((colors_NSS - batch.annotations).abs() < 0.1).float().mean() > 0.5


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_stands_in_for_an_unreadable_image_has_its_own_annotations(root: Path, num_workers: int) -> None:
    (root / "train" / "images" / "05.png").write_text("no picture")
    loader, source = make(root, num_workers, max_unreadable=0.2)
    batches = batches_of(loader)
    seen_N = torch.cat([batch.indices for batch in batches if batch.indices is not None])
    assert (seen_N == 5).sum() == 0
    assert (seen_N == 6).sum() == 2
    for batch in batches:
        assert torch.equal(batch.annotations, class_maps_of(batch, source))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mask_that_cannot_be_read_ends_in_a_sentence(root: Path, num_workers: int) -> None:
    (root / "train" / "masks" / "07.png").write_text("no picture")
    loader, _ = make(root, num_workers)
    with pytest.raises(UserError, match=r"masks/07\.png"):
        batches_of(loader)

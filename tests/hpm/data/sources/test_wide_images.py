"""Sources of images that are not square: what is cropped, shown and drawn of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from hpm.data import Composites, ImageFolder, ImageSource, Loader, RandomResizedCrop, TimmDataset
from hpm.data.crops import central_boxes
from hpm.errors import UserError

Folders = Callable[..., dict[str, str]]
SIZE = (16, 24)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth images in two classes, wide ones and high ones, to train on and to validate."""
    folder = tmp_path_factory.mktemp("wide")
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, size in (("wide", (90, 40)), ("high", (40, 70))):
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                small = Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8))
                small.resize(size, Image.Resampling.BICUBIC).save(folder / split / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("kind", [ImageFolder, TimmDataset])
@pytest.mark.parametrize("size", [(28, 42), (42, 28), 28])
def test_evaluation_sees_what_timms_transform_shows(
    kind: type[ImageSource], size: int | tuple[int, int], root: Path
) -> None:
    extra = {} if kind is ImageFolder else {"test_split": "val"}
    source = kind(root=root, img_size=size, **extra)  # type: ignore[call-arg]
    sides = (size, size) if isinstance(size, int) else size
    theirs = create_transform((3, *sides), crop_pct=0.875, interpolation="bicubic", mean=source.mean, std=source.std)
    images = source.load(source.test(), torch.arange(8))
    paths = [path for name in ("high", "wide") for path in sorted((root / "val" / name).iterdir())]
    expected = torch.stack([theirs(Image.open(path)) for path in paths])
    assert images.shape == (8, 3, *sides)
    assert float((images - expected).abs().mean()) < 0.06  # timm rounds where it crops


def test_the_largest_box_touches_the_border() -> None:
    sizes_N2 = torch.randint(1, 3000, (2000, 2), generator=torch.Generator().manual_seed(0))
    boxes_N4 = central_boxes(sizes_N2, 1.0, (67, 97))
    assert (boxes_N4[:, :2] >= 0).all()
    assert (boxes_N4[:, :2] + boxes_N4[:, 2:] <= sizes_N2.flip(1)).all()
    assert ((boxes_N4[:, 2:] == sizes_N2.flip(1)).any(dim=1)).all()
    torch.testing.assert_close(boxes_N4[:, 2] * 67, boxes_N4[:, 3] * 97, rtol=1e-5, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_wide_patches(workers: int, root: Path) -> None:
    loader = Loader(
        source=ImageFolder(root=root, img_size=SIZE, validation_images=0),
        batch_size=4,
        patch_size=(4, 8),
        crop=RandomResizedCrop(),
        seed=0,
        num_workers=workers,
    )
    ((batch,), *_) = loader.epoch(0)
    assert batch.images.shape == (4, 3, *SIZE)
    assert batch.grid == (4, 3)
    with pytest.raises(ValueError, match=r"Loader\.patch_size = \(8, 16\) must divide the image size, 16 x 24 pixels"):
        Loader(source=loader.source, batch_size=4, patch_size=(8, 16), crop=loader.crop, seed=0)


def test_wide_scenes(composite_folders: Folders) -> None:
    few = {"train_size": 30, "validation_size": 6, "test_size": 6}
    scenes = Composites(**composite_folders(), img_size=(24, 36), **few)
    split, indices_N = scenes.train(), torch.arange(30)
    masks_NSS = scenes.object_masks(split, indices_N)
    images = split.images(indices_N)
    assert images.shape == (30, 3, 24, 36)
    assert masks_NSS.shape == (30, 24, 36)
    assert (images[:, 2][~masks_NSS] > 0).float().mean() > 0.8  # photographs are blue, and objects have none
    assert (images[:, 2][masks_NSS] < 128).float().mean() > 0.8
    assert masks_NSS.any(dim=0).any(dim=0).float().mean() > 0.9, "objects are anywhere"
    map_NL = scenes.object_map(split, indices_N, patch_size=(6, 12))
    cells_NRPKP = masks_NSS.float().view(30, 4, 6, 3, 12)
    assert torch.equal(map_NL, cells_NRPKP.mean(dim=(2, 4)).flatten(1) >= 0.25)


def test_photographs_that_are_too_low_or_too_narrow_are_refused(composite_folders: Folders) -> None:
    for size in ((71, 40), (20, 121)):
        scenes = Composites(**composite_folders(), img_size=size, train_size=3)
        with pytest.raises(UserError, match=rf"too few for scenes of {size[1]} x {size[0]} pixels \(width x height\)"):
            scenes.train().prepare()

"""StampScenes: what its list says, and the real files where they are installed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.data import SPLITS, StampScenes
from hpm.data.sources.composite_files import digest_of, read_cutout, read_photograph
from hpm.data.sources.stamp_scenes import PACKAGES, photographs, stamps
from hpm.errors import UserError


def test_the_list() -> None:
    files = [path for paths in stamps().values() for path in paths]
    assert len(stamps()) == StampScenes().num_classes == 100
    assert (len(files), len(photographs())) == (140, 42)
    assert len({*files, *photographs()}) == 182
    assert all(path.startswith("tuxpaint/stamps/") for path in files)
    assert StampScenes().class_names[:3] == ("frog", "parrot", "hen")
    assert all(name == name.strip() and name.replace(" ", "").replace("-", "").isalpha() for name in stamps())


def test_settings_are_checked_under_its_own_name() -> None:
    with pytest.raises(ValueError, match=r"StampScenes\.img_size = 4 must be at least 8"):
        StampScenes(img_size=4)


def test_a_missing_file_is_named_with_the_packages(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        StampScenes(root=tmp_path).train()
    assert str(error.value).startswith(f"{tmp_path}/")
    assert f"below StampScenes.root = {tmp_path}, which is /usr/share by default" in str(error.value)
    assert str(error.value).endswith(f"install it: apt-get install {' '.join(PACKAGES)}")
    with pytest.raises(ValueError, match=r"StampScenes\.root is empty"):
        StampScenes(root="")


def test_the_packages_may_lie_elsewhere(stamp_files: Path) -> None:
    scenes = StampScenes(root=stamp_files, img_size=16, train_size=10, validation_size=10, test_size=10)
    assert scenes.train().images(torch.arange(10)).shape == (10, 3, 16, 16)


# The real files.


@pytest.fixture(scope="module")
def scenes() -> StampScenes:
    return StampScenes(img_size=48, train_size=200, validation_size=100, test_size=100)


@pytest.mark.needs_stamp_scenes
def test_every_file_can_be_used(scenes: StampScenes) -> None:
    for paths in scenes.cutout_files.values():
        for path in paths:
            assert max(read_cutout(path, side=1000).size) >= 60
    for path in scenes.photograph_files:
        assert min(read_photograph(path, kept=376, least=376).size) == 376


@pytest.mark.needs_stamp_scenes
def test_no_file_is_there_twice(scenes: StampScenes) -> None:
    files = [*itertools.chain(*scenes.cutout_files.values()), *scenes.photograph_files]
    assert len({digest_of([path]) for path in files}) == len(files)
    # Nor a photograph in two versions, which would be alike when they are small.
    tiny = [read_photograph(path, kept=8, least=8).resize((8, 8)) for path in scenes.photograph_files]
    tiny_P = torch.tensor([list(image.tobytes()) for image in tiny], dtype=torch.float32)
    distance_PP = torch.cdist(tiny_P, tiny_P, p=1) / tiny_P.shape[1]
    assert float(distance_PP[~torch.eye(len(tiny), dtype=torch.bool)].min()) > 10


@pytest.mark.needs_stamp_scenes
def test_scenes(scenes: StampScenes) -> None:
    renderers = {name: scenes.get_split(name).renderer for name in SPLITS}
    assert [len(renderers[name].photographs) for name in SPLITS] == [27, 7, 8]
    assert scenes.train().labels.bincount().tolist() == [2] * 100
    masks_NSS = scenes.object_masks(scenes.train(), torch.arange(200))
    assert 0.1 < float(masks_NSS.float().mean()) < 0.25
    assert float(masks_NSS.float().mean(dim=(1, 2)).min()) > 0.01
    images_N3SS = scenes.load(scenes.train(), torch.arange(200))
    assert float(images_N3SS.mean(dim=(0, 2, 3)).abs().max()) < 0.15
    assert float((images_N3SS.std(dim=(0, 2, 3)) - 1).abs().max()) < 0.1


@pytest.mark.needs_stamp_scenes
def test_an_object_looks_like_its_stamp() -> None:
    """A scene's object has nearly the mean colour of one of its class's stamps, but for the light."""
    scenes = StampScenes(img_size=48, train_size=200, validation_size=1, test_size=1, occlusion=0.0)
    names = scenes.class_names
    images_N3SS = scenes.train().images(torch.arange(200)).float()
    masks_NSS = scenes.object_masks(scenes.train(), torch.arange(200))
    near = 0
    for image_3SS, mask_SS, label in zip(images_N3SS, masks_NSS, scenes.train().labels.tolist(), strict=True):
        seen_3 = image_3SS[:, mask_SS].mean(dim=1)
        stamps_P3 = torch.stack([mean_color(path) for path in scenes.cutout_files[names[label]]])
        angles_P = torch.nn.functional.cosine_similarity(seen_3.expand_as(stamps_P3), stamps_P3, dim=1)
        near += float(angles_P.max()) > 0.98
    assert near > 180


def mean_color(path: Path) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGBA"), np.float32)).flatten(0, 1)
    return pixels[pixels[:, 3] > 200, :3].mean(dim=0)


def test_scenes_larger_than_a_photograph_are_refused() -> None:
    with pytest.raises(ValueError, match=r"StampScenes\.img_size = 377 must be at most 376"):
        StampScenes(img_size=377)

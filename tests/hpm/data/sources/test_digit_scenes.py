import copy
import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum import Batch
from curriculum.noise import Noise
from curriculum.testing import refuse_host_sync
from hpm.data.crops import RandomResizedCrop, resample
from hpm.data.loader import Loader
from hpm.data.object_shares import ObjectShares
from hpm.data.sources import digit_scenes, scene_split
from hpm.data.sources.base import SPLITS
from hpm.data.sources.digit_scenes import DigitScenes


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes(train_size=600, test_size=300)


def test_shapes_and_classes(scenes):
    split = scenes.train()
    assert split is scenes.train()
    assert (len(split), len(scenes.test())) == (600, 300)
    assert split.labels.dtype == torch.int64
    assert set(split.labels.tolist()) == set(range(10))
    assert scenes.class_names == tuple("0123456789")
    images_N3SS = split.images(torch.arange(5))
    assert images_N3SS.shape == (5, 3, 32, 32)
    assert images_N3SS.dtype == torch.uint8
    assert scenes.load(split, torch.arange(5)).shape == (5, 3, 32, 32)


def test_the_constants_normalize_the_default_setting(scenes):
    images_N3SS = scenes.load(scenes.train(), torch.arange(600))
    assert images_N3SS.mean(dim=(0, 2, 3)).abs().max() < 0.05
    assert (images_N3SS.std(dim=(0, 2, 3)) - 1).abs().max() < 0.05


@settings(deadline=None, max_examples=25)
@given(indices=st.lists(st.integers(0, 599), min_size=1, max_size=9))
def test_a_scene_is_the_same_in_any_batch(scenes, indices):
    indices_N = torch.tensor(indices)
    split = scenes.train()
    assert torch.equal(split.renderer.render(indices_N), split.images(indices_N))


def test_scenes_rendered_on_demand_are_the_stored_ones(scenes, monkeypatch):
    monkeypatch.setattr(scene_split, "MEMORY_LIMIT", 0)
    rendered = DigitScenes(train_size=600, test_size=300).train()
    assert rendered._images_KCSS is None
    indices_N = torch.tensor([5, 599, 17, 5])
    boxes_N4, flips_N = RandomResizedCrop().draw(rendered.sizes(indices_N), Noise(0, 0, indices_N))
    stored = scenes.train()
    assert torch.equal(rendered.labels, stored.labels)
    assert torch.equal(rendered.images(indices_N), stored.images(indices_N))
    assert torch.equal(rendered.crop(indices_N, boxes_N4, flips_N, 24), stored.crop(indices_N, boxes_N4, flips_N, 24))


def test_the_global_generator_is_left_alone_and_the_seed_decides():
    before = torch.random.get_rng_state()
    first, same, other = (DigitScenes(train_size=20, test_size=20, seed=seed).train() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    all_of_them = torch.arange(20)
    assert torch.equal(first.images(all_of_them), same.images(all_of_them))
    assert not torch.equal(first.images(all_of_them), other.images(all_of_them))


def test_a_larger_split_begins_with_the_same_scenes(scenes):
    few = DigitScenes(train_size=10, test_size=10).train()
    assert torch.equal(few.images(torch.arange(10)), scenes.train().images(torch.arange(10)))


def test_the_splits_share_no_digit(scenes):
    splits = [scenes.train(), scenes.validation(), scenes.test()]
    digits = [split.renderer.digits_KGG.flatten(1) for split in splits]
    assert sum(map(len, digits)) == 1797
    for one, other in itertools.combinations(range(3), 2):
        assert torch.cdist(digits[one], digits[other]).amin() > 0
        assert not torch.equal(splits[one].images(torch.arange(10)), splits[other].images(torch.arange(10)))


def test_two_of_eight_digits_of_each_class_are_for_testing_and_one_for_validation():
    classes_K = torch.arange(10).repeat(17)
    counts = {name: classes_K[digit_scenes.digits_of(name, classes_K)].bincount().tolist() for name in SPLITS}
    assert counts == {"train": [10] * 10, "validation": [2] * 10, "test": [5] * 10}


def test_the_label_is_the_digit_drawn():
    # Without clutter and photograph a scene is the digit alone; a digit is nearest to its own class's.
    scenes = DigitScenes(train_size=1500, test_size=200, clutter=0, background=0.0, min_scale=1.0, max_scale=1.0)
    train, test = scenes.train(), scenes.test()
    train_K = train.images(torch.arange(1500))[:, 0].flatten(1).float()
    test_K = test.images(torch.arange(200))[:, 0].flatten(1).float()
    nearest_K = torch.cdist(test_K, train_K).argmin(dim=1)
    assert (train.labels[nearest_K] == test.labels).float().mean() > 0.93


def test_strokes_are_brighter_than_what_is_under_them(scenes):
    indices_N = torch.arange(200)
    split = scenes.train()
    mask_NSS = scenes.object_masks(split, indices_N)
    assert mask_NSS.shape == (200, 32, 32)
    assert mask_NSS.any(dim=(1, 2)).all()
    images_NSS = split.images(indices_N).float().mean(dim=1)
    assert (images_NSS[mask_NSS] >= 63).all()  # at least half inked, at a background of 0.5
    assert 0.05 < mask_NSS.float().mean() < 0.3


def test_without_clutter_and_photograph_the_mask_is_the_image():
    scenes = DigitScenes(train_size=50, test_size=10, clutter=0, background=0.0)
    images_N3SS = scenes.train().images(torch.arange(50))
    assert torch.equal(images_N3SS[:, 0] >= 128, scenes.object_masks(scenes.train(), torch.arange(50)))


def test_clutter_adds_ink_but_leaves_the_digit_alone():
    few, many = (DigitScenes(train_size=100, test_size=10, clutter=clutter, background=0.0) for clutter in (0, 6))
    indices_N = torch.arange(100)
    mask_NSS = many.object_masks(many.train(), indices_N)
    clean, cluttered = few.train().images(indices_N)[:, 0], many.train().images(indices_N)[:, 0]
    assert torch.equal(mask_NSS, few.object_masks(few.train(), indices_N))
    assert torch.equal(clean[mask_NSS], cluttered[mask_NSS])
    assert (cluttered >= clean).all()
    assert cluttered.float().mean() > 1.2 * clean.float().mean()


def test_patches_of_the_object_in_whole_scenes(scenes):
    indices_N = torch.arange(40)
    split = scenes.test()
    share_NL = scenes.object_masks(split, indices_N).view(40, 4, 8, 4, 8).float().mean(dim=(2, 4)).flatten(1)
    assert torch.equal(scenes.object_map(split, indices_N, patch_size=8), share_NL >= 0.1)
    images = scenes.load(split, indices_N)
    assert torch.equal(ObjectShares(split)(Batch(images, 8, indices_N)), share_NL)
    mirrored = Batch(images, 8, indices_N, flips=torch.ones(40, dtype=torch.bool))
    assert torch.equal(ObjectShares(split)(mirrored).view(40, 4, 4), share_NL.view(40, 4, 4).flip(2))


def test_shares_of_the_object_follow_the_crop(monkeypatch):
    # A scene without clutter and photograph shows its own strokes, cropped as the images are.
    scenes = DigitScenes(train_size=300, test_size=10, clutter=0, background=0.0)
    loader = Loader(source=scenes, batch_size=64, patch_size=8, crop=RandomResizedCrop(), seed=0)
    (batch,) = next(loader.epoch(0))
    assert batch.flips.any()
    drawn, held = (ObjectShares.of(scenes, scenes.train(), device) for device in (None, torch.device("cpu")))
    found_NL = drawn(batch)
    bright_NSS = scenes.denormalize(batch.images)[:, 0] >= 0.5
    share_NL = bright_NSS.view(64, 4, 8, 4, 8).float().mean(dim=(2, 4)).flatten(1)
    assert (found_NL - share_NL).abs().mean() < 0.02
    elsewhere_NL = drawn(replace(batch, flips=~batch.flips))
    assert (elsewhere_NL - share_NL).abs().mean() > 0.08
    with refuse_host_sync():
        held_NL = held(batch)
    assert torch.equal(held_NL, found_NL)
    monkeypatch.setattr(scene_split, "MEMORY_LIMIT", 300 * 32 * 32 - 1)
    with pytest.raises(AssertionError, match="waits for the device"), refuse_host_sync():
        ObjectShares.of(scenes, scenes.train(), torch.device("cpu"))(batch)
    assert copy.deepcopy(held) is held


def test_shares_of_smaller_crops_are_of_their_own_patches():
    scenes = DigitScenes(train_size=40, test_size=10)
    split, indices_N = scenes.train(), torch.arange(40)
    boxes_N4, flips_N = RandomResizedCrop().draw(split.sizes(indices_N), Noise(0, 0, indices_N))
    found_NL = ObjectShares(split)(Batch(torch.zeros(40, 3, 24, 16), 8, indices_N, boxes_N4, flips_N))
    masks_N1SS = scenes.object_masks(split, indices_N).unsqueeze(1).byte() * 255
    shown = resample(masks_N1SS, boxes_N4, flips_N, (24, 16)) >= 127.5
    assert torch.equal(found_NL, shown.view(40, 3, 8, 2, 8).float().mean(dim=(2, 4)).flatten(1))


def test_any_size():
    scenes = DigitScenes(img_size=224, train_size=3, test_size=3)
    assert scenes.train().images(torch.tensor([2])).shape == (1, 3, 224, 224)
    small = DigitScenes(img_size=32, train_size=3, test_size=3)
    large_mask, small_mask = (s.object_masks(s.train(), torch.arange(3)).float() for s in (scenes, small))
    assert (torch.nn.functional.avg_pool2d(large_mask, 7) - small_mask).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("img_size", 4),
        ("train_size", 0),
        ("test_size", 0),
        ("clutter", -1),
        ("min_scale", 0.0),
        ("max_scale", 0.4),
        ("max_scale", 1.2),
        ("background", 1.5),
    ],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=rf"DigitScenes\.{argument} = "):
        DigitScenes(**{argument: value})


def test_a_patch_size_that_does_not_divide_is_refused(scenes):
    with pytest.raises(ValueError, match="patch_size = 5 does not divide"):
        scenes.object_map(scenes.train(), torch.arange(1), patch_size=5)


def test_scenes_in_memory_can_be_moved(monkeypatch):
    scenes = DigitScenes(train_size=20, test_size=10)
    train = scenes.train()
    assert train.to(torch.device("cpu")) is train
    assert train.to(torch.device("meta")).images_KCHW.shape == (20, 3, 32, 32)
    monkeypatch.setattr(scene_split, "MEMORY_LIMIT", 0)
    rendered = DigitScenes(train_size=20, test_size=10).train()
    assert rendered.to(torch.device("meta")) is rendered

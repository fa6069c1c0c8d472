from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.data.crops import RandomResizedCrop
from hpm.data.loader import Loader
from hpm.data.sources.digit_scenes import DigitScenes
from hpm.data.sources.image_folder import ImageFolder


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes(train_size=130, test_size=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for k in range(14):
        pixels = random.integers(0, 256, (40 + k, 60 - k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{k:02}.{'jpg' if k % 2 else 'png'}")
    return ImageFolder(root=root, img_size=16)


@pytest.fixture(params=["scenes", "folder"])
def source(request):
    return request.getfixturevalue(request.param)


def make(source, **options):
    size = 32 if len(source.train()) > 100 else 4
    defaults = {"batch_size": size, "patch_size": 8, "crop": RandomResizedCrop(), "seed": 5}
    return Loader(source=source, **(defaults | options))


def batches_of(loader, *epoch):
    """All micro-batches, one after the other."""
    return [batch for step in loader.epoch(*epoch) for batch in step]


def same(first, second):
    return all(torch.equal(getattr(first, k), getattr(second, k)) for k in ("images", "indices", "boxes", "flips"))


def test_batches_are_what_the_model_expects(source):
    loader = make(source)
    batches = batches_of(loader, 0)
    assert len(batches) == loader.steps_per_epoch == len(source.train()) // loader.batch_size
    batch = batches[0]
    assert batch.images.shape == (loader.batch_size, 3, source.img_size, source.img_size)
    assert batch.images.is_contiguous()
    assert (batch.images.dtype, batch.indices.dtype) == (torch.float32, torch.int64)
    assert (batch.boxes.dtype, batch.flips.dtype) == (torch.float32, torch.bool)
    assert batch.patch_size == 8
    indices = torch.cat([batch.indices for batch in batches])
    assert len(indices.unique()) == len(indices)
    expected = source.normalize(source.train().crop(batch.indices, batch.boxes, batch.flips, source.img_size))
    assert torch.equal(batch.images, expected)


def test_workers_change_nothing(source):
    alone, helped = make(source).epoch(1), make(source, num_workers=2).epoch(1)
    assert all(same(a, b) for (a,), (b,) in zip(alone, helped, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_micro_batches_share_the_same_batches(folder, world_size, accumulate, num_workers):
    whole = batches_of(make(folder), 1)
    loaders = [
        make(folder, rank=rank, world_size=world_size, accumulate=accumulate, num_workers=num_workers)
        for rank in range(world_size)
    ]
    for batch, steps in zip(whole, zip(*(loader.epoch(1) for loader in loaders), strict=True), strict=True):
        assert all(len(step) == accumulate for step in steps)
        parts = [micro_batch for step in steps for micro_batch in step]
        assert {len(part) for part in parts} == {4 // (world_size * accumulate)}
        for name in ("images", "indices", "boxes", "flips"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (1, 2)])
def test_images_of_several_masks_stand_in_as_many_rows(folder, world_size, accumulate, num_workers):
    single = make(folder)
    shared = {"world_size": world_size, "accumulate": accumulate, "num_workers": num_workers}
    loaders = [make(folder, masks_per_image=3, batch_size=12, rank=rank, **shared) for rank in range(world_size)]
    assert {loader.steps_per_epoch for loader in loaders} == {single.steps_per_epoch}
    for first in (0, 1):
        together = zip(*(loader.epoch(1, first) for loader in loaders), strict=True)
        for batch, steps in zip(batches_of(single, 1, first), together, strict=True):
            parts = [micro_batch for step in steps for micro_batch in step]
            assert {len(part) for part in parts} == {12 // (world_size * accumulate)}
            for name in ("images", "indices", "boxes", "flips"):
                rows = torch.cat([getattr(part, name) for part in parts])
                assert torch.equal(rows, torch.stack([getattr(batch, name)] * 3, dim=1).flatten(0, 1))


def test_an_image_of_several_masks_is_cropped_once(folder):
    class Recording(RandomResizedCrop):
        def draw(self, sizes_N2, noise):
            drawn.extend(noise.rows_N.tolist())
            return super().draw(sizes_N2, noise)

    drawn = []
    batches = batches_of(make(folder, masks_per_image=2, crop=Recording()), 0)
    assert [index for batch in batches for index in batch.indices[::2].tolist()] == drawn
    assert len(drawn) == len(set(drawn)) == 14


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_can_be_begun_in_the_middle(source, num_workers):
    whole = batches_of(make(source), 2)
    rest = batches_of(make(source, num_workers=num_workers), 2, 2)
    assert len(rest) == len(whole) - 2
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_nothing_is_left_after_the_last_step(scenes):
    loader = make(scenes)
    assert list(loader.epoch(0, first_step=loader.steps_per_epoch)) == []
    with pytest.raises(ValueError, match="first_step = 5 must be 0 to 4"):
        loader.epoch(0, first_step=5)


def test_order_and_crops_change_with_epoch_and_seed(scenes):
    loader, other = make(scenes), make(scenes, seed=6)
    orders = [loader.order(0), loader.order(1), other.order(0)]
    for order in orders:
        assert order.sort().values.tolist() == list(range(130))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])

    def crops(loader, epoch):
        return {
            int(i): box.tolist() for b in batches_of(loader, epoch) for i, box in zip(b.indices, b.boxes, strict=True)
        }

    first = crops(loader, 0)
    again = crops(loader, 0)
    second = crops(loader, 1)
    seeded = crops(other, 0)
    assert first == again
    for different in (second, seeded):
        shared = first.keys() & different.keys()
        assert sum(first[i] == different[i] for i in shared) < len(shared) / 4


def test_a_crop_does_not_depend_on_the_batch(scenes):
    small, large = make(scenes, batch_size=10), make(scenes, batch_size=65)
    crops = {}
    for batch in batches_of(small, 3):
        for n, index in enumerate(batch.indices.tolist()):
            crops[index] = (batch.boxes[n], batch.flips[n], batch.images[n])
    for batch in batches_of(large, 3):
        for n, index in enumerate(batch.indices.tolist()):
            box, flip, image = crops[index]
            assert torch.equal(box, batch.boxes[n])
            assert flip == batch.flips[n]
            assert torch.allclose(image, batch.images[n], atol=1e-5)


def test_the_global_generator_is_left_alone(scenes):
    before = torch.random.get_rng_state()
    batches_of(make(scenes), 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_in_memory_are_augmented_on_the_device(scenes):
    # "meta" stands for an accelerator here: everything that needs a value on the way would fail on it.
    device = torch.device("meta")
    (batch,) = next(make(scenes, device=device).epoch(0))
    assert batch.images.device == batch.boxes.device == batch.indices.device == device
    assert batch.images.shape == (32, 3, 32, 32)


def test_an_epoch_can_be_left_early(scenes):
    assert len(list(islice(make(scenes, num_workers=2).epoch(0), 1))) == 1


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("Schedule.batch_size", 0),
        ("Schedule.batch_size", 131),
        ("Schedule.masks_per_image", 0),
        ("Loader.patch_size", 5),
        ("Loader.patch_size", 0),
        ("Loading.num_workers", -1),
        ("Loading.max_unreadable", 1.0),
        ("Loading.max_unreadable", -0.1),
        ("Loader.rank", 1),
    ],
)
def test_bad_arguments_are_named(scenes, argument, value):
    with pytest.raises(ValueError, match=f"{argument} = {value}"):
        make(scenes, **{argument.split(".")[1]: value})


def test_a_batch_that_cannot_be_shared_is_refused(scenes):
    with pytest.raises(ValueError, match=r"Schedule\.batch_size = 32 .* Schedule\.accumulate = 3$"):
        make(scenes, accumulate=3, world_size=2)
    with pytest.raises(ValueError, match=r"Schedule\.batch_size = 32 .* Schedule\.accumulate = 2 .* processes, 3"):
        make(scenes, accumulate=2, world_size=3)
    with pytest.raises(ValueError, match=r"Schedule\.batch_size = 32 .* Schedule\.masks_per_image = 3$"):
        make(scenes, masks_per_image=3)
    with pytest.raises(ValueError, match=r"Schedule\.batch_size = 32 .* Schedule\.masks_per_image = 8 .* processes, 8"):
        make(scenes, masks_per_image=8, world_size=8)

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.data.augment import RandomResizedCrop
from hpm.data.digit_scenes import DigitScenes
from hpm.data.image_folder import ImageFolder
from hpm.data.loader import Loader
from hpm.errors import UserError


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


def same(first, second):
    return all(torch.equal(getattr(first, k), getattr(second, k)) for k in ("images", "indices", "boxes", "flips"))


def test_batches_are_what_the_model_expects(source):
    loader = make(source)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.steps_per_epoch == len(source.train()) // loader.batch_size
    batch = batches[0]
    assert batch.images.shape == (loader.batch_size, 3, source.img_size, source.img_size)
    assert (batch.images.dtype, batch.indices.dtype) == (torch.float32, torch.int64)
    assert (batch.boxes.dtype, batch.flips.dtype) == (torch.float32, torch.bool)
    assert batch.patch_size == 8
    indices = torch.cat([batch.indices for batch in batches])
    assert len(indices.unique()) == len(indices)
    expected = source.normalize(source.train().crop(batch.indices, batch.boxes, batch.flips, source.img_size))
    assert torch.equal(batch.images, expected)


def test_workers_change_nothing(source):
    alone, helped = make(source).epoch(1), make(source, num_workers=2).epoch(1)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_can_be_begun_in_the_middle(source, num_workers):
    loader = make(source, num_workers=num_workers)
    whole = list(make(source).epoch(2))
    rest = list(loader.epoch(2, first_step=2))
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
        return {int(i): box.tolist() for b in loader.epoch(epoch) for i, box in zip(b.indices, b.boxes, strict=True)}

    first, again, second, seeded = crops(loader, 0), crops(loader, 0), crops(loader, 1), crops(other, 0)
    assert first == again
    for different in (second, seeded):
        shared = first.keys() & different.keys()
        assert sum(first[i] == different[i] for i in shared) < len(shared) / 4


def test_a_crop_does_not_depend_on_the_batch(scenes):
    small, large = make(scenes, batch_size=10), make(scenes, batch_size=65)
    crops = {}
    for batch in small.epoch(3):
        for n, index in enumerate(batch.indices.tolist()):
            crops[index] = (batch.boxes[n], batch.flips[n], batch.images[n])
    for batch in large.epoch(3):
        for n, index in enumerate(batch.indices.tolist()):
            box, flip, image = crops[index]
            assert torch.equal(box, batch.boxes[n])
            assert flip == batch.flips[n]
            assert torch.allclose(image, batch.images[n], atol=1e-5)


def test_the_global_generator_is_left_alone(scenes):
    before = torch.random.get_rng_state()
    list(make(scenes).epoch(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_epoch_can_be_left_early(scenes):
    assert len(list(islice(make(scenes, num_workers=2).epoch(0), 1))) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_image_is_one_clean_error(tmp_path, num_workers):
    for k in range(4):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{k}.png")
    (tmp_path / "2.png").write_bytes(b"not an image")
    loader = make(ImageFolder(root=tmp_path, img_size=16), batch_size=2, num_workers=num_workers)
    with pytest.raises(UserError) as caught:
        list(loader.epoch(0))
    assert str(caught.value).startswith(f"{tmp_path / '2.png'} cannot be read as an image")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("batch_size", 0), ("batch_size", 131), ("patch_size", 5), ("patch_size", 0), ("num_workers", -1)],
)
def test_bad_arguments_are_named(scenes, argument, value):
    with pytest.raises(ValueError, match=rf"Loader\.{argument} = "):
        make(scenes, **{argument: value})

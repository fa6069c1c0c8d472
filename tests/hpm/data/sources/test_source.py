from functools import cached_property

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpm.data.sources.base import ImageSource
from hpm.data.sources.split import TensorSplit


class Squares(ImageSource):
    def __init__(self, **options):
        super().__init__(**{"img_size": 4, "in_chans": 2, "mean": (0.2, 0.6), "std": (0.1, 0.5)} | options)
        self.split = TensorSplit(torch.arange(96, dtype=torch.uint8).view(3, 2, 4, 4), torch.tensor([0, 1, 1]))

    def read(self, split):
        return self.split


def test_split_in_memory():
    split = Squares().train()
    assert len(split) == 3
    assert split.sizes(torch.tensor([2, 0])).tolist() == [[4, 4], [4, 4]]
    boxes_N4, flips_N = torch.tensor([[1.0, 2.0, 2.0, 2.0]]), torch.tensor([True])
    crop = split.crop(torch.tensor([1]), boxes_N4, flips_N, 2)
    assert torch.equal(crop, split.images_KCHW[1:2, :, 2:4, 1:3].flip(3).float())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_denormalize_undoes_normalize(seed):
    pixels = torch.randint(0, 256, (2, 2, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    source = Squares()
    images_NCHW = source.normalize(pixels)
    assert images_NCHW.dtype == torch.float32
    assert torch.allclose(source.denormalize(images_NCHW), pixels / 255.0, atol=1e-6)
    assert source.denormalize(images_NCHW * 100).amax() <= 1.0
    assert source.denormalize(images_NCHW * 100).amin() >= 0.0


def test_normalize_takes_mean_and_std_of_each_channel():
    images_NCHW = Squares().normalize(torch.full((1, 2, 1, 1), 255, dtype=torch.uint8)).flatten()
    assert torch.allclose(images_NCHW, torch.tensor([8.0, 0.8]))


def test_normalize_is_the_same_in_any_memory_format_and_batch():
    generator = torch.Generator().manual_seed(0)
    pixels_NCHW = torch.randint(0, 256, (5, 2, 300, 300), generator=generator, dtype=torch.uint8)
    mean_C11, std_C11 = torch.tensor([0.2, 0.6]).view(2, 1, 1), torch.tensor([0.1, 0.5]).view(2, 1, 1)
    expected = (pixels_NCHW.float() / 255.0 - mean_C11) / std_C11
    for pixels in (pixels_NCHW, pixels_NCHW.contiguous(memory_format=torch.channels_last), pixels_NCHW.double()):
        before = pixels.clone()
        normalized = Squares().normalize(pixels)
        assert normalized.is_contiguous()
        assert torch.equal(normalized, expected)
        assert torch.equal(pixels, before)


def test_split_on_another_device():
    split = Squares().train()
    assert split.to(torch.device("cpu")) is split
    moved = split.to(torch.device("meta"))
    assert moved.device == moved.sizes(torch.zeros(2, dtype=torch.int64, device="meta")).device == torch.device("meta")
    assert moved.labels is split.labels
    assert split.name(3) == "image 3"


def test_load_gives_whole_images_normalized():
    source = Squares()
    indices_N = torch.tensor([2, 1])
    assert torch.equal(source.load(source.test(), indices_N), source.normalize(source.split.images_KCHW[indices_N]))


def test_classes():
    assert Squares().num_classes == 0
    assert Squares(class_names=("a", "b")).num_classes == 2
    assert Squares(class_names=["a", "b"]).class_names == ("a", "b")
    assert Squares().class_names == ()


def test_a_source_may_name_its_classes_itself():
    """Set before or after `ImageSource.__init__`, found when they are asked for, or computed."""

    class Set(Squares):
        def __init__(self, *, first):
            if first:
                self.class_names = ("a", "b")
            super().__init__()
            if not first:
                self.class_names = ("a", "b")

    class Found(Squares):
        looked = 0

        @cached_property
        def class_names(self):
            self.looked += 1
            return ("a", "b")

    class Computed(Squares):
        @property
        def class_names(self):
            return ("a", "b")

    for source in (Set(first=True), Set(first=False), Found(), Computed()):
        assert source.class_names == ("a", "b")
        assert source.num_classes == 2
    found = Found()
    assert found.looked == 0
    assert found.num_classes == len(found.class_names) == 2
    assert found.looked == 1


@pytest.mark.parametrize(
    ("argument", "value"),
    [("img_size", 0), ("in_chans", 0), ("mean", (0.5,)), ("std", (0.1, 0.0)), ("std", (0.1, 0.1, 0.1))],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=rf"Squares\.{argument} = "):
        Squares(**{argument: value})


def test_bad_tensors_are_named():
    with pytest.raises(ValueError, match=r"TensorSplit\.images_KCHW = torch\.float32"):
        TensorSplit(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"TensorSplit\.labels = torch\.int64 of shape \(3,\)"):
        TensorSplit(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


def test_labels_below_zero_are_refused_by_name() -> None:
    """As -1 for an image without a label, by which classes would be counted wrongly."""
    images_KCHW = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"TensorSplit.labels holds -1; classes are counted from 0"):
        TensorSplit(images_KCHW, torch.tensor([0, -1, 1]))
    assert TensorSplit(images_KCHW, torch.tensor([0, 0, 1])).labels is not None

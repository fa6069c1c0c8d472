"""Annotations are cropped and resized as `ImageSource.load` does images, by the nearest pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from hpm.data import IGNORED, ImageSource, Objects, Split, TensorSplit, annotated_views
from hpm.data.crops import central_boxes
from hpm.data.sources.annotations import objects_from


class Annotated(ImageSource):
    """Images whose annotations are given; they are shown whole, or in part."""

    def __init__(self, maps_KHW: Tensor, objects: list[Objects] | None = None, *, size: object, part: float = 1.0):
        super().__init__(img_size=size, in_chans=1, mean=(0.0,), std=(1.0,))
        self.maps_KHW, self.objects, self.part = maps_KHW, objects, part

    def read(self, split: str) -> Split:
        source = self

        class Given(TensorSplit):
            def class_maps(self, indices_N: Tensor) -> list[Tensor]:
                return [source.maps_KHW[index] for index in indices_N.tolist()]

            def objects(self, indices_N: Tensor) -> list[Objects]:
                assert source.objects is not None
                return [source.objects[index] for index in indices_N.tolist()]

        return Given(self.maps_KHW.clamp(min=0).to(torch.uint8).unsqueeze(1))

    def evaluation_boxes(self, sizes_N2: Tensor) -> Tensor:
        return (
            central_boxes(sizes_N2, self.part, self.img_size) if self.part < 1 else super().evaluation_boxes(sizes_N2)
        )


SIDES = st.integers(1, 40)


@settings(deadline=None, max_examples=150)
@given(height=SIDES, width=SIDES, rows=SIDES, columns=SIDES, seed=st.integers(0, 2**31))
def test_whole_class_maps_are_resized_as_pillow_and_torchvision_do(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps_KHW = torch.randint(IGNORED, 200, (2, height, width), generator=generator, dtype=torch.int16)
    source = Annotated(maps_KHW, size=(rows, columns))
    shown_NSS = annotated_views.class_maps(source, source.test(), torch.tensor([1, 0, 1]))
    assert shown_NSS.dtype == torch.int16
    assert shown_NSS.shape == (3, rows, columns)
    # Where the middle of a pixel lies on the border of two stored ones either is the nearest.
    down, across = (
        (2 * torch.arange(count) + 1) * length % (2 * count) != 0
        for count, length in ((rows, height), (columns, width))
    )
    for map_HW, shown_SS in zip(maps_KHW[[1, 0, 1]], shown_NSS, strict=True):
        pillows = Image.fromarray(map_HW.numpy().astype(np.int32)).resize((columns, rows), Image.Resampling.NEAREST)
        torchvisions = F.resize(map_HW[None].float(), [rows, columns], InterpolationMode.NEAREST_EXACT)[0]
        for theirs_SS in (torch.from_numpy(np.array(pillows)), torchvisions):
            assert torch.equal(shown_SS[down][:, across], theirs_SS[down][:, across].to(torch.int16))


def test_a_part_of_a_class_map_is_the_same_part_of_the_image() -> None:
    """Each pixel of these images tells its own class; the crop needs no resampling."""
    maps_KHW = torch.arange(96 * 64).view(1, 64, 96).remainder(251).to(torch.int16)
    source = Annotated(maps_KHW, size=56, part=0.875)
    shown_NSS = annotated_views.class_maps(source, source.test(), torch.tensor([0]))
    assert torch.equal(shown_NSS, maps_KHW[:, 4:60, 20:76])
    seen_N1SS = source.load(source.test(), torch.tensor([0])) * 255
    assert torch.equal(seen_N1SS[:, 0].round().to(torch.int16), shown_NSS)


def mask(rows: slice, columns: slice, height: int = 40, width: int = 80) -> Tensor:
    mask_HW = torch.zeros(height, width, dtype=torch.bool)
    mask_HW[rows, columns] = True
    return mask_HW


def some_objects() -> Objects:
    """One in the middle, one that reaches beyond the central 32 x 32, one in a corner, and a crowd of all."""
    masks = [
        mask(slice(16, 24), slice(36, 46)),
        mask(slice(0, 20), slice(40, 80)),
        mask(slice(0, 10), slice(0, 10)),
        mask(slice(None), slice(None)),
    ]
    return objects_from(masks, [3, 1, 2, 0], [False, False, False, True], height=40, width=80)


def test_boxes_and_masks_are_scaled_with_the_whole_image() -> None:
    source = Annotated(torch.zeros(1, 40, 80), [some_objects()], size=(20, 20))
    (shown,) = annotated_views.objects(source, source.test(), torch.tensor([0]))
    assert shown.labels_O.tolist() == [3, 1, 2, 0]
    assert shown.crowd_O.tolist() == [False, False, False, True]
    assert shown.boxes_O4.tolist() == [[9.0, 8.0, 11.5, 12.0], [10, 0, 20, 10], [0, 0, 2.5, 5], [0, 0, 20, 20]]
    assert shown.masks_OHW.shape == (4, 20, 20)
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[8:12, 9:11] = True  # of the column from 11 to 12 the middle lies beyond 11.5
    assert torch.equal(shown.masks_OHW[0], expected)


def test_what_lies_outside_of_a_central_crop_is_left_out() -> None:
    source = Annotated(torch.zeros(2, 40, 80), [some_objects(), some_objects()], size=16, part=0.8)
    assert source.evaluation_boxes(torch.tensor([[40, 80]])).tolist() == [[24.0, 4.0, 32.0, 32.0]]
    for shown in annotated_views.objects(source, source.test(), torch.arange(2)):
        assert shown.labels_O.tolist() == [3, 1, 0]
        assert shown.crowd_O.tolist() == [False, False, True]
        assert shown.boxes_O4.tolist() == [[6.0, 6.0, 11.0, 10.0], [8, 0, 16, 8], [0, 0, 16, 16]]
        assert torch.equal(shown.masks_OHW[1], mask(slice(0, 8), slice(8, 16), 16, 16))


def test_what_is_too_thin_to_be_shown_keeps_a_pixel_where_it_is_scored() -> None:
    thin = objects_from([mask(slice(0, 1), slice(0, 80))], [1], [False], height=40, width=80)
    source = Annotated(torch.zeros(2, 40, 80), [thin, thin], size=10)
    (shown,) = annotated_views.objects(source, source.test(), torch.tensor([1]))
    assert shown.boxes_O4.tolist() == [[0, 0, 10, 0.25]]
    assert shown.masks_OHW.nonzero().tolist() == [[0, 0, 5]]
    whole, unflipped = torch.tensor([[0.0, 0.0, 80.0, 40.0]]), torch.tensor([False])
    (learned,) = annotated_views.objects_in(source.test(), torch.tensor([1]), whole, unflipped, 10)
    assert [tuple(part.shape) for part in learned] == [(0,), (0, 4), (0, 10, 10), (0,)]


@pytest.mark.parametrize("size", [16, (8, 24)])
def test_no_images_have_no_annotations(size: object) -> None:
    source, none = Annotated(torch.zeros(1, 40, 80), [some_objects()], size=size), torch.arange(0)
    shape = (0, *((16, 16) if size == 16 else (8, 24)))
    assert annotated_views.class_maps(source, source.test(), none).shape == shape
    assert annotated_views.objects(source, source.test(), none) == []

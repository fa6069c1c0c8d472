"""What annotations are: tight boxes of masks, and one class for every pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpm.data import IGNORED
from hpm.data.sources.annotations import Objects, boxes_of, class_map_of, objects_from


@st.composite
def some_objects(draw: st.DrawFn) -> Objects:
    """Up to six objects, boxes of ones in an image of up to nine pixels a side, some of them crowds."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    masks, labels, crowd = [], [], []
    for _ in range(draw(st.integers(0, 6))):
        mask_HW = torch.zeros(height, width, dtype=torch.bool)
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask_HW[top : draw(st.integers(top + 1, height)), left : draw(st.integers(left + 1, width))] = True
        masks.append(mask_HW)
        labels.append(draw(st.integers(0, 3)))
        crowd.append(draw(st.booleans()))
    return objects_from(masks, labels, crowd, height=height, width=width)


@settings(deadline=None, max_examples=100)
@given(objects=some_objects())
def test_a_pixel_is_of_the_smallest_object_that_it_shows(objects: Objects) -> None:
    map_HW = class_map_of(objects)
    assert map_HW.dtype == torch.int16
    assert map_HW.shape == objects.masks_OHW.shape[1:]
    sizes_O = objects.masks_OHW.flatten(1).sum(dim=1)
    for row in range(map_HW.shape[0]):
        for column in range(map_HW.shape[1]):
            here = [number for number in range(len(sizes_O)) if objects.masks_OHW[number, row, column]]
            found = [number for number in here if not objects.crowd_O[number]]
            smallest = min((sizes_O[number] for number in found), default=None)
            allowed = {int(objects.labels_O[number]) + 1 for number in found if sizes_O[number] == smallest}
            assert int(map_HW[row, column]) in (allowed or {IGNORED if here else 0})


def test_a_crowd_hides_no_object_however_small_it_is() -> None:
    crowd_HW, object_HW = torch.zeros(2, 4, 4, dtype=torch.bool)
    crowd_HW[0, :2] = True
    object_HW[:, 0] = True
    objects = objects_from([object_HW, crowd_HW], [4, 2], [False, True], height=4, width=4)
    assert class_map_of(objects)[0].tolist() == [5, IGNORED, 0, 0]


@settings(deadline=None, max_examples=60)
@given(count=st.integers(0, 4), height=st.integers(1, 8), width=st.integers(1, 8), seed=st.integers(0, 2**31))
def test_boxes_are_the_smallest_that_hold_the_masks(count: int, height: int, width: int, seed: int) -> None:
    masks_OHW = torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed)) < 0.15
    expected = []
    for mask_HW in masks_OHW:
        rows, columns = mask_HW.nonzero(as_tuple=True)
        empty = not len(rows)
        expected.append([0] * 4 if empty else [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    boxes_O4 = boxes_of(masks_OHW)
    assert boxes_O4.dtype == torch.float32
    assert torch.equal(boxes_O4, torch.tensor(expected).view(-1, 4).float())


@pytest.mark.parametrize(("height", "width"), [(3, 5), (0, 5), (3, 0)])
def test_an_image_may_show_nothing(height: int, width: int) -> None:
    objects = objects_from([], [], [], height=height, width=width)
    assert [tuple(part.shape) for part in objects] == [(0,), (0, 4), (0, height, width), (0,)]
    assert [part.dtype for part in objects] == [torch.int64, torch.float32, torch.bool, torch.bool]
    assert torch.equal(class_map_of(objects), torch.zeros(height, width, dtype=torch.int16))
    assert boxes_of(torch.zeros(2, height, width, dtype=torch.bool)).tolist() == [[0.0] * 4] * 2

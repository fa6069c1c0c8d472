"""COCO's masks, decoded as pycocotools decodes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as theirs

from hpm.data.sources.coco_masks import FARTHEST, box_mask, decode_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

CORNERS = st.floats(-30, 60, allow_nan=False) | st.integers(-5, 40)


@st.composite
def polygons(draw: st.DrawFn) -> list[list[float]]:
    counts = draw(st.lists(st.integers(3, 6), min_size=1, max_size=3))
    return [draw(st.lists(CORNERS, min_size=2 * count, max_size=2 * count)) for count in counts]


def random_mask(height: int, width: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.asfortranarray(generator.random((height, width)) < generator.random(), dtype=np.uint8)


def equal(ours_HW: torch.Tensor, theirs_HW: np.ndarray) -> bool:
    return ours_HW.dtype == torch.bool and np.array_equal(ours_HW.numpy(), theirs_HW.astype(bool))


@settings(deadline=None, max_examples=150)
@given(segmentation=polygons(), height=st.integers(1, 40), width=st.integers(1, 40))
def test_polygons_are_decoded_as_pycocotools_does(segmentation: list[list[float]], height: int, width: int) -> None:
    expected = theirs.decode(theirs.merge(theirs.frPyObjects(segmentation, height, width)))
    assert equal(decode_mask(segmentation, height, width), expected)


@settings(deadline=None, max_examples=100)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_run_lengths_are_decoded_as_pycocotools_does(height: int, width: int, seed: int) -> None:
    mask_HW = random_mask(height, width, seed)
    compressed = theirs.encode(mask_HW)
    told = {"size": [height, width], "counts": compressed["counts"].decode()}
    assert equal(decode_mask(told, height, width), mask_HW)
    changes = np.flatnonzero(np.diff(mask_HW.ravel(order="F").astype(int), prepend=0, append=2))
    counts = np.diff(changes, prepend=0).tolist()
    assert sum(counts) == height * width
    uncompressed = {"size": [height, width], "counts": counts}
    assert theirs.frPyObjects(uncompressed, height, width) == compressed
    assert equal(decode_mask(uncompressed, height, width), mask_HW)


@pytest.mark.parametrize("counts", [[600], [0, 600], [0, 20, 560, 20], [599, 1]])
def test_run_lengths_go_down_the_columns(counts: list[int]) -> None:
    expected = np.concatenate([np.full(count, place % 2) for place, count in enumerate(counts)])
    found_HW = decode_mask({"size": [20, 30], "counts": counts}, 20, 30)
    assert equal(found_HW, expected.reshape(20, 30, order="F"))


@pytest.mark.parametrize(
    ("segmentation", "why"),
    [
        (
            {"size": [30, 20], "counts": [600]},
            r"size is \[30, 20\], and that of its image \[20, 30\] \(height, width\)",
        ),
        ({"size": [10**9, 10**9], "counts": "0"}, "its size is"),
        ({"counts": [600]}, "its size is None"),
        ({"size": [20, 30]}, "neither a text nor a list of whole numbers"),
        ({"size": [20, 30], "counts": [600.0]}, "neither a text nor"),
        ({"size": [20, 30], "counts": [700, -100]}, "neither a text nor"),
        ({"size": [20, 30], "counts": [True] * 600}, "neither a text nor"),
        ({"size": [20, 30], "counts": [599]}, "add up to 599, and its image has 600 pixels"),
        ({"size": [20, 30], "counts": [10**40]}, "add up to 10"),
        ({"size": [20, 30], "counts": ""}, "decoded 0 pixels but expected 600"),
        ({"size": [20, 30], "counts": "<222"}, "expected 600"),
        ({"size": [20, 30], "counts": "oooooooooooo"}, "malformed|expected 600"),
        ({"size": [20, 30], "counts": "é"}, "ascii"),
        ([], "neither a list of polygons nor run lengths"),
        ("polygon", "neither a list of polygons nor run lengths"),
        ([[1, 2, 3, 4]], "a polygon must be a list of six numbers or more"),
        ([[1, 2, 3, 4, 5]], "a polygon must be"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon must be"),
        ([[]], "a polygon must be"),
        ([1, 2, 3, 4, 5, 6], "a polygon must be"),
        ([[[1, 2], [3, 4], [5, 6]] * 2], "a corner of a polygon is no number"),
        ([[1, 2, 3, 4, 5, "6"]], "is no number"),
        ([[1, 2, 3, 4, 5, True]], "is no number"),
        ([[1, 2, 3, 4, 5, float("nan")]], "is no number"),
        ([[1, 2, 3, 4, 5, float("inf")]], "is no number, or lies more than 100,000 pixels away"),
        ([[1, 2, 3, 4, 5, -FARTHEST - 1]], "or lies more than"),
        ([[1, 2, 3, 4, 5, 10**400]], "or lies more than"),
        ([{"size": [20, 30], "counts": [600]}], "a polygon must be"),
    ],
)
def test_what_is_no_mask_of_the_image(segmentation: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_mask(segmentation, 20, 30)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ([4, 2, 8, 6], (2, 8), (4, 12)),
        ([4.4, 1.6, 8.2, 6.0], (2, 8), (4, 13)),
        ([-5, -5, 10, 10], (0, 5), (0, 5)),
        ([25, 15, 100, 100], (15, 20), (25, 30)),
        ([-50, 2, 10, 6], (0, 0), (0, 0)),
        ([4, -50, 8, 10], (0, 0), (0, 0)),
        ([40, 30, 5, 5], (0, 0), (0, 0)),
        ([4, 2, 0, 0], (0, 0), (0, 0)),
    ],
)
def test_a_box_stands_in_by_what_of_it_lies_in_the_image(
    box: list[float], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    expected_HW = torch.zeros(20, 30, dtype=torch.bool)
    expected_HW[slice(*rows), slice(*columns)] = True
    assert torch.equal(box_mask(box, 20, 30), expected_HW)

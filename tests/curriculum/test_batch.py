"""A batch and its patches."""

from __future__ import annotations

import pytest
import torch

from curriculum import (
    Batch,
)
from curriculum.testing import tiny_batch


def test_batch_describes_its_patches() -> None:
    batch = Batch(torch.zeros(2, 3, 8, 12), 4)
    assert (batch.grid, batch.num_patches, len(batch)) == ((2, 3), 6, 2)


@pytest.mark.parametrize(
    ("shape", "patch_size", "message"),
    [
        ((3, 8, 8), 4, r"images must be \[N, C, H, W\], got shape \(3, 8, 8\)"),
        ((1, 3, 8, 9), 4, r"patch_size = 4 does not divide the image of 8 x 9 pixels"),
        ((1, 3, 9, 8), 4, r"patch_size = 4 does not divide the image of 9 x 8 pixels"),
        ((1, 3, 8, 8), 0, r"patch_size = 0"),
    ],
)
def test_batch_refuses_what_cannot_be_cut_into_patches(shape: tuple[int, ...], patch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batch(torch.zeros(shape), patch_size)


def test_batch_moves_as_a_whole() -> None:
    batch = tiny_batch()
    moved = batch.to("meta")
    for name in ("images", "indices", "boxes", "flips"):
        assert getattr(batch, name).device.type == "cpu"
        assert getattr(moved, name).device.type == "meta"
    assert Batch(batch.images, 4).to("meta").indices is None

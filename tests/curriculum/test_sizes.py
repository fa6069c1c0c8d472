"""Sizes that are not square: of patches in a batch, and of the grids that samplers mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from curriculum import (
    Batch,
    Blockwise,
    Cells,
    Constant,
    Curriculum,
    EdgeDensity,
    FilteredNoise,
    HardestFirst,
    MultiBlock,
    Noise,
    PixelEntropy,
    PixelVariance,
    PredictedLoss,
    Sampler,
    Stratified,
    Uniform,
)
from curriculum.hardness import not_blank
from curriculum.sizes import as_size, divides, pair, spell_size
from curriculum.testing import TinyTeacher, tiny_batch


def noise(images: int = 4) -> Noise:
    return Noise.for_batch(seed=3, step=5, batch_size=images)


def test_a_size_is_a_number_or_a_pair() -> None:
    assert as_size("Part", 1, size=8) == as_size("Part", 1, size=(8, 8)) == 8
    assert as_size("Part", 1, size=(8, 16)) == (8, 16)
    assert (pair(8), pair((8, 16))) == ((8, 8), (8, 16))
    assert (spell_size(8), spell_size((8, 16))) == ("8", "8 x 16")
    assert divides((8, 16), (64, 96))
    assert not divides((16, 8), (64, 100))
    assert not divides(0, 8)


@pytest.mark.parametrize("size", [0, (8, 0), (8,), (8, 8, 8), (8.0, 8), "8", None, (True, 8)])
def test_what_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=r"Part\.size = .* must be (at least 1|a number of pixels, or two)"):
        as_size("Part", 1, size=size)


def test_a_batch_of_wide_patches() -> None:
    batch = Batch(torch.randn(2, 3, 12, 32), (4, 8))
    assert (batch.grid, batch.num_patches) == ((3, 4), 12)
    with pytest.raises(ValueError, match=r"patch_size = \(8, 4\) does not divide the image of 12 x 32 pixels"):
        Batch(batch.images, (8, 4))


def test_scores_of_wide_patches_are_of_their_pixels() -> None:
    images = torch.zeros(1, 1, 12, 32)
    images[:, :, 4:8, 8:16] = torch.rand(4, 8)  # the patch in the second row and the second column
    batch = Batch(images, (4, 8))
    only = torch.arange(12) == 5
    for estimator in (PixelVariance(), PixelEntropy(), EdgeDensity()):
        scores_NL = estimator(batch, None, num_masked=6, noise=noise(1))
        assert scores_NL.shape == (1, 12)
        assert int(scores_NL.argmax()) == 5
    assert torch.equal(not_blank(batch)[0], only)


def test_a_curriculum_of_wide_patches() -> None:
    batch, teacher = tiny_batch(grid=(3, 5), patch_size=(2, 6)), TinyTeacher(patch_size=(2, 6))
    assert batch.images.shape == (4, 3, 6, 30)
    parts = {"scheduler": Constant(value=1.0), "difficulty": PredictedLoss(), "sampler": HardestFirst()}
    mask = Curriculum(**parts, mask_ratio=0.6).draw(batch, teacher, 0.5, noise())
    assert mask.masked.shape == (4, 9)


def test_uniform_masking_leaves_one_of_each_cell_of_a_wide_grid() -> None:
    mask = Stratified()(None, alpha=0.0, num_masked=18, grid=(4, 6), noise=noise())
    visible_NRK = ~mask.to_bool().view(4, 4, 6)
    assert visible_NRK.unflatten(2, (3, 2)).unflatten(1, (2, 2)).sum(dim=(2, 4)).eq(1).all()


def test_blocks_of_a_wide_grid_are_rectangles_within_it() -> None:
    target_NRK, context_NRK = MultiBlock(targets=1).blocks(None, alpha=0.0, grid=(4, 12), noise=noise(50))
    for blocks_NRK in (target_NRK, context_NRK):
        rows, columns = blocks_NRK.any(dim=2).sum(dim=1), blocks_NRK.any(dim=1).sum(dim=1)
        assert torch.equal(blocks_NRK.sum(dim=(1, 2)), rows * columns)
        assert int(rows.max()) < 4
        assert int(columns.max()) < 12


def test_noise_of_a_wide_grid_has_no_direction() -> None:
    """A spot is as wide as it is high, in patches, however long the grid is."""
    field_NRK = FilteredNoise(color="red").field((16, 32), noise(200))
    down, across = (field_NRK * field_NRK.roll(1, dims=axis) for axis in (1, 2))
    torch.testing.assert_close(down.mean(), across.mean(), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("sampler", "grid", "message"),
    [
        (Blockwise(), (1, 12), r"Blockwise\.min_patches = None, here 1, must be below 0\.8.* grid of 1 x 12 patches"),
        (Blockwise(), (2, 98), r"Blockwise\.min_patches = None, here 16, must be below 7\.5"),
        (Blockwise(min_patches=30), (4, 9), r"Blockwise\.min_patches = 30 must be below 29\.75"),
        (
            Cells(sampler=Blockwise(min_patches=7)),
            (4, 9),
            r"min_patches = 7 must be below 6\.75.* grid of 2 x 5 patches",
        ),
    ],
)
def test_blocks_that_a_grid_has_no_room_for_are_refused(sampler: Sampler, grid: tuple[int, int], message: str) -> None:
    curriculum = Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=sampler, mask_ratio=0.9)
    with pytest.raises(ValueError, match=message):
        curriculum.check(None, grid[0] * grid[1], grid)

"""HOG against scikit-image's."""

from __future__ import annotations

import pytest
import torch
from skimage.feature import hog
from tiny_models import random_mask, some_images, tiny_method, tiny_model

from hpm.targets import HOG


@pytest.mark.parametrize(("cell", "orientations"), [(8, 9), (4, 6)])
def test_hog_is_that_of_scikit_image(cell: int, orientations: int) -> None:
    images = some_images().double()
    ours = HOG(cell=cell, orientations=orientations).histograms(images).unflatten(1, (3, orientations))
    for image in range(len(images)):
        for channel in range(3):
            theirs = hog(
                images[image, channel].numpy(),
                orientations=orientations,
                pixels_per_cell=(cell, cell),
                cells_per_block=(1, 1),
                block_norm="L2",
                feature_vector=False,
            )[:, :, 0, 0]
            torch.testing.assert_close(ours[image, channel].permute(1, 2, 0), torch.from_numpy(theirs))


def test_a_patch_has_the_histograms_of_its_own_cells() -> None:
    images, mask = some_images(), random_mask(3, 16, 12)
    target = HOG(cell=4)(images, mask, 8)
    assert target.shape == (3, 12, HOG(cell=4).outputs(tiny_model())) == (3, 12, 4 * 9 * 3)
    alone = HOG(cell=4).histograms(images)  # [N, 27, 8, 8]
    for place in range(12):
        row, column = divmod(int(mask.masked[1, place]), 4)
        cells = alone[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(target[1, place].sort().values, cells.flatten().sort().values)


def test_hog_of_a_flat_image_and_of_one_edge() -> None:
    assert torch.equal(HOG().histograms(torch.ones(1, 1, 16, 16)), torch.zeros(1, 9, 2, 2))
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 4:] = 1.0
    cells = HOG().histograms(edge)[0]
    assert cells[0, :, 0].tolist() == pytest.approx([1, 1])  # a vertical edge: the gradient lies at 0 degrees
    assert cells[1:].abs().sum() == 0


def test_cells_that_do_not_fill_a_patch() -> None:
    with pytest.raises(ValueError, match=r"HOG\.cell = 3 does not divide the model's patches of 8 pixels"):
        tiny_method(HOG(cell=3))

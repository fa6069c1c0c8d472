from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from curriculum import Batch, EdgeDensity, Noise
from curriculum.difficulty.pixels import sobel_magnitude
from curriculum.testing import DifficultyConformance, refuse_host_sync, tiny_batch


class TestEdgeDensity(DifficultyConformance):
    def build(self) -> EdgeDensity:
        return EdgeDensity()


def score(images_NCHW: torch.Tensor, patch_size: int) -> torch.Tensor:
    batch = Batch(images_NCHW, patch_size)
    noise = Noise.for_batch(seed=0, step=0, batch_size=len(batch))
    return EdgeDensity()(batch, None, num_masked=1, noise=noise)


def test_sobel_against_scipy() -> None:
    images = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0))
    theirs = [
        np.hypot(*(scipy.ndimage.sobel(image.numpy(), axis=axis, mode="nearest") for axis in (0, 1))) / 8
        for image in images
    ]
    np.testing.assert_allclose(sobel_magnitude(images), np.stack(theirs), rtol=1e-5, atol=1e-6)


def test_a_slope_scores_its_gradient() -> None:
    """Brightness rises by 3 a row and by 4 a column: 5 a pixel, and less where the border is repeated."""
    rows, columns = torch.arange(12.0).unsqueeze(1) * 3, torch.arange(12.0) * 4
    scores_NL = score((rows + columns).expand(1, 2, 12, 12), 4)
    assert scores_NL[0, 4].item() == pytest.approx(5)
    assert scores_NL[0, [0, 1, 3]].max().item() < 5


def test_a_flat_image_has_no_edges_whatever_its_brightness() -> None:
    assert score(torch.full((2, 3, 8, 8), 7.0), 4).tolist() == [[0.0] * 4] * 2


def test_an_edge_is_found_in_its_patch() -> None:
    images = torch.zeros(1, 1, 12, 12)
    images[:, :, 5:7, 5:7] = 1.0
    scores_NL = score(images, 4)
    assert scores_NL.argmax().item() == 4
    assert scores_NL[0, [0, 1, 2, 3, 5, 6, 7, 8]].tolist() == [0.0] * 8


def test_doubling_the_contrast_doubles_the_score() -> None:
    images = tiny_batch(grid=(3, 5)).images
    torch.testing.assert_close(score(images * 2 + 1, 4), score(images, 4) * 2, rtol=1e-4, atol=1e-6)


def test_half_precision_images_are_scored_in_float32_and_nothing_waits() -> None:
    images = tiny_batch().images.bfloat16()
    with refuse_host_sync():
        scores_NL = score(images, 4)
    assert scores_NL.dtype == torch.float32
    assert EdgeDensity.needs == ()

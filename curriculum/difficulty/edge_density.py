"""EdgeDensity: what a difficulty can know without any network.

Shape suffixes: N images, C channels, H and W pixels, L patches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.noise import Noise
from curriculum.teacher import Teacher


def sobel_magnitude(brightness_NHW: Tensor) -> Tensor:
    """[N, H, W]: the gradient's length at each pixel, per pixel, by Sobel's 3 x 3 filters; borders are repeated."""
    padded = functional.pad(brightness_NHW.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return torch.hypot(down[:, :, 2:] - down[:, :, :-2], across[:, 2:] - across[:, :-2]) / 8


class EdgeDensity(DifficultyEstimator):
    """Edges: the mean Sobel magnitude of a patch's luminance. Needs no teacher; what a learned difficulty should beat.

    Luminance is the mean over the channels of the image as the model sees it. The filter looks one pixel over a
    patch's border.
    """

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        edges_NHW = sobel_magnitude(batch.images.float().mean(dim=1))
        return functional.avg_pool2d(edges_NHW.unsqueeze(1), batch.patch_size).flatten(1)

"""Difficulties that are computed from the pixels, without a network.

Shape suffixes: N images, C channels, H and W pixels, L patches, K pixels of a patch, B bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.noise import Noise
from curriculum.sizes import Size
from curriculum.teacher import Teacher
from curriculum.validation import require_in


def sobel_magnitude(brightness_NHW: Tensor) -> Tensor:
    """Return the gradient's length at each pixel, [N, H, W], by Sobel's 3 x 3 filters; borders are repeated."""
    padded = functional.pad(brightness_NHW.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return torch.hypot(down[:, :, 2:] - down[:, :, :-2], across[:, 2:] - across[:, :-2]) / 8


def luminance(batch: Batch) -> Tensor:
    """Return the mean over the channels of the images as the model sees them, [N, H, W]."""
    return batch.images.float().mean(dim=1)


def _patches(values_NHW: Tensor, patch_size: Size) -> Tensor:
    """Cut into patches, [N, L, K]."""
    return functional.unfold(values_NHW.unsqueeze(1), patch_size, stride=patch_size).transpose(1, 2)


class EdgeDensity(DifficultyEstimator):
    """Scores patches by their edges: the mean Sobel magnitude of the luminance.

    Luminance is the mean over the channels of the image as the model sees it. The filter looks one pixel over a
    patch's border. It needs no teacher: a baseline that a learned difficulty should beat.
    """

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        edges_NHW = sobel_magnitude(luminance(batch))
        return functional.avg_pool2d(edges_NHW.unsqueeze(1), batch.patch_size).flatten(1)


class PixelVariance(DifficultyEstimator):
    """Scores patches by the variance of their luminance over the pixels."""

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        return _patches(luminance(batch), batch.patch_size).var(dim=2, unbiased=False)


class PixelEntropy(DifficultyEstimator):
    """Scores patches by the entropy of the histogram of their luminance, in bits.

    The bins divide the range of the whole image evenly.

    Args:
        bins: number of bins of the histogram, at least 2. Default 16.
    """

    def __init__(self, *, bins: int = 16) -> None:
        require_in("PixelEntropy", "[2, 65536]", bins=bins)
        self.bins = bins

    @torch.no_grad()
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        values_NLK = _patches(luminance(batch), batch.patch_size)
        low, high = values_NLK.amin(dim=(1, 2), keepdim=True), values_NLK.amax(dim=(1, 2), keepdim=True)
        scaled_NLK = (values_NLK - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        bin_NLK = (scaled_NLK * self.bins).long().clamp(0, self.bins - 1)
        counts_NLB = values_NLK.new_zeros(*bin_NLK.shape[:2], self.bins)
        counts_NLB.scatter_add_(2, bin_NLK, torch.ones_like(values_NLK))
        return torch.special.entr(counts_NLB / bin_NLK.shape[2]).sum(dim=2) / math.log(2)

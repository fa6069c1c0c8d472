"""Pixels as targets, as they are and standardized."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_mask, some_images

from curriculum import Mask
from hpm.models.patches import patchify
from hpm.targets import NormalizedPixels, Pixels


def test_an_unknown_error() -> None:
    with pytest.raises(ValueError, match=r"Pixels\.error = 'l1' is unknown; choose 'squared', 'absolute'"):
        Pixels(error="l1")


def test_patches_and_pixels_of_absolute_errors() -> None:
    images, mask = some_images(), random_mask(3, 16, 12)
    prediction = torch.zeros(3, 12, 192)
    expected = mask.gather_masked(patchify(images, 8)).abs().mean(dim=2)
    torch.testing.assert_close(Pixels(error="absolute").loss(prediction, Pixels()(images, mask, 8)), expected)


def test_standardized_as_variance_defines_it() -> None:
    images, mask = some_images().double(), random_mask(3, 16, 12)
    pixels = mask.gather_masked(patchify(images, 8))
    expected = (pixels - pixels.mean(dim=-1, keepdim=True)) / (pixels.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(NormalizedPixels()(images, mask, 8), expected, rtol=1e-12, atol=1e-12)
    flat = torch.full((1, 3, 32, 32), 0.7)  # nothing but its mean
    assert NormalizedPixels()(flat, Mask.from_keys(torch.rand(1, 16), 12), 8).abs().max() < 1e-3

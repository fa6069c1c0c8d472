"""Pixels as targets, as they are and standardized."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_mask, some_images, tiny_model

from curriculum import Mask
from hpm.models.patches import patchify
from hpm.targets import NormalizedPixels, Pixels


def test_each_channel_for_itself() -> None:
    images, mask = some_images().double(), random_mask(3, 16, 12)
    target = NormalizedPixels(each_channel=True)
    found = target(images, mask, 8)
    for image, places, values in zip(images, mask.masked.tolist(), found, strict=True):
        for place, value in zip(places, values, strict=True):
            row, column = place // 4 * 8, place % 4 * 8
            patch_CHW = image[:, row : row + 8, column : column + 8]
            expected = torch.stack([(c - c.mean()) / (c.var() + 1e-6).sqrt() for c in patch_CHW])
            torch.testing.assert_close(value, expected.permute(1, 2, 0).flatten())
    pixels = mask.gather_masked(patchify(images, 8))
    torch.testing.assert_close(target.restore(found, images, mask, 8), pixels)
    torch.testing.assert_close(NormalizedPixels().restore(NormalizedPixels()(images, mask, 8), images, mask, 8), pixels)


def test_a_patch_of_one_pixel_cannot_be_standardized_by_channel() -> None:
    with pytest.raises(ValueError, match=r"NormalizedPixels.each_channel = True standardizes over a patch's pixels"):
        NormalizedPixels(each_channel=True).outputs(tiny_model(img_size=4, patch_size=1))


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

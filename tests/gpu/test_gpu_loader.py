"""Batches on a GPU: the same images as on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.data.crops import RandomResizedCrop
from hpm.data.loader import Loader
from hpm.data.sources.base import ImageSource
from hpm.data.sources.digit_scenes import DigitScenes
from hpm.data.sources.image_folder import ImageFolder


@pytest.fixture(params=["memory", "files"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ImageSource:
    if request.param == "memory":
        return DigitScenes(train_size=130, test_size=10)
    random = np.random.default_rng(0)
    for k in range(14):
        pixels = random.integers(0, 256, (40 + k, 60 - k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k:02}.{'jpg' if k % 2 else 'png'}")
    return ImageFolder(root=tmp_path, img_size=16)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_gpu_sees_the_same_images(source: ImageSource, num_workers: int) -> None:
    def loader(device: str, workers: int) -> Loader:
        return Loader(
            source=source,
            batch_size=4,
            patch_size=8,
            crop=RandomResizedCrop(),
            seed=5,
            device=torch.device(device),
            num_workers=workers,
        )

    for (ours,), (theirs,) in zip(loader("cpu", 0).epoch(0), loader("cuda", num_workers).epoch(0), strict=True):
        assert theirs.images.is_cuda
        assert torch.equal(ours.indices, theirs.indices.cpu())
        assert torch.equal(ours.boxes, theirs.boxes.cpu())
        assert torch.allclose(ours.images, theirs.images.cpu(), atol=1e-4)

"""DigitScenes whose test images may have each other's labels."""

from __future__ import annotations

import gin
import torch

from hpm.data import DigitScenes, Split


@gin.register
class ShuffledScenes(DigitScenes):
    """DigitScenes, 40 for validation and 48 for testing.

    Args:
        img_size: S.
        train_size: scenes of the training split.
        shuffled: whether the labels of the test images are shuffled.
    """

    def __init__(self, *, img_size: int, train_size: int, shuffled: bool) -> None:
        super().__init__(img_size=img_size, train_size=train_size, validation_size=40, test_size=48)
        self.shuffled = shuffled

    def read(self, split: str) -> Split:  # type: ignore[override]
        """A split."""
        read = super().read(split)
        if split == "test" and self.shuffled:
            read.labels = read.labels[torch.randperm(len(read), generator=torch.Generator().manual_seed(0))]
        return read

"""Sources of images: what a data set must offer, and the split that lies in memory.

Shape suffixes: N images of a batch, K images of the split, C channels, H W stored pixels, S output side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from hpm.data.augment import resample, whole_boxes


class Split(ABC):
    """One split of a data set: its training or its test images.

    Attributes:
        labels: int64 [K], each image's class, or None where there are none.
    """

    labels: Tensor | None = None

    @abstractmethod
    def __len__(self) -> int:
        """K, the images of the split."""

    @abstractmethod
    def sizes(self, indices_N: Tensor) -> Tensor:
        """Height and width of the stored images, in pixels, int64 [N, 2]."""

    @abstractmethod
    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: int) -> Tensor:
        """Crops of the images at `indices_N`, resampled to `size` x `size` pixels by an antialiased bicubic filter.

        Args:
            indices_N: int64 [N], on the CPU.
            boxes_N4: float32 [N, 4], (left, top, width, height) in pixels of the stored image.
            flips_N: bool [N], whether to mirror the crop left to right.
            size: S, pixels.

        Returns:
            Float32 [N, C, S, S] in [0, 255].
        """


class TensorSplit(Split):
    """Images of one size, held in memory.

    Args:
        images_KCHW: uint8 [K, C, H, W].
        labels: int64 [K], or None. Default None.
    """

    def __init__(self, images_KCHW: Tensor, labels: Tensor | None = None) -> None:
        if images_KCHW.dtype != torch.uint8 or images_KCHW.ndim != 4:
            raise ValueError(
                f"TensorSplit.images_KCHW = {images_KCHW.dtype} of shape {tuple(images_KCHW.shape)} must be uint8 of "
                "shape [K, C, H, W]"
            )
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != images_KCHW.shape[:1]):
            raise ValueError(
                f"TensorSplit.labels = {labels.dtype} of shape {tuple(labels.shape)} must be int64 of shape "
                f"[{len(images_KCHW)}]"
            )
        self.images_KCHW = images_KCHW
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images_KCHW)

    def sizes(self, indices_N: Tensor) -> Tensor:
        """Int64 [N, 2], all the same."""
        return torch.tensor(self.images_KCHW.shape[-2:]).expand(len(indices_N), 2)

    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: int) -> Tensor:
        """Float32 [N, C, S, S] in [0, 255]."""
        return resample(self.images_KCHW[indices_N], boxes_N4, flips_N, size)


class ImageSource(ABC):
    """A data set: a training split, a test split and how its pixels are normalized.

    Args:
        img_size: S, side in pixels of the square images that the model sees.
        in_chans: C, their channels.
        mean: of each channel, for pixel values scaled to [0, 1].
        std: of each channel, likewise.
        class_names: names of the classes, in label order. Default none, for unlabeled images.
    """

    def __init__(
        self,
        *,
        img_size: int,
        in_chans: int,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str] = (),
    ) -> None:
        name = type(self).__name__
        if img_size < 1:
            raise ValueError(f"{name}.img_size = {img_size} must be a positive number of pixels")
        if in_chans < 1:
            raise ValueError(f"{name}.in_chans = {in_chans} must be positive")
        if len(mean) != in_chans:
            raise ValueError(f"{name}.mean = {mean} must have one value for each of the {in_chans} channels")
        if len(std) != in_chans or min(std) <= 0:
            raise ValueError(f"{name}.std = {std} must have one positive value for each of the {in_chans} channels")
        self.img_size = img_size
        self.in_chans = in_chans
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.class_names = tuple(class_names)

    @abstractmethod
    def train(self) -> Split:
        """The training split, the same object at every call."""

    @abstractmethod
    def test(self) -> Split:
        """The test split, the same object at every call.

        Raises:
            UserError: if the data set has none.
        """

    @property
    def num_classes(self) -> int:
        """Classes; 0 where the images are unlabeled."""
        return len(self.class_names)

    def normalize(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 255], of any type -> float32 [N, C, H, W] as the model sees them."""
        mean_C11, std_C11 = self._moments(images_NCHW.device)
        return (images_NCHW.float() / 255.0 - mean_C11) / std_C11

    def denormalize(self, images_NCHW: Tensor) -> Tensor:
        """What the model sees (or reconstructs) -> float32 [N, C, H, W] in [0, 1], clipped."""
        mean_C11, std_C11 = self._moments(images_NCHW.device)
        return (images_NCHW.float() * std_C11 + mean_C11).clamp(0.0, 1.0)

    def load(self, split: Split, indices_N: Tensor) -> Tensor:
        """Images for evaluation, not augmented: normalized float32 [N, C, S, S]."""
        boxes_N4 = self.evaluation_boxes(split.sizes(indices_N))
        flips_N = torch.zeros(len(indices_N), dtype=torch.bool)
        return self.normalize(split.crop(indices_N, boxes_N4, flips_N, self.img_size))

    def evaluation_boxes(self, sizes_N2: Tensor) -> Tensor:
        """The part of an image that `load` shows, float32 [N, 4]: all of it."""
        return whole_boxes(sizes_N2)

    def _moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        moments = torch.tensor([self.mean, self.std], device=device)[:, :, None, None]
        return moments[0], moments[1]

"""Sources of images: what a data set must offer, and the split that lies in memory.

Shape suffixes: N images of a batch, K images of the split, C channels, H W stored pixels, S output side.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from curriculum.validation import require_at_least
from hpm.data.crops import resample, whole_boxes
from hpm.data.sources.fingerprint import fingerprint_of, tensor_content
from hpm.errors import UserError

_CPU = torch.device("cpu")
_VALUES_AT_ONCE = 1 << 18  # few enough for the processor's cache, which makes normalization five times faster

# Boxes [N, 4] and flips [N] for some rows of a batch, given the sizes [N, 2] of their images.
Choose = Callable[[slice, Tensor], tuple[Tensor, Tensor]]


class Crops(NamedTuple):
    """Crops of a batch of images, and where they were cut.

    Args:
        images_NCSS: uint8 or float32 [N, C, S, S] in [0, 255].
        boxes_N4: float32 [N, 4], (left, top, width, height) in pixels of the stored image.
        flips_N: bool [N], whether the crop is mirrored left to right.
    """

    images_NCSS: Tensor
    boxes_N4: Tensor
    flips_N: Tensor


class Unreadable(UserError):
    """Images of a batch that cannot be read.

    Args:
        names: of the unreadable images, by their position in the batch.
        reasons: likewise, why each of them cannot be read.
        crops: the whole batch; at the positions of the unreadable ones its content means nothing. None where nothing
            was read.
    """

    def __init__(self, names: Mapping[int, str], reasons: Mapping[int, str], crops: Crops | None = None) -> None:
        first = min(reasons)
        more = f" (and {len(reasons) - 1} more of this batch)" if len(reasons) > 1 else ""
        super().__init__(f"{names[first]} cannot be read as an image: {reasons[first]}{more}")
        self.reasons = dict(reasons)
        self.crops = crops


class Split(ABC):
    """One split of a data set: its training or its test images.

    Attributes:
        labels: int64 [K], each image's class, or None where there are none.
        device: where indices are expected and crops are made. Default the CPU.
    """

    labels: Tensor | None = None
    device: torch.device = _CPU

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
            indices_N: int64 [N], on the split's device, as the boxes and flips are.
            boxes_N4: float32 [N, 4], (left, top, width, height) in pixels of the stored image.
            flips_N: bool [N], whether to mirror the crop left to right.
            size: S, pixels.

        Returns:
            Uint8 or float32 [N, C, S, S] in [0, 255].

        Raises:
            Unreadable: if images cannot be read.
        """

    def view(self, indices_N: Tensor, size: int, choose: Choose) -> Crops:
        """Crops whose boxes depend on the images' sizes.

        Args:
            indices_N: int64 [N], on the split's device.
            size: S, pixels.
            choose: gives boxes and flips for rows of the batch, from their images' sizes. May be called for a part of
                the batch at a time.

        Raises:
            Unreadable: if images cannot be read; it carries the crops of the others.
        """
        boxes_N4, flips_N = choose(slice(0, len(indices_N)), self.sizes(indices_N))
        return Crops(self.crop(indices_N, boxes_N4, flips_N, size), boxes_N4, flips_N)

    def name(self, index: int) -> str:
        """What a message calls an image: its file where there is one."""
        return f"image {index}"

    def to(self, device: torch.device) -> Split:
        """The same split on another device, where its images lie in memory; else the split itself."""
        return self

    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell these images and labels, in their order, from others, wherever they lie.

        Of images in memory every pixel counts; of image files their names and, where they are at hand, their sizes.
        """
        return fingerprint_of(len(self), self.labels, self.content())

    def content(self) -> Iterable[bytes]:
        """What tells the images from others, for `fingerprint`; by default nothing but their number and labels."""
        return ()


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
        self.device = images_KCHW.device
        self._size_2 = torch.tensor(images_KCHW.shape[-2:], device=self.device)

    def __len__(self) -> int:
        return len(self.images_KCHW)

    def sizes(self, indices_N: Tensor) -> Tensor:
        """Int64 [N, 2], all the same."""
        return self._size_2.expand(len(indices_N), 2)

    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: int) -> Tensor:
        """Float32 [N, C, S, S] in [0, 255]."""
        return resample(self.images_KCHW[indices_N], boxes_N4, flips_N, size)

    def to(self, device: torch.device) -> TensorSplit:
        """The same images on another device; labels stay where they are."""
        return self if device == self.device else TensorSplit(self.images_KCHW.to(device), self.labels)

    def content(self) -> Iterable[bytes]:
        """The images' size, and every pixel."""
        return tensor_content(self.images_KCHW)


class ImageSource(ABC):
    """A data set: a training split, a test split and how its pixels are normalized.

    Making one reads nothing: images are looked for when a split or the classes are asked for, so that a trained model
    can be used where its images are not.

    Args:
        img_size: S, side in pixels of the square images that the model sees.
        in_chans: C, their channels.
        mean: of each channel, for pixel values scaled to [0, 1].
        std: of each channel, likewise.
        class_names: names of the classes, in label order. Default none, or what the class says: see `class_names`.
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
        require_at_least(name, 1, img_size=img_size, in_chans=in_chans)
        if len(mean) != in_chans:
            raise ValueError(f"{name}.mean = {mean} must have one value for each of the {in_chans} channels")
        if len(std) != in_chans or min(std) <= 0:
            raise ValueError(f"{name}.std = {std} must have one positive value for each of the {in_chans} channels")
        self.img_size = img_size
        self.in_chans = in_chans
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        if class_names:
            self.class_names = tuple(class_names)
        self._moments_on: dict[torch.device, Tensor] = {}

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
    def known_train_size(self) -> int | None:
        """How many training images there are, where the settings say so; None where that takes a look at the data."""
        return None

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order; none for unlabeled images. A source may read them here, when asked."""
        return ()

    @property
    def num_classes(self) -> int:
        """Classes; 0 where the images are unlabeled."""
        return len(self.class_names)

    def normalize(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 255], of any type -> float32 [N, C, H, W], contiguous, as the model sees them."""
        mean_C11, std_C11, white_C11 = self._moments(images_NCHW.device)
        normalized_NCHW = torch.empty(images_NCHW.shape, device=images_NCHW.device)
        if images_NCHW.device.type != "cpu":
            # The same operations in two passes over memory; the CPU's cache makes four of simple ones faster.
            return torch.addcdiv(-mean_C11, images_NCHW, white_C11, out=normalized_NCHW).div_(std_C11)
        at_once = max(1, _VALUES_AT_ONCE // max(1, math.prod(images_NCHW.shape[1:])))
        for part, pixels in zip(normalized_NCHW.split(at_once), images_NCHW.split(at_once), strict=True):
            part.copy_(pixels).div_(255.0).sub_(mean_C11).div_(std_C11)
        return normalized_NCHW

    def denormalize(self, images_NCHW: Tensor) -> Tensor:
        """What the model sees (or reconstructs) -> float32 [N, C, H, W] in [0, 1], clipped."""
        mean_C11, std_C11, _ = self._moments(images_NCHW.device)
        return (images_NCHW.float() * std_C11 + mean_C11).clamp(0.0, 1.0)

    def load(self, split: Split, indices_N: Tensor) -> Tensor:
        """Images for evaluation, not augmented: normalized float32 [N, C, S, S].

        Raises:
            UserError: if one cannot be read; it names the file.
        """

        def choose(rows: slice, sizes_N2: Tensor) -> tuple[Tensor, Tensor]:
            flips_N = torch.zeros(len(sizes_N2), dtype=torch.bool, device=sizes_N2.device)
            return self.evaluation_boxes(sizes_N2), flips_N

        return self.normalize(split.view(indices_N, self.img_size, choose).images_NCSS)

    def evaluation_boxes(self, sizes_N2: Tensor) -> Tensor:
        """The part of an image that `load` shows, float32 [N, 4]: all of it."""
        return whole_boxes(sizes_N2)

    @property
    def knows_objects(self) -> bool:
        """Whether the data can say which patches hold the object."""
        return False

    def object_map(self, indices_N: Tensor, *, patch_size: int) -> Tensor | None:
        """Which patches of test images, as `load` shows them, hold the object.

        Args:
            indices_N: int64 [N], images of the test split.
            patch_size: side of a patch in pixels; divides `img_size`.

        Returns:
            Bool [N, L], patches in raster order, or None where the data do not know.
        """
        return None

    def _moments(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation, and the largest pixel value, 255."""
        # Made once for each device: a copy from ordinary memory waits for the device.
        if device not in self._moments_on:
            values = [self.mean, self.std, [255.0] * self.in_chans]
            self._moments_on[device] = torch.tensor(values, device=device)[:, :, None, None]
        mean_C11, std_C11, white_C11 = self._moments_on[device]
        return mean_C11, std_C11, white_C11

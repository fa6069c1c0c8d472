"""Splits of a data set: the interface, and the split that lies in memory.

Shape suffixes: N images of a batch, K images of the split, C channels, H W stored pixels, S S output
height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from curriculum.sizes import Size
from hpm.data.crops import resample
from hpm.data.sources.annotations import Objects
from hpm.data.sources.fingerprint import fingerprint_of, tensor_content
from hpm.errors import UserError
from hpm.metrics import HELD_OUT

TRAIN = "train"
VALIDATION, TEST = HELD_OUT
SPLITS = (TRAIN, VALIDATION, TEST)
"""Training images are learned from. Whatever is chosen is chosen on validation images. Test images are scored once."""

_CPU = torch.device("cpu")

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
    """One split of a data set: its training, validation or test images.

    Attributes:
        labels: int64 [K], each image's class, or None where there are none.
        device: where indices are expected and crops are made. Default the CPU.
        indices_K: int64 [K], where these are some of the images of another split: which of them. Default None.
    """

    labels: Tensor | None = None
    device: torch.device = _CPU
    indices_K: Tensor | None = None

    @abstractmethod
    def __len__(self) -> int:
        """K, the images of the split."""

    @abstractmethod
    def sizes(self, indices_N: Tensor) -> Tensor:
        """Height and width of the stored images, in pixels, int64 [N, 2]."""

    @abstractmethod
    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size) -> Tensor:
        """Crops of the images at `indices_N`, resampled by an antialiased bicubic filter.

        Args:
            indices_N: int64 [N], on the split's device, as the boxes and flips are.
            boxes_N4: float32 [N, 4], (left, top, width, height) in pixels of the stored image.
            flips_N: bool [N], whether to mirror the crop left to right.
            size: of the crops in pixels, S for squares or (height, width).

        Returns:
            Uint8 or float32 [N, C, S, S] in [0, 255].

        Raises:
            Unreadable: if images cannot be read.
        """

    def view(self, indices_N: Tensor, size: Size, choose: Choose) -> Crops:
        """Crops whose boxes depend on the images' sizes.

        Args:
            indices_N: int64 [N], on the split's device.
            size: of the crops in pixels, S for squares or (height, width).
            choose: gives boxes and flips for rows of the batch, from their images' sizes. May be called for a part of
                the batch at a time.

        Raises:
            Unreadable: if images cannot be read; it carries the crops of the others.
        """
        boxes_N4, flips_N = choose(slice(0, len(indices_N)), self.sizes(indices_N))
        return Crops(self.crop(indices_N, boxes_N4, flips_N, size), boxes_N4, flips_N)

    def class_maps(self, indices_N: Tensor) -> list[Tensor]:
        """The class of every pixel of stored images, int16 [H, W] of each; `annotations.IGNORED` where none counts.

        Args:
            indices_N: int64 [N].

        Raises:
            UserError: if they cannot be read, or do not fit the images; it names the file.
        """
        raise NotImplementedError(f"{type(self).__name__} has no class maps")

    def objects(self, indices_N: Tensor) -> list[Objects]:
        """The objects of stored images.

        Args:
            indices_N: int64 [N].

        Raises:
            UserError: if they cannot be read, or do not fit the images; it names the file.
        """
        raise NotImplementedError(f"{type(self).__name__} has no objects")

    def name(self, index: int) -> str:
        """What a message calls an image: its file where there is one."""
        return f"image {index}"

    def prepare(self) -> None:  # noqa: B027 - most splits have nothing to prepare
        """Read now what is read once and then held, so that its faults show and processes started later share it.

        By default there is nothing of the kind.

        Raises:
            UserError: if it cannot be read.
        """

    def to(self, device: torch.device) -> Split:
        """The same split on another device, where its images lie in memory; else the split itself."""
        return self

    def subset(self, indices_K: Tensor) -> Split:
        """Some of the images, as a split of their own, which remembers `indices_K`.

        Args:
            indices_K: int64 [K], which, in the order wanted.
        """
        return Subset(self, indices_K)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell these images and labels, in their order, from others, wherever they lie.

        Of images in memory every pixel counts; of image files their names and sizes, of more than 10,000 files in
        folders the sizes of every so many.
        """
        return fingerprint_of(len(self), self.labels, self.content())

    def content(self) -> Iterable[bytes]:
        """What tells the images from others, for `fingerprint`; by default nothing but their number and labels."""
        return ()


class Subset(Split):
    """Some of the images of another split.

    Args:
        split: of which these are.
        indices_K: int64 [K], which, in their order.
    """

    indices_K: Tensor

    def __init__(self, split: Split, indices_K: Tensor) -> None:
        self.split = split
        self.indices_K = indices_K.to(split.device)
        self.labels = None if split.labels is None else split.labels[indices_K]
        self.device = split.device

    def __len__(self) -> int:
        return len(self.indices_K)

    def sizes(self, indices_N: Tensor) -> Tensor:
        """Int64 [N, 2], as the other split has them."""
        return self.split.sizes(self.indices_K[indices_N])

    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size) -> Tensor:
        """The other split's crops."""
        return self.split.crop(self.indices_K[indices_N], boxes_N4, flips_N, size)

    def view(self, indices_N: Tensor, size: Size, choose: Choose) -> Crops:
        """The other split's crops."""
        return self.split.view(self.indices_K[indices_N], size, choose)

    def class_maps(self, indices_N: Tensor) -> list[Tensor]:
        """The other split's class maps."""
        return self.split.class_maps(self.indices_K[indices_N])

    def objects(self, indices_N: Tensor) -> list[Objects]:
        """The other split's objects."""
        return self.split.objects(self.indices_K[indices_N])

    def name(self, index: int) -> str:
        """What the other split calls the image."""
        return self.split.name(int(self.indices_K[index]))

    def prepare(self) -> None:
        """Read what the other split reads once."""
        self.split.prepare()

    def to(self, device: torch.device) -> Split:
        """The same images of the other split on another device."""
        moved = self.split.to(device)
        return self if moved is self.split else Subset(moved, self.indices_K.cpu())

    def content(self) -> Iterable[bytes]:
        """What tells the other split from others, and which of its images these are."""
        yield from self.split.content()
        yield self.indices_K.cpu().numpy().tobytes()


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
        if labels is not None and bool((labels < 0).any()):
            raise ValueError(
                f"TensorSplit.labels holds {int(labels.min())}; classes are counted from 0, and every image has one: "
                "leave out images without, or give None for none at all"
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

    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size) -> Tensor:
        """Float32 [N, C, S, S] in [0, 255]."""
        return resample(self.images_KCHW[indices_N], boxes_N4, flips_N, size)

    def subset(self, indices_K: Tensor) -> TensorSplit:
        """A copy of some of the images."""
        labels = None if self.labels is None else self.labels[indices_K]
        subset = TensorSplit(self.images_KCHW[indices_K.to(self.device)], labels)
        subset.indices_K = indices_K
        return subset

    def to(self, device: torch.device) -> TensorSplit:
        """The same images on another device; labels stay where they are."""
        if device == self.device:
            return self
        moved = TensorSplit(self.images_KCHW.to(device), self.labels)
        moved.indices_K = self.indices_K
        return moved

    def content(self) -> Iterable[bytes]:
        """The images' size, and every pixel."""
        return tensor_content(self.images_KCHW)

"""Images with a mask each, whose pixels are the numbers of classes: one's own, ADE20K's or Pascal VOC's.

Shape suffixes: N images, K images of the split, H W stored pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from curriculum.sizes import Size
from curriculum.validation import require_in
from hpm.data.sources.annotations import IGNORED
from hpm.data.sources.base import ImageSource
from hpm.data.sources.fingerprint import joined_names
from hpm.data.sources.folder_split import FolderSplit
from hpm.data.sources.image_files import describe_left_out, open_image
from hpm.data.sources.image_folder import IMAGENET_MEAN, IMAGENET_STD
from hpm.data.sources.segmentation_layouts import Layout, find_layout
from hpm.data.sources.split import TEST, VALIDATION
from hpm.errors import UserError
from hpm.runtime.files import expanded

_INDEXED = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # modes of images whose pixels are one whole number each
_LOSSY = ("JPEG", "JPEG2000", "MPO", "WEBP", "AVIF")
_MOST_NUMBERS = 65_535  # of masks in 16 bits
_TOLD = 5  # unknown numbers in a message
_LARGEST = 65_535  # number in a mask of 16 bits


class SegmentationSplit(FolderSplit):
    """Images with masks.

    Args:
        paths: K images.
        mask_paths: K masks.
        numbers: the class that each number of a mask stands for, `IGNORED` for none; other numbers are refused.
    """

    def __init__(self, paths: Sequence[str | Path], mask_paths: Sequence[str | Path], numbers: dict[int, int]) -> None:
        super().__init__(paths, None)
        self.mask_paths = [str(path) for path in mask_paths]
        self.numbers = numbers
        self._class_of = torch.full((max(numbers) + 1,), IGNORED, dtype=torch.int16)
        for number, label in numbers.items():
            self._class_of[number] = label

    def class_maps(self, indices_N: Tensor) -> list[Tensor]:
        """The class of every pixel, int16 [H, W] of each image."""
        sizes = self.sizes(indices_N).tolist()
        return [self._class_map(index, *size) for index, size in zip(indices_N.tolist(), sizes, strict=True)]

    def _class_map(self, index: int, height: int, width: int) -> Tensor:
        path = self.mask_paths[index]
        try:
            with open_image(path) as image:
                mode, kind, numbers_HW = image.mode, image.format, np.asarray(image).astype(np.int64)
        except Exception as error:  # Pillow's readers raise almost anything about a damaged file
            raise UserError(f"the mask {path} cannot be read as an image: {error}") from error
        if kind in _LOSSY:
            raise UserError(
                f"the mask {path} is a {kind}, whose compression changes the numbers of pixels; a mask must be a PNG, "
                "made anew from the numbers as they were"
            )
        if mode not in _INDEXED:
            raise UserError(
                f"the mask {path} is a picture in color (Pillow's mode {mode}); a mask holds the number of each "
                "pixel's class, as an indexed or a gray PNG"
            )
        if numbers_HW.shape != (height, width):
            rows, columns = numbers_HW.shape
            raise UserError(
                f"the mask {path} has {columns} x {rows} pixels (width x height), and its image {self.paths[index]} "
                f"{width} x {height}; they must be of one size"
            )
        small = numbers_HW.max(initial=0) <= _MOST_NUMBERS and numbers_HW.min(initial=0) >= 0
        there = np.flatnonzero(np.bincount(numbers_HW.ravel())) if small else np.unique(numbers_HW)
        unknown = sorted(set(there.tolist()) - self.numbers.keys())
        if unknown:
            many = f" and {len(unknown) - _TOLD} more" if len(unknown) > _TOLD else ""
            raise UserError(
                f"the mask {path} holds the numbers {', '.join(map(str, unknown[:_TOLD]))}{many}, which stand for no "
                f"class: known are {_spelled(self.numbers)}; SegmentationFolder.ignore_index is the number of pixels "
                "that count for nothing"
            )
        return self._class_of[torch.from_numpy(numbers_HW)]

    def subset(self, indices_K: Tensor) -> SegmentationSplit:
        """Some of the images, with their masks."""
        rows = indices_K.tolist()
        paths, mask_paths = [self.paths[row] for row in rows], [self.mask_paths[row] for row in rows]
        subset = SegmentationSplit(paths, mask_paths, self.numbers)
        subset.indices_K = indices_K
        return subset

    def content(self) -> Iterable[bytes]:
        """That of the images, and the names of the masks."""
        yield from super().content()
        yield joined_names(self.mask_paths)


class SegmentationFolder(ImageSource):
    """Images of which every pixel has a class, given by a mask: an indexed or gray PNG of the image's size.

    Three layouts are known by their folders:

    - one's own: `root/train/images/NAME.jpg` with `root/train/masks/NAME.png`, likewise `root/val`, `root/test` or
      both, and `root/classes.txt`, a class a line, in the order of their numbers from 0;
    - ADE20K's scene parsing benchmark (`ADEChallengeData2016`): `root/images/training`, `root/annotations/training`,
      likewise `validation`, and `root/objectInfo150.txt`; 0 is what is not annotated, and 150 classes begin with 1;
    - Pascal VOC's (`VOCdevkit/VOC2012`): `root/JPEGImages`, `root/SegmentationClass` and the lists `train.txt` and
      `val.txt` in `root/ImageSets/Segmentation`; 0 is the background, and 255 what is not sure.

    Where there are validation images and no test images they are the test images, as in what is published, and
    validation images are carved from the training images. Images have no classes of their own, so that probes of whole
    images have nothing to learn here.

    An image is shown whole, resized to `img_size` whatever its aspect, and its mask with it, by the nearest pixel.

    Args:
        root: the folder; None where a model is used or planned without its images.
        img_size: of the images in pixels, the side of squares or (height, width). Default 224.
        ignore_index: the number of pixels that count for nothing. Default 255.
        mean: of each channel, for pixel values scaled to [0, 1]. Default ImageNet's.
        std: of each channel, likewise. Default ImageNet's.
        validation_images: how many training images are carved for validation; see `ImageSource`. Default None.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"root"})

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        img_size: Size = 224,
        ignore_index: int = 255,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        validation_images: int | None = None,
    ) -> None:
        super().__init__(img_size=img_size, in_chans=3, mean=mean, std=std, validation_images=validation_images)
        require_in("SegmentationFolder", f"[0, {_LARGEST}]", ignore_index=ignore_index)
        self.root = None if root is None or root == "" else expanded(root)
        self.ignore_index = ignore_index
        self._left_out = Counter[str]()

    @property
    def pixel_classes(self) -> tuple[str, ...]:
        return self._layout.class_names

    @property
    def has_test(self) -> bool:
        return TEST in self._layout.parts

    @property
    def has_own_validation(self) -> bool:
        return VALIDATION in self._layout.parts

    def read(self, split: str) -> SegmentationSplit:
        """Find the images and masks of a split.

        Raises:
            UserError: if there are none, or an image has no mask.
        """
        if self.validation_images and self.has_own_validation:
            raise UserError(
                f"SegmentationFolder.validation_images = {self.validation_images} carves nothing, for "
                f"SegmentationFolder.root = {self.root} has validation images; leave it out"
            )
        if split not in self._layout.parts:
            raise UserError(f"SegmentationFolder.root = {self.root} has no {split} images: {self._layout.where(split)}")
        pairs = self._layout.find(split, self._left_out)
        return SegmentationSplit([image for image, _ in pairs], [mask for _, mask in pairs], self._numbers)

    def origin(self, split: str) -> str:
        return self._layout.parts.get(split, "")

    def describe(self) -> str:
        told = [super().describe()]
        if "_layout" in vars(self):
            told += [f"{len(self.pixel_classes)} classes of pixels", describe_left_out(self._left_out)]
        return "; ".join(filter(None, told))

    @cached_property
    def _numbers(self) -> dict[int, int]:
        """The class that each number of a mask stands for."""
        first, names = self._layout.first_class, self._layout.class_names
        if first <= self.ignore_index < first + len(names):
            raise UserError(
                f"SegmentationFolder.ignore_index = {self.ignore_index} is the number of a class, "
                f"{names[self.ignore_index - first]}; choose another"
            )
        numbers = {first + label: label for label in range(len(names))}
        return dict.fromkeys((*range(first), self.ignore_index), IGNORED) | numbers

    @cached_property
    def _layout(self) -> Layout:
        if self.root is None:
            raise UserError("SegmentationFolder.root is not bound; bind it to the folder that holds images and masks")
        try:
            return find_layout(self.root)
        except OSError as error:
            raise UserError(f"SegmentationFolder.root = {self.root} cannot be read: {error}") from error


def _spelled(numbers: Iterable[int]) -> str:
    """Numbers for people: "0 to 149 and 255"."""
    ordered = sorted(numbers)
    last = next((place for place, number in enumerate(ordered) if number != ordered[0] + place), len(ordered)) - 1
    rest = "".join(f" and {number}" for number in ordered[last + 1 :])
    return f"{ordered[0]} to {ordered[last]}{rest}"

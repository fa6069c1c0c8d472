"""Splits of encoded images (JPEG, PNG, ...), decoded by Pillow when they are asked for.

Shape suffixes: N images, C channels, S S output height and width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from curriculum.sizes import Size, pair
from curriculum.validation import require_choice
from hpm.data.sources.image_modes import in_eight_bits, to_mode
from hpm.data.sources.split import Choose, Crops, Split, Unreadable

_CHANNELS = {"RGB": 3, "L": 1}

# What is done with an image of a batch: its row, the image as it was opened, the box of its crop and whether to mirror.
Use = Callable[[int, Image.Image, Sequence[float], bool], None]

# Few enough files to hold open; enough images for their crops to be drawn at little cost.
_OPEN_AT_ONCE = 32


class EncodedSplit(Split):
    """Images that Pillow opens.

    Args:
        mode: what the images are converted to, "RGB" or "L" (gray). Default "RGB".

    Attributes:
        channels: C, 3 or 1.
    """

    def __init__(self, mode: str = "RGB") -> None:
        require_choice(type(self).__name__, _CHANNELS, mode=mode)
        self.mode = mode
        self.channels = _CHANNELS[mode]

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """An image, not decoded yet where its format allows. Any exception counts as an unreadable image."""

    def sizes(self, indices_N: Tensor) -> Tensor:
        """Int64 [N, 2], from the headers."""
        reasons: dict[int, str] = {}
        images = self._open(indices_N.tolist(), 0, reasons)
        for image in images:
            _close(image)
        if reasons:
            raise Unreadable(self._names(indices_N, reasons), reasons)
        return _sizes(images)

    def subset(self, indices_K: Tensor) -> EncodedSplit:
        """Some of the images, as encoded images of their own."""
        return EncodedSubset(self, indices_K)

    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size) -> Tensor:
        """Uint8 [N, C, S, S]."""
        return self.view(indices_N, size, lambda rows, sizes_N2: (boxes_N4[rows], flips_N[rows])).images_NCSS

    def view(self, indices_N: Tensor, size: Size, choose: Choose) -> Crops:
        """Crops whose boxes depend on the images' sizes; each image is opened once."""
        images_NCSS = torch.zeros(len(indices_N), self.channels, *pair(size), dtype=torch.uint8)

        def put(row: int, image: Image.Image, box: Sequence[float], flip: bool) -> None:
            images_NCSS[row] = cut(image, box, flip, size, self.mode)

        return self.visit(indices_N, choose, put, images_NCSS)

    def visit(self, indices_N: Tensor, choose: Choose, use: Use, images: Tensor) -> Crops:
        """Open each image once, choose a crop of it, and hand it on.

        Args:
            indices_N: int64 [N].
            choose: gives boxes and flips for rows of the batch, from their images' sizes.
            use: is called with each image, not decoded yet. Any exception counts as an unreadable image.
            images: what `use` fills, for the result.

        Raises:
            Unreadable: if images cannot be read; it carries the crops of the others.
        """
        boxes, flips = [], []
        reasons: dict[int, str] = {}
        for first in range(0, max(1, len(indices_N)), _OPEN_AT_ONCE):
            rows = slice(first, min(first + _OPEN_AT_ONCE, len(indices_N)))
            opened = self._open(indices_N[rows].tolist(), first, reasons)
            boxes_N4, flips_N = choose(rows, _sizes(opened))
            for row, (image, box, flip) in enumerate(
                zip(opened, boxes_N4.tolist(), flips_N.tolist(), strict=True), start=first
            ):
                if image is None:
                    continue
                try:
                    use(row, image, box, flip)
                except Exception as error:
                    reasons[row] = _reason(error)
                finally:
                    image.close()
            boxes.append(boxes_N4)
            flips.append(flips_N)
        crops = Crops(images, torch.cat(boxes), torch.cat(flips))
        if reasons:
            raise Unreadable(self._names(indices_N, reasons), reasons, crops)
        return crops

    def _open(self, indices: Sequence[int], first: int, reasons: dict[int, str]) -> list[Image.Image | None]:
        """The images at `indices`, rows `first` and on of a batch; None where one cannot be opened."""
        images: list[Image.Image | None] = []
        for row, index in enumerate(indices, start=first):
            try:
                images.append(self.open(index))
            except Exception as error:  # Pillow's readers raise almost anything about a damaged file
                images.append(None)
                reasons[row] = _reason(error)
        return images

    def _names(self, indices_N: Tensor, reasons: dict[int, str]) -> dict[int, str]:
        return {row: self.name(int(indices_N[row])) for row in reasons}


class EncodedSubset(EncodedSplit):
    """Some of the images of another split of encoded images.

    Args:
        split: of which these are.
        indices_K: int64 [K], which, in their order.
    """

    indices_K: Tensor

    def __init__(self, split: EncodedSplit, indices_K: Tensor) -> None:
        super().__init__(split.mode)
        self.split = split
        self.indices_K = indices_K
        self.labels = None if split.labels is None else split.labels[indices_K]

    def __len__(self) -> int:
        return len(self.indices_K)

    def open(self, index: int) -> Image.Image:
        """The other split's image."""
        return self.split.open(int(self.indices_K[index]))

    def name(self, index: int) -> str:
        """What the other split calls the image."""
        return self.split.name(int(self.indices_K[index]))

    def content(self) -> Iterable[bytes]:
        """What tells the other split from others, and which of its images these are."""
        yield from self.split.content()
        yield self.indices_K.numpy().tobytes()


def _sizes(images: Sequence[Image.Image | None]) -> Tensor:
    """Height and width, int64 [N, 2]; one pixel for an image that could not be opened."""
    sizes = [(1, 1) if image is None else (image.height, image.width) for image in images]
    return torch.tensor(sizes, dtype=torch.int64).view(-1, 2)


def cut(image: Image.Image, box: Sequence[float], flip: bool, size: Size, mode: str) -> Tensor:
    """A crop of an image that Pillow decodes, resampled, mirrored where `flip` says so: uint8 [C, S, S]."""
    crop_CSS = _crop(image, box, size, mode)
    return crop_CSS.flip(2) if flip else crop_CSS


def _crop(image: Image.Image, box: Sequence[float], size: Size, mode: str) -> Tensor:
    """Uint8 [C, S, S]."""
    left, top, width, height = box
    full_width, full_height = image.size
    rows, columns = pair(size)
    # A JPEG can be decoded at 1/2, 1/4 or 1/8, much faster; twice the pixels needed are left to the filter.
    enough = (math.ceil(2 * columns * full_width / width), math.ceil(2 * rows * full_height / height))
    drafted = image.draft(None, enough)
    factor = drafted[1][2] / full_width if drafted else 1.0
    right, bottom = min((left + width) * factor, image.width), min((top + height) * factor, image.height)
    corners = (left * factor, top * factor, right, bottom)
    image = in_eight_bits(image)  # all of it: what white is cannot be told from a crop
    if all(corner == int(corner) for corner in corners):
        # PyTorch's filter is Pillow's, three times as fast, but knows whole pixels only.
        pixels_HWC = _pixels(image.crop(corners), mode)
        image_1CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).unsqueeze(0)
        return F.interpolate(image_1CHW, (rows, columns), mode="bicubic", antialias=True).squeeze(0)
    converted = to_mode(image, mode)
    resized = converted.resize((columns, rows), Image.Resampling.BICUBIC, box=corners)
    return torch.from_numpy(_pixels(resized, mode)).permute(2, 0, 1)


def _pixels(image: Image.Image, mode: str) -> np.ndarray:
    """Uint8 [H, W, C]."""
    converted = to_mode(image, mode)
    return np.array(converted).reshape(image.height, image.width, -1)


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        raise error  # the machine's fault, not the image's
    if isinstance(error, UnidentifiedImageError):
        return "it is in no image format that Pillow knows"  # its own message may hold an object's address
    return str(error) or type(error).__name__


def _close(image: Image.Image | None) -> None:
    if image is not None:
        image.close()

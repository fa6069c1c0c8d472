"""Images of any depth as images of 8 bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE

_SIXTEEN_BITS = 65535.0
_MAX_SAMPLE_VALUE = 341  # TIFF's SMaxSampleValue, which Pillow has no name for


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image; pixels of more than 8 bits are scaled, where Pillow would cut them off at 255.

    Args:
        image: of any of Pillow's modes; a whole one, as `in_eight_bits` needs it.
        mode: "RGB", "L" or another of 8 bits.

    Raises:
        ValueError: where white is not known; see `in_eight_bits`.
    """
    return image if image.mode == mode else in_eight_bits(image).convert(mode)


def in_eight_bits(image: Image.Image) -> Image.Image:
    """The image itself, or one of mode "L" of an image whose pixels have more than 8 bits.

    White is what a TIFF says that it is (SMaxSampleValue), else the most that its bits for a pixel can say, 4095 of 12;
    of floating point it is 1, and of all others 65535.

    Args:
        image: a whole one: a crop of a dark corner does not show what its image holds.

    Raises:
        ValueError: where white is not known: of pixels that are negative or beyond white, and of 32-bit integers that
            have no use for 16 bits.
    """
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    pixels_HW = np.asarray(image).astype(np.float64)
    told = _told_white(image)
    top = told or (1.0 if image.mode == "F" else _SIXTEEN_BITS)
    low, high = pixels_HW.min(), pixels_HW.max()
    no_use = image.mode == "I" and told is None and high <= 255
    if no_use or not (0 < top < math.inf and low >= 0 and high <= top):
        raise ValueError(
            f"its pixels are from {low:g} to {high:g}, and in mode {image.mode} 0 to {top:g} is black to white; save "
            "it with 8 or 16 bits"
        )
    return Image.fromarray(np.round(pixels_HW * (255 / top)).astype(np.uint8))


def _told_white(image: Image.Image) -> float | None:
    """What the tags of a TIFF say of white; None where they say nothing, and of another format."""
    tags: Any = getattr(image, "tag_v2", {})
    if _MAX_SAMPLE_VALUE in tags:
        return float(np.max(tags[_MAX_SAMPLE_VALUE]))
    bits = int(np.max(tags.get(BITSPERSAMPLE, 16)))
    return 2.0**bits - 1 if image.mode.startswith("I;16") and bits < 16 else None

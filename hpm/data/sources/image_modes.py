"""Images of any depth as images of 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

_TOP = {"F": 1.0}  # of floating point; all others that are deeper than 8 bits have 16
_SIXTEEN_BITS = 65535.0


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image; pixels of more than 8 bits are scaled, where Pillow would cut them off at 255.

    Args:
        image: of any of Pillow's modes.
        mode: "RGB", "L" or another of 8 bits.

    Raises:
        ValueError: where white is not known: of floating point beyond [0, 1], and of 32-bit integers that have no use
            for 16 bits or need more.
    """
    if image.mode == mode:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = _in_eight_bits(image)
    return image.convert(mode)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    pixels_HW = np.asarray(image).astype(np.float64)
    top = _TOP.get(image.mode, _SIXTEEN_BITS)
    low, high = pixels_HW.min(), pixels_HW.max()
    if not (low >= 0 and high <= top) or (image.mode == "I" and high <= 255):
        raise ValueError(
            f"its pixels are from {low:g} to {high:g}, and in mode {image.mode} 0 to {top:g} is black to white; save "
            "it with 8 or 16 bits"
        )
    return Image.fromarray(np.round(pixels_HW * (255 / top)).astype(np.uint8))

"""Cut-outs laid over one another: what each shows of itself, and what all of them make of a background.

Shape suffixes: S S height and width of the scene in pixels, H W those of a cut-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from curriculum.sizes import Size, pair
from hpm.data.sources.annotations import Objects, objects_from

SHOWN = 128
"""Opacity, of 255, from which on a pixel shows a cut-out."""

_OVERHANG = 0.15  # of a cut-out's height and width, which the border may cut off
_HARDLY_SEEN = 0.1  # of its pixels in the scene; what shows fewer is nothing that anybody could be asked to find


class Layer(NamedTuple):
    """A cut-out where it lies in the scene.

    Args:
        label: its class.
        pixels_SS4: uint8, colors multiplied by opacity, with nothing around it.
    """

    label: int
    pixels_SS4: np.ndarray

    @property
    def opacity_SS(self) -> np.ndarray:
        """Uint8."""
        return self.pixels_SS4[:, :, 3]


class Layers(NamedTuple):
    """The cut-outs of a scene.

    Args:
        layers: from behind to the front.
        main: which of them is the object.
    """

    layers: Sequence[Layer]
    main: int

    def over(self, background_SS3: np.ndarray) -> np.ndarray:
        """The scene, uint8 [S, S, 3]."""
        for layer in self.layers:
            background_SS3 = times(background_SS3, 255 - layer.pixels_SS4[:, :, 3:]) + layer.pixels_SS4[:, :, :3]
        return background_SS3

    def visible(self, number: int) -> np.ndarray:
        """How much of each pixel is the cut-out of this number, less what is in front of it, uint8 [S, S]."""
        shown_SS = self.layers[number].opacity_SS
        for front in self.layers[number + 1 :]:
            shown_SS = times(shown_SS, 255 - front.opacity_SS)
        return shown_SS

    def objects(self) -> Objects:
        """All that is seen, by a pixel at least. What is hardly seen is a crowd: none needs to find it, but may."""
        labels, masks, crowd = [], [], []
        for number, layer in enumerate(self.layers):
            mask_SS = self.visible(number) >= SHOWN
            if mask_SS.any():
                labels.append(layer.label)
                masks.append(torch.from_numpy(mask_SS))
                crowd.append(bool(mask_SS.sum() < _HARDLY_SEEN * (layer.opacity_SS >= SHOWN).sum()))
        height, width = self.layers[0].pixels_SS4.shape[:2]
        return objects_from(masks, labels, crowd, height=height, width=width)


def on_canvas(thing_HW4: np.ndarray, top: int, left: int, size: Size) -> np.ndarray:
    """The part of a cut-out that lies within the scene, uint8 [S, S, 4], with nothing around it."""
    canvas_SS4 = np.zeros((*pair(size), 4), dtype=np.uint8)
    visible_HW4 = canvas_SS4[max(0, top) : max(0, top + len(thing_HW4))]
    visible_HW4 = visible_HW4[:, max(0, left) : max(0, left + thing_HW4.shape[1])]
    height, width = visible_HW4.shape[:2]
    first_row, first_column = max(0, -top), max(0, -left)
    visible_HW4[:] = thing_HW4[first_row : first_row + height, first_column : first_column + width]
    return canvas_SS4


def place(choice: float, length: int, side: int) -> int:
    """Where a cut-out begins along one axis, so that no more than the overhang is cut off on either side.

    Args:
        choice: in [0, 1).
        length: of the cut-out in pixels.
        side: of the scene.
    """
    overhang = _OVERHANG * length
    first, last = sorted((-overhang, side - length + overhang))
    return round(first + (last - first) * choice)


def times(pixels: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Pixels times a share in 255ths, rounded, uint8."""
    return ((pixels.astype(np.uint16) * share + 127) // 255).astype(np.uint8)

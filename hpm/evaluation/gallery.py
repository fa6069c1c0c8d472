"""What an evaluation shows of some images, for whoever draws it.

Shape suffixes: N images, C channels, S S height and width in pixels, L patches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

IMAGES = 6
"""A gallery has so many rows, where there are as many images."""


@dataclass(frozen=True)
class Panel:
    """A column of a gallery.

    Args:
        title: over it.
        class_maps: int16 [N, S, S], the class of every pixel. Default None.
        has_background: whether class 0 is what is behind all others, and has no color. Default True.
        scores: float [N, S, S] or [N, L], shown from each image's lowest to its highest. Default None.
        outlines: bool [N, S, S], what is outlined on the image or on the scores. Default None.
        boxes: for each image float32 [O, 4], (left, top, right, bottom) in pixels; drawn on the image. Default None.
        notes: for each image a line below it. Default none.
    """

    title: str
    class_maps: Tensor | None = None
    has_background: bool = True
    scores: Tensor | None = None
    outlines: Tensor | None = None
    boxes: tuple[Tensor, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Images, one a row, beside what was found of them.

    Args:
        title: what is shown.
        pixels: the images, float [N, C, S, S] in [0, 1].
        grid: rows and columns of the patches that `scores` are of.
        panels: the columns behind the images'.
        notes: for each image a line below it. Default none.
    """

    title: str
    pixels: Tensor
    grid: tuple[int, int]
    panels: tuple[Panel, ...] = field(default=())
    notes: tuple[str, ...] = ()

    def beside(self, panel: Panel) -> Gallery:
        """With another panel, of the same images."""
        return replace(self, panels=(*self.panels, panel))


def shown_rows(count: int) -> Tensor:
    """Which of so many images a gallery shows, int64: evenly from the first to the last."""
    shown = min(IMAGES, count)
    return torch.arange(shown) * (count - 1) // max(1, shown - 1)

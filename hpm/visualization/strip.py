"""The picture of a training: the same images, put to the model as it was at several of its steps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from hpm.visualization import style
from hpm.visualization.panels import Panels

_CELL = 1.1  # inches, of the shorter side: a row's label stands beside it
_HEAD = 0.45
_FOOT = 0.4
_LINE, _LETTERS = 0.2, 14  # of what is told below: a line's height, and how much of it a cell's width holds
_LABELS = 0.5
_GAP, _SCALE = 0.06, 0.1  # of a cell


class Stage(NamedTuple):
    """The model at one step.

    Args:
        title: when that was.
        panels: what it made of the images then.
    """

    title: str
    panels: Panels


def draw_strip(stages: Sequence[Stage], path: Path) -> Path:
    """Two rows for each image, the reconstruction and a loss map; one column for each stage.

    The first column holds the image and what the encoder sees of it, which is the same at every stage. The map is the
    predicted loss, or the true loss where there is no loss predictor. A target that cannot be shown as pixels leaves
    the upper row to its first column.
    """
    first = stages[0].panels
    name = next(iter(first.maps))
    count, columns = len(first.pixels), 1 + len(stages)
    heights = [first.aspect, first.aspect, _GAP] * (count - 1) + [first.aspect, first.aspect, _SCALE]
    place = (0.0, 1.0, first.aspect, 0.0)
    cell = _CELL / min(1.0, first.aspect)
    told = style.channels_shown(first.pixels.shape[1])
    lines = [] if told is None else textwrap.wrap(told, int(_LETTERS * cell / _CELL * columns))
    size = (cell * columns + _LABELS, cell * sum(heights) + _HEAD + _FOOT + _LINE * len(lines))
    figure = Figure(figsize=size, layout=style.side_by_side())
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for image in range(count):
        above, below = (
            [figure.add_subplot(grid[3 * image + row, column]) for column in range(columns)] for row in (0, 1)
        )
        for axis in (*above, *below):
            style.frameless(axis)
        style.show_pixels(above[0], first.pixels[image], place)
        style.show_pixels(below[0], first.seen[image], place)
        below[1].set_ylabel(name, fontsize=style.SMALL, color=style.DARK)
        for column, stage in enumerate(stages, start=1):
            if stage.panels.reconstruction is not None:
                above[1].set_ylabel("reconstruction", fontsize=style.SMALL, color=style.DARK)
                style.show_pixels(above[column], stage.panels.reconstruction[image], place)
            style.show_map(below[column], stage.panels.maps[name][image], first.grid, place)
        if image == 0:
            for axis, title in zip(
                above, (f"image,\nseen ({first.visible:.0%})", *(s.title for s in stages)), strict=True
            ):
                axis.set_title(title, fontsize=style.TITLE, color=style.DARK)
    style.add_scale(figure, grid[-1, 1:], columns=len(stages))
    if lines:
        figure.supxlabel("\n".join(lines), fontsize=style.TEXT, color=style.DARK)
    return style.save(figure, path)

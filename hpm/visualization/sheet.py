"""The picture of a model: images, what its curriculum hides of them and what it makes of that, side by side."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from hpm.visualization import style
from hpm.visualization.panels import Panels

_CELL = 1.35  # inches
_HEAD, _FOOT, _LINE = 0.45, 0.3, 0.2
_SCALE = 0.08  # of a cell
_GAP = 0.02  # likewise, around each image
_LETTERS = 17  # of a caption, in the width of a cell


class _Column(NamedTuple):
    """A column of a sheet.

    Args:
        title: over it.
        shown: images [N, C, S, S], or a map's scores [N, L].
        is_map: which of the two.
    """

    title: str
    shown: Tensor
    is_map: bool = False


def draw_sheet(panels: Panels, path: Path, *, name: str = "") -> Path:
    """One row for each image, and a column for everything that there is of it.

    What is hard stands beside what the curriculum hides: the image, its true loss, the difficulty by which the
    curriculum masks, its mask. Then what the model does: the image under a random mask, its reconstruction, the
    predicted loss, the attention. Maps run from an image's lowest patch (dark) to its highest (bright): colors compare
    within a map, not between maps. Patches that are not scored are gray. A difficulty that is one of the other maps is
    shown once.

    Args:
        panels: what is shown.
        path: of the PNG.
        name: of the run or file that the model is from, for the caption. Default none.
    """
    columns = _columns(panels)
    captions = (_origin(panels, name), *(() if panels.curriculum is None else panels.curriculum.captions))
    if told := style.channels_shown(panels.pixels.shape[1]):
        captions = (*captions, told)
    lines = [line for text in captions for line in textwrap.wrap(text, _LETTERS * len(columns))]
    rows, aspect = len(panels.pixels), panels.aspect
    size = (_CELL * len(columns), _CELL * rows * aspect + _HEAD + _FOOT + _LINE * len(lines))
    figure = Figure(figsize=size, layout=style.side_by_side())
    grid = figure.add_gridspec(2, len(columns), height_ratios=[rows * aspect, _SCALE])
    for place, column in enumerate(columns):
        # One axis a column: matplotlib takes most of its time for axes, however small.
        axis = figure.add_subplot(grid[0, place])
        style.frameless(axis)
        axis.set_title(column.title, fontsize=style.TITLE, color=style.DARK)
        for row in range(rows):
            extent = (_GAP, 1 - _GAP, (row + 1) * aspect - _GAP, row * aspect + _GAP)
            if column.is_map:
                style.show_map(axis, column.shown[row], panels.grid, extent)
            else:
                style.show_pixels(axis, column.shown[row], extent)
        axis.set(xlim=(0, 1), ylim=(rows * aspect, 0), anchor="N")
    if any(column.is_map for column in columns):
        first, count = _first_maps(columns)
        style.add_scale(figure, grid[1, first : first + count], columns=count)
    figure.supxlabel("\n".join(lines), fontsize=style.TEXT, color=style.DARK)
    return style.save(figure, path)


def _origin(panels: Panels, name: str) -> str:
    """Which model is shown."""
    step = "" if panels.steps is None else f"step {panels.steps:,}"
    shown = "reconstruction: student, maps: moving average" if panels.averaged else "reconstruction and maps: student"
    if panels.reconstruction is None:
        shown = ("maps: moving average" if panels.averaged else "maps: student") if panels.maps else ""
    return "; ".join(filter(None, (", ".join(filter(None, (style.plain(name), step))), shown)))


def _columns(panels: Panels) -> list[_Column]:
    maps = {title: _Column(title, scores_NL, is_map=True) for title, scores_NL in panels.maps.items()}
    hidden = [_Column(f"random mask\n({panels.visible:.0%} seen)", panels.seen)]
    if panels.reconstruction is not None:
        hidden.append(_Column("reconstruction", panels.reconstruction))
    image = _Column("training\nimage" if panels.crops else "image", panels.pixels)
    curriculum = panels.curriculum
    if curriculum is None:
        return [image, *hidden, *maps.values()]
    followed = []
    if curriculum.difficulty is not None:
        title = "minus\ndifficulty" if curriculum.turned else "difficulty"
        for name, scores_NL in panels.maps.items():
            if torch.equal(scores_NL.float(), curriculum.difficulty.float()):
                title = f"difficulty:\n{maps.pop(name).title}"
        followed = [_Column(title, curriculum.difficulty, is_map=True)]
    true_loss = [maps.pop("true loss")] if "true loss" in maps else []
    masked = _Column("curriculum's\nmask", curriculum.masked)
    return [image, *true_loss, *followed, masked, *hidden, *maps.values()]


def _first_maps(columns: list[_Column]) -> tuple[int, int]:
    """The place of the first map, and how many stand there side by side."""
    first = next(place for place, column in enumerate(columns) if column.is_map)
    return first, next((n for n, column in enumerate(columns[first:]) if not column.is_map), len(columns) - first)

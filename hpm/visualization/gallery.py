"""The picture of an evaluation: images, what is annotated on them, and what was found.

Shape suffixes: N images, S S height and width in pixels.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from hpm.data import IGNORED
from hpm.evaluation.gallery import Gallery, Panel
from hpm.visualization import style

_CELL = 1.35  # inches
_BETWEEN = 0.12  # two columns
_HEAD, _FOOT, _LINE = 0.55, 0.3, 0.2
_NOTE = 0.3  # of a cell, for two lines below an image
_GAP = 0.02  # of a cell, around each image
_LETTERS = 17  # of a caption, in the width of a cell
_NOTE_LETTERS = 24  # of a line of a note, likewise
_NOTE_LINES = 2
_DIMMED = 0.45  # brightness of an image under what lies over it
_OVERLAY = 0.75  # opacity of a class's color
_GOLDEN_RATIO = 0.618034  # steps of hue, so that classes of neighboring numbers look different


def draw_gallery(gallery: Gallery, path: Path, *, name: str = "") -> Path:
    """One row for each image; a column for the image, and one for each panel.

    A class has the same color in the whole picture, the background, where there is one, none;
    pixels that count for nothing are gray. Scores run from an image's lowest (dark) to its highest (bright).

    Args:
        gallery: what is shown.
        path: of the PNG.
        name: of the run or file that the model is from, for the caption. Default none.

    Raises:
        UserError: if the picture cannot have this name.
        OSError: if the disk refuses it.
    """
    count, _, height, width = gallery.pixels.shape
    aspect = height / width
    noted = any(panel.notes for panel in gallery.panels) or bool(gallery.notes)
    row_height = aspect + (_NOTE if noted else 0)
    columns = 1 + len(gallery.panels)
    caption = ", ".join(filter(None, (style.plain(name), gallery.title)))
    lines = textwrap.wrap(caption, _LETTERS * columns)
    size = ((_CELL + _BETWEEN) * columns, _CELL * count * row_height + _HEAD + _FOOT + _LINE * len(lines))
    figure = Figure(figsize=size, layout=style.side_by_side())
    for place in range(columns):
        # One axis a column: matplotlib takes most of its time for axes, however small.
        axis = figure.add_subplot(1, columns, place + 1)
        style.frameless(axis)
        panel = gallery.panels[place - 1] if place else Panel("image", notes=gallery.notes)
        axis.set_title(panel.title, fontsize=style.TEXT, color=style.DARK)
        for row in range(count):
            top = row * row_height
            extent = (_GAP, 1 - _GAP, top + aspect - _GAP, top + _GAP)
            _draw_cell(axis, gallery, panel, row, extent)
            if panel.notes:
                wrapped = textwrap.wrap(panel.notes[row], _NOTE_LETTERS, max_lines=_NOTE_LINES, placeholder=" ...")
                note = style.plain("\n".join(wrapped))
                axis.text(0.5, top + aspect, note, ha="center", va="top", fontsize=6, color=style.DARK)
        axis.set(xlim=(0, 1), ylim=(count * row_height, 0), anchor="N", aspect="equal")
    figure.supxlabel("\n".join(lines), fontsize=style.TEXT, color=style.DARK)
    return style.save(figure, path)


def _draw_cell(axis: Axes, gallery: Gallery, panel: Panel, row: int, extent: style.Place) -> None:
    """What a panel shows of one image."""
    pixels_CSS = gallery.pixels[row].float()
    if panel.class_maps is not None:
        axis.imshow(
            _overlaid(pixels_CSS, panel.class_maps[row], panel.has_background), interpolation="nearest", extent=extent
        )
    elif panel.scores is not None:
        scores = panel.scores[row]
        grid = gallery.grid if scores.ndim == 1 else (scores.shape[0], scores.shape[1])
        style.show_map(axis, scores, grid, extent)
    else:
        style.show_pixels(axis, pixels_CSS, extent)
    height, width = pixels_CSS.shape[1:]
    left, right, bottom, top = extent
    if panel.outlines is not None and bool(panel.outlines[row].any()):
        shown = np.pad(panel.outlines[row].numpy().astype(float), 1)  # so that what meets the border is closed there
        across = left + (np.arange(width + 2) - 0.5) * (right - left) / width
        down = top + (np.arange(height + 2) - 0.5) * (bottom - top) / height
        axis.contour(across, down, shown, levels=[0.5], colors=[style.ORANGE], linewidths=1.2)
    for box in () if panel.boxes is None else panel.boxes[row].tolist():
        x, y = (left + box[0] * (right - left) / width, top + box[1] * (bottom - top) / height)
        size = (box[2] - box[0]) * (right - left) / width, (box[3] - box[1]) * (bottom - top) / height
        axis.add_patch(Rectangle((x, y), *size, fill=False, edgecolor=style.ORANGE, linewidth=1.2))


def _overlaid(pixels_CSS: Tensor, map_SS: Tensor, has_background: bool) -> np.ndarray:
    """The image, dimmed, under the colors of its pixels' classes, float [S, S, 3]."""
    image = pixels_CSS[:3] if len(pixels_CSS) >= 3 else pixels_CSS[:1].expand(3, -1, -1)
    image_SS3 = _DIMMED * image.permute(1, 2, 0)
    colors_SS3 = _colors(map_SS)
    share_SS = torch.full(map_SS.shape, _OVERLAY).masked_fill(map_SS == IGNORED, 1.0)
    share_SS1 = (share_SS.masked_fill(map_SS == 0, 0.0) if has_background else share_SS).unsqueeze(2)
    shown: np.ndarray = (image_SS3 * (1 - share_SS1) + colors_SS3 * share_SS1).numpy()
    return shown


def _colors(map_SS: Tensor) -> Tensor:
    """Of each pixel's class, float [S, S, 3]."""
    from matplotlib.colors import hsv_to_rgb

    classes = map_SS.long().numpy()
    hue = classes * _GOLDEN_RATIO % 1
    value = np.where(classes % 3 == 0, 0.75, 1.0)
    saturation = np.where(classes % 2 == 0, 0.6, 0.95)
    colors = hsv_to_rgb(np.stack([hue, saturation, value], axis=-1))
    colors[classes == IGNORED] = 0.6
    return torch.from_numpy(colors).float()

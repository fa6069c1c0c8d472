"""The picture of a model: images, what it sees of them and what it makes of that, side by side."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from hpm.visualization import style
from hpm.visualization.panels import Panels

_CELL = 1.35  # inches
_HEAD, _FOOT = 0.35, 0.4
_SCALE = 0.08  # of a cell
_GAP = 0.02  # likewise, around each image


def draw_sheet(panels: Panels, path: Path) -> Path:
    """One row for each image: the image, seen, reconstruction, then the maps."""
    images = {"image": panels.pixels, f"seen ({panels.visible:.0%})": panels.seen}
    if panels.reconstruction is not None:
        images["reconstruction"] = panels.reconstruction
    rows, columns = len(panels.pixels), len(images) + len(panels.maps)
    figure = Figure(figsize=(_CELL * columns, _CELL * rows + _HEAD + _FOOT), layout=style.side_by_side())
    grid = figure.add_gridspec(2, columns, height_ratios=[rows, _SCALE])
    for column, (title, shown) in enumerate({**images, **panels.maps}.items()):
        # One axis a column: matplotlib takes most of its time for axes, however small.
        axis = figure.add_subplot(grid[0, column])
        style.frameless(axis)
        axis.set_title(title, fontsize=style.TITLE, color=style.DARK)
        for row in range(rows):
            place = (_GAP, 1 - _GAP, row + 1 - _GAP, row + _GAP)
            if title in images:
                style.show_pixels(axis, shown[row], place)
            else:
                style.show_map(axis, shown[row], panels.grid, place)
        axis.set(xlim=(0, 1), ylim=(rows, 0))
    style.add_scale(figure, grid[1, len(images) :], wide=len(panels.maps) > 2)
    return style.save(figure, path)

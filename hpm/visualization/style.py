"""How all pictures look: sizes, colors that the color-blind tell apart and that survive a gray print, and writing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from torch import Tensor

from hpm.errors import UserError
from hpm.runtime.files import check_file, replacing

MAP = "viridis"
DARK, BLUE, ORANGE, GREEN, LIGHT = "#222222", "#0072B2", "#D55E00", "#009E73", "#D9D9D9"  # Okabe and Ito's, and grays
_SCORES = colormaps[MAP].with_extremes(bad=LIGHT)
TITLE = 12
TEXT = 10
SMALL = 9
_DPI = 150
_SOFTWARE = "curriculum-masking"  # what a PNG of ours says that it was made by

Place = tuple[float, float, float, float]  # left, right, bottom, top


def side_by_side() -> ConstrainedLayoutEngine:
    """The layout of images in rows and columns: little space between them."""
    return ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)


def show_pixels(axis: Axes, pixels_CSS: Tensor, place: Place | None = None) -> None:
    """An image in [0, 1], at a place of an axis that it shares; `channels_shown` says which of its channels."""
    pixels = pixels_CSS.detach().cpu().float()
    shown: np.ndarray = pixels[0].numpy() if len(pixels) < 3 else pixels[:3].permute(1, 2, 0).numpy()
    axis.imshow(shown, vmin=0, vmax=1, cmap="gray", interpolation="nearest", extent=place)


def channels_shown(channels: int) -> str | None:
    """What to tell of images of so many channels; None where all are shown."""
    if channels in (1, 3):
        return None
    shown = "the first is shown, in gray" if channels < 3 else "the first three are shown, as red, green and blue"
    return f"Of the images' {channels} channels {shown}."


def show_map(axis: Axes, scores_L: Tensor, grid: tuple[int, int], place: Place | None = None) -> None:
    """Scores of an image's patches, from its lowest (dark) to its highest (bright); unscored ones are gray."""
    scores = scores_L.detach().cpu().float().reshape(grid).numpy()
    axis.imshow(scores, cmap=_SCORES, interpolation="nearest", extent=place)


def add_scale(figure: Figure, place: SubplotSpec, *, columns: int) -> None:
    """The maps' color scale, lying in a row of its own under so many columns, which leave room for fuller labels."""
    bar = figure.colorbar(ScalarMappable(cmap=_SCORES), cax=figure.add_subplot(place), orientation="horizontal")
    bar.outline.set_visible(False)
    wide = columns > 2
    ends = ("lowest patch", "highest patch") if columns > 1 else ("lowest", "highest")
    bar.set_ticks([0, 0.5, 1] if wide else [0, 1], labels=[ends[0], "in each map", ends[1]] if wide else ends)
    bar.ax.tick_params(length=0, labelsize=SMALL, labelcolor=DARK)
    first, *_, last = bar.ax.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def frameless(axis: Axes) -> None:
    """No ticks and no frame; labels stay."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def plain(text: str) -> str:
    """A name that somebody chose, as it is written.

    Matplotlib takes what stands between dollars for a formula, leaves out of a legend what begins with an underscore,
    and cannot draw bytes of a file's name that are no UTF-8.
    """
    text = text.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def check_name(path: Path) -> None:
    """Find out before the work whether a picture can have this name.

    Raises:
        UserError: if it is not a PNG's, its folder is missing, or there is something else than a file.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"{path} is not the name of a PNG picture; let it end in .png")
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {path.parent}")
    check_file("the picture", path)


def check_replaceable(path: Path) -> None:
    """Refuse to put a picture in the place of anything but an earlier one.

    Raises:
        UserError: if there is a file that `save` has not written.
    """
    if path.exists() and not _is_ours(path):
        raise UserError(f"{path} is there already, and was drawn by something else; give a new name, or remove it")


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get("Software") == _SOFTWARE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all.

    Raises:
        UserError: see `check_name`.
        OSError: if the disk refuses it.
    """
    check_name(path)
    FigureCanvasAgg(figure)
    with replacing(path) as partial, warnings.catch_warnings():
        # Of letters that the font lacks, and of names that leave no room: the picture shows both.
        warnings.filterwarnings("ignore", category=UserWarning, module="matplotlib|hpm")
        figure.savefig(partial, dpi=_DPI, format="png", facecolor="white", metadata={"Software": _SOFTWARE})
    return path

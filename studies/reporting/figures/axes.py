"""Axes, legends and colors that all figures share. Variants keep one color and one line style throughout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpm.visualization import style

WIDTH = 7.0  # inches
# Okabe and Ito's palette: the color-blind tell them apart; line styles do so in a gray print.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#999999")
_LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D")
_LABELS_A_COLUMN = 16  # of a legend
MOST_MARKED = len(_COLORS) * len(_MARKERS)  # variants beyond this cannot be told apart


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of one axis with a grid.

    Args:
        height: in inches.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axis = figure.subplots()
    prepare_axis(axis)
    return figure, axis


def prepare_axis(axis: Axes, *, grid: str = "both") -> None:
    """Give an axis the common look.

    Args:
        axis: the axis.
        grid: the direction of its grid lines, "x", "y" or "both".
    """
    axis.tick_params(labelsize=style.SMALL, colors=style.DARK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color=style.LIGHT, linewidth=0.6)  # type: ignore[arg-type]
    axis.set_axisbelow(True)


def color_of(number: int) -> str:
    """The color of the variant with this number."""
    return _COLORS[number % len(_COLORS)]


def marker_of(number: int) -> str:
    """The marker of the variant with this number; no pair of color and marker comes twice before all are used."""
    return _MARKERS[number // len(_COLORS) % len(_MARKERS)]


def line_of(number: int) -> dict[str, Any]:
    """The color and line style of the variant with this number; no pair comes twice before all are used."""
    place = number + number // len(_COLORS)
    return {"color": color_of(number), "linestyle": _LINE_STYLES[place % len(_LINE_STYLES)], "linewidth": 1.8}


def label_axes(axis: Axes, x: str, y: str) -> None:
    """Name both directions of an axis."""
    axis.set_xlabel(style.plain(x), fontsize=style.TEXT, color=style.DARK)
    axis.set_ylabel(style.plain(y), fontsize=style.TEXT, color=style.DARK)


def add_legend(axis: Axes, count: int, title: str | None = None) -> None:
    """Put a legend of so many entries to the right of an axis."""
    axis.legend(
        fontsize=style.SMALL,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        ncols=1 + count // _LABELS_A_COLUMN,
        title=title,
        title_fontsize=style.SMALL,
        alignment="left",
    )


def plot_points(axis: Axes, points: Sequence[tuple[float, float]], form: str, **options: Any) -> None:
    """Plot (x, y) pairs, at least one."""
    axis.plot(*zip(*points, strict=True), form, **options)

"""The figures of a comparison: means and differences, curves over training, and what the training cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpm.inference.alpha import alpha_rows
from hpm.metrics import VALIDATION, metric_on
from hpm.runs.metrics_file import Row
from hpm.runs.run_folder import RunFolder
from hpm.visualization import style
from studies.analysis.comparison import ComparedVariant, Comparison
from studies.analysis.results import Result
from studies.analysis.statistics import Estimate, estimate
from studies.analysis.units import DisplayUnit
from studies.reporting.figures.axes import (
    MOST_MARKED,
    WIDTH,
    add_legend,
    color_of,
    label_axes,
    marker_of,
    new_figure,
    prepare_axis,
)
from studies.reporting.figures.curves import draw_curves


def draw_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw every figure that the results allow.

    Args:
        comparison: what to draw.
        folder: takes the PNG files; it is made where it is missing.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [draw_differences(comparison, folder)]
    results = comparison.by_variant()
    runs = {row.variant: [result.rows() for result in results[row.variant]] for row in comparison.rows}
    rows = [row for variant in runs.values() for run in variant for row in run]
    name = _metric_over_training(comparison, rows)
    if name is not None:
        kind = "probe" if "/" in name else "train"
        paths.append(draw_curves(runs, name, kind, folder / "training.png"))
    if any("alpha" in row for row in rows):
        moves = {row.variant: [_alpha_rows(result) for result in results[row.variant]] for row in comparison.rows}
        paths.append(draw_curves(moves, "alpha", "train", folder / "alpha.png"))
    if any("flops" in row.cost for row in comparison.rows):
        paths.append(_draw_compute(comparison, folder / "compute.png"))
    return paths


def _alpha_rows(result: Result) -> list[Row]:
    """What alpha was, by the run's schedule where that alone says it; none where the run's folder is elsewhere."""
    return [] if result.folder is None else alpha_rows(RunFolder(result.folder), result.rows())


def _metric_over_training(comparison: Comparison, rows: Sequence[Row]) -> str | None:
    """The compared metric where probes measured it, on validation images, else the first probed one, else the loss."""
    probed = {name for row in rows if row["kind"] == "probe" for name in row if "/" in name}
    for name in (comparison.metric, metric_on(VALIDATION, comparison.metric)):
        if name in probed:
            return name
    if probed:
        return min(probed)
    return "reconstruction_loss" if any("reconstruction_loss" in row for row in rows) else None


def draw_differences(comparison: Comparison, folder: Path, *, name: bool = False) -> Path:
    """Draw means with intervals, and beside each what it gains over the baseline, every seed a point.

    Args:
        comparison: what to draw.
        folder: takes the PNG file.
        name: whether the file is named after the metric, for a second table of a report.

    Returns:
        The file.
    """
    path = folder / (f"differences-{comparison.metric.replace('/', '-')}.png" if name else "differences.png")
    rows = list(reversed(comparison.rows))
    scale, grid = comparison.unit.scale, comparison.unit.scale * comparison.grid.step
    figure = Figure(figsize=(WIDTH, 0.42 * len(rows) + 1.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    values = {row.variant: row.values for row in rows}
    for axis in (left, right):
        prepare_axis(axis, grid="x")
    for place, row in enumerate(rows):
        own = [scale * value for value in row.values.values()]
        _plot_interval(left, place, own, grid, style.BLUE, comparison.unit)
        base = values.get(row.baseline, {})
        shared = [scale * (row.values[seed] - base[seed]) for seed in row.values if seed in base]
        if row.variant != row.baseline and shared:
            differences = DisplayUnit(1.0, 0, "")  # which have no bounds
            color = style.ORANGE if row.significant else style.BLUE
            _plot_interval(right, place, shared, grid, color, differences)
    right.axvline(0, color=style.DARK, linewidth=1)
    left.set_yticks(range(len(rows)), [style.plain(row.variant) for row in rows])
    left.set_xlabel(style.plain(comparison.unit.label), fontsize=style.TEXT, color=style.DARK)
    right.set_xlabel(f"by seed, minus\n{style.plain(comparison.baseline)}", fontsize=style.TEXT, color=style.DARK)
    return style.save(figure, path)


def _plot_interval(
    axis: Axes, place: float, values: Sequence[float], grid: float, color: str, unit: DisplayUnit
) -> None:
    mean = estimate(values, grid)
    if mean.has_interval:
        axis.plot(unit.interval(mean), [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
    axis.plot(values, [place - 0.22] * len(values), "o", color=color, markersize=3.5, alpha=0.6, markeredgewidth=0)
    axis.plot([mean.mean], [place], "D", color=color, markersize=6, markeredgecolor="white")


def _lengths(unit: DisplayUnit, row: ComparedVariant) -> list[list[float]]:
    """How far a mean's interval reaches below and above it, as matplotlib wants them."""
    shown = Estimate(unit.scale * row.estimate.mean, unit.scale * row.estimate.half, row.estimate.count)
    low, high = unit.interval(shown)
    return [[shown.mean - low], [high - shown.mean]]


def _draw_compute(comparison: Comparison, path: Path) -> Path:
    """Mean against FLOPs of the training, with intervals. Equal costs stand side by side; a crowd has no legend."""
    figure, axis = new_figure(max(3.4, 0.19 * min(len(comparison.rows), MOST_MARKED) + 0.8))
    scale = comparison.unit.scale
    rows = [(number, row) for number, row in enumerate(comparison.rows) if "flops" in row.cost]
    costs = np.array([row.cost["flops"] / 1e12 for _, row in rows])
    apart = 0.012 * (np.ptp(costs) or costs.max())
    for place, (number, row) in enumerate(rows):
        near = np.flatnonzero(np.abs(costs - costs[place]) < apart)
        axis.errorbar(
            costs[place] + apart * (np.searchsorted(near, place) - (len(near) - 1) / 2),
            scale * row.estimate.mean,
            yerr=_lengths(comparison.unit, row) if row.estimate.has_interval else 0.0,
            fmt=marker_of(number),
            capsize=2,
            markersize=6,
            color=color_of(number),
            linewidth=1.4,
            label=style.plain(row.variant),
        )
    label_axes(axis, "training, TFLOP", comparison.unit.label)
    if len(rows) <= MOST_MARKED:
        add_legend(axis, len(rows))
    return style.save(figure, path)

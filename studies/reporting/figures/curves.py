"""A metric over the epochs of training, a curve for each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from hpm.runs.metrics_file import Row
from hpm.visualization import style
from studies.analysis.statistics import Estimate, estimate
from studies.analysis.units import display_unit
from studies.reporting.figures.axes import add_legend, color_of, label_axes, line_of, new_figure

_MOST_CURVES = 10  # of more variants the best are shown
_MOST_BANDS = 6  # of more variants none has a band


def draw_curves(runs: Mapping[str, Sequence[Sequence[Row]]], name: str, kind: str, path: Path) -> Path:
    """Draw means over seeds, with 95 % bands where there are several seeds and few variants.

    Args:
        runs: the rows of each run of each variant, the best variant first.
        name: the metric.
        kind: of the rows that have it, "train" or "probe".
        path: the PNG file.

    Returns:
        The file.
    """
    figure, axis = new_figure(3.4)
    unit = display_unit(name)
    # A row tells of the steps before it.
    drawstyle = "steps-pre" if name == "alpha" else "default"
    shown = list(islice(runs.items(), _MOST_CURVES))
    for number, (variant, own) in enumerate(shown):
        points = _means([_points(run, name, kind, unit.scale) for run in own])
        epochs = [epoch for epoch, _ in points]
        means = [mean.mean for _, mean in points]
        axis.plot(epochs, means, label=style.plain(variant), drawstyle=drawstyle, **line_of(number))
        if points and len(shown) <= _MOST_BANDS and all(mean.has_interval for _, mean in points):
            low, high = zip(*(unit.interval(mean) for _, mean in points), strict=True)
            axis.fill_between(epochs, low, high, color=color_of(number), alpha=0.13, linewidth=0)
    label_axes(axis, "epoch", unit.label.replace("_", " ") if unit.label == name else unit.label)
    if name == "alpha":
        axis.set_ylim(-0.02, 1.02)
    elif kind == "train":
        _leave_out_the_beginning(axis)
    title = f"the best {_MOST_CURVES} of {len(runs)}" if len(runs) > _MOST_CURVES else None
    add_legend(axis, len(shown), title)
    return style.save(figure, path)


def _points(rows: Sequence[Row], name: str, kind: str, scale: float) -> list[tuple[float, float]]:
    """(epoch, value) pairs of a run; final figures close a curve of probes."""
    train = next((row for row in rows if row["kind"] == "train" and row["step"] and row.get("epoch", 0) > 0), None)
    if train is None:
        return []
    steps_per_epoch = train["step"] / train["epoch"]
    kinds = {kind, "final"} if kind == "probe" else {kind}
    wanted = [row for row in rows if row["kind"] in kinds and isinstance(row.get(name), int | float)]
    return [(row["step"] / steps_per_epoch, scale * row[name]) for row in wanted]


def _means(runs: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, Estimate]]:
    """The mean over runs at each epoch, in ascending order.

    Where a run has not measured a point, the others alone would make a jump: such points are left out.
    """
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for epoch, value in run:
            by_epoch.setdefault(epoch, []).append(value)
    most = max(map(len, by_epoch.values()), default=0)
    return [(epoch, estimate(by_epoch[epoch])) for epoch in sorted(by_epoch) if len(by_epoch[epoch]) == most]


def _leave_out_the_beginning(axis: Axes) -> None:
    """Let the first tenth of training, in which a loss falls, run out of the picture, so that the rest can be told."""
    lines = [np.asarray(line.get_xydata()) for line in axis.get_lines()]
    late = [line[line[:, 0] > 0.1 * line[-1, 0], 1] for line in lines if len(line)]
    values = np.concatenate(late) if late else np.empty(0)
    if values.size and np.ptp(values) > 0:
        axis.set_ylim(values.min() - 0.1 * np.ptp(values), values.max() + 0.1 * np.ptp(values))

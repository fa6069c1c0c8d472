"""The picture of a curriculum: what was masked when, and how losses and prediction fared meanwhile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hpm.visualization import style

_WIDTH, _PANEL = 7.0, 1.45  # inches
_SHARES = {
    "curriculum/hardness_share": ("curriculum", style.BLUE, "-", "o"),
    "curriculum/hardness_share_mask": ("its masks", style.BLUE, "--", "s"),
    "curriculum/hardness_share_position": ("position alone", style.ORANGE, "--", "^"),
    "curriculum/hardness_share_edges": ("edges", style.GREEN, ":", "v"),
    "curriculum/hardness_share_object": ("the object", style.GREEN, "-.", "D"),
}
"""Shares of attainable hardness: the name, color, line and marker of each metric's curve."""
_SETTLED = 0.03  # of the run: before that losses fall from far above, and may flatten all that follows
_FLATTENS = 4.0  # times as high an axis
_MANY = 50  # rows: of fewer, each is worth seeing


def draw_timeline(
    rows: Sequence[Mapping[str, Any]],
    following: str | None,
    path: Path,
    probes: Sequence[Mapping[str, Any]] = (),
    *,
    alpha: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Panels over epochs: the mask's shares, alpha of what is reconstructed of it where that decides something, the
    losses, how often the loss predictor orders patches rightly, and the share of attainable hardness where evaluations
    measured it.

    Args:
        rows: of metrics.jsonl, those of training.
        following: "hard" or "easy", the patches of which alpha is the share; None where it is no share.
        path: of the PNG.
        probes: of metrics.jsonl, those of evaluations during training and at its end. Default none.
        alpha: rows with `epoch`, `alpha` and perhaps `reconstruction_alpha`, where more are known than were logged.
            Default, and where there are none, `rows`.
    """
    moves = alpha or rows
    measured = [row for row in probes if any(row.get(name) is not None for name in _SHARES)]
    epochs = _values(rows, "epoch")
    curves = {
        name: values
        for name in ("reconstruction_loss", "prediction_loss", "prediction_accuracy")
        if np.isfinite(values := _values(rows, name)).any()
    }
    partly = _values(moves, "reconstruction_alpha")
    chosen = bool(np.isfinite(partly).any())
    count = 1 + chosen + len(curves) + bool(measured)
    figure = Figure(figsize=(_WIDTH, _PANEL * count + 0.5), layout="constrained")
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    _draw_shares(axes[0], _values(moves, "epoch"), _values(moves, "alpha"), following, _nothing_scored(rows, moves))
    if chosen:
        _draw_alpha(axes[1], "alpha of what is\nreconstructed", *_intervals(_values(moves, "epoch"), partly))
    for axis, (name, values) in zip(axes[1 + chosen :], curves.items(), strict=False):
        _draw_curve(axis, name, epochs, values)
    if measured:
        _draw_hardness(axes[-1], _values(measured, "step") * rows[-1]["epoch"] / rows[-1]["step"], measured)
    axes[-1].set_xlabel("epoch", fontsize=style.TEXT, color=style.DARK)
    axes[-1].set_xlim(0, epochs[-1])
    figure.align_ylabels(axes)
    return style.save(figure, path)


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """NaN where a row does not have it, as an interval of skipped steps, or where no axis does, towards infinity."""
    values = np.array([float(row.get(name, math.nan)) for row in rows])
    return np.where(np.abs(values) < 1e100, values, math.nan)


def _nothing_scored(rows: Sequence[Mapping[str, Any]], moves: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """At each of `moves`, whether no patch was scored, so that masks followed no scores.

    A row tells of its interval's last step. The steps of the next interval that belong to the same epoch are taken for
    the same: what is known of images in one epoch is scored from the next on.
    """
    ends, epochs = _values(rows, "epoch"), _values(moves, "epoch")
    nothing = np.append(_values(rows, "unscored") >= 1, False)  # NaN, of runs that did not log it, is not
    places = np.searchsorted(ends, epochs).clip(max=len(rows) - 1)
    before = places - 1  # of the first interval the one appended, which is False
    return nothing[places] | (nothing[before] & (np.ceil(epochs) == np.ceil(ends[before])))


def _draw_shares(axis: Axes, epochs: np.ndarray, alpha: np.ndarray, following: str | None, random: np.ndarray) -> None:
    """The mask as a band of patches by difficulty, below alpha, under one of random patches.

    Where alpha is no share of the mask it is a line: what it means is the sampler's. Where nothing was scored, all are
    random whatever alpha is.
    """
    random = random & (alpha > 0)
    random = np.concatenate([random[:1], random])
    epochs, alpha = _intervals(epochs, alpha)
    if not following and np.nanmax(alpha) > 0:
        _draw_alpha(axis, "alpha", epochs, alpha)
        _name_unscored(axis, epochs, random, "no scores yet")
        return
    _prepare(axis, "share of the mask")
    share = np.where(random, 0.0, alpha) if following else np.zeros_like(alpha)
    axis.fill_between(epochs, share, 1, step="pre", color=style.LIGHT, linewidth=0)
    axis.fill_between(epochs, 0, share, step="pre", color=style.BLUE, linewidth=0)
    if following:
        axis.step(epochs, alpha, where="pre", color=style.DARK, linewidth=1.8, clip_on=False)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1])
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _name_bands(axis, epochs, share, following, random)


def _intervals(ends: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where alpha changes, and what it was before.

    A row tells of the interval before it. Where alpha moves once an epoch, one that began in another epoch tells of the
    part in this one.
    """
    epochs = np.concatenate([[0.0], ends])
    if _moves_per_epoch(ends, alpha):
        epochs = np.append(np.maximum(epochs[:-1], np.ceil(ends) - 1), epochs[-1])
    return epochs, np.concatenate([alpha[:1], alpha])


def _draw_alpha(axis: Axes, label: str, epochs: np.ndarray, alpha: np.ndarray) -> None:
    _prepare(axis, label)
    axis.step(epochs, alpha, where="pre", color=style.DARK, linewidth=1.8, clip_on=False)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1])


def _moves_per_epoch(epochs: np.ndarray, alpha: np.ndarray) -> bool:
    """Whether all rows of an epoch have one alpha."""
    return len({*zip(np.ceil(epochs), alpha, strict=True)}) == len({*np.ceil(epochs)})


def _name_bands(axis: Axes, epochs: np.ndarray, share: np.ndarray, following: str | None, random: np.ndarray) -> None:
    """Names where the bands are thickest, away from the frame, and of what is random against alpha."""
    _name_unscored(axis, epochs, random, "random:\nno scores yet")
    epochs, share = epochs[~random], share[~random]
    if not len(epochs):
        return
    inner = slice(len(epochs) // 8, max(len(epochs) // 8 + 1, len(epochs) * 7 // 8))
    for band, name, color in (
        (share, f"{following} patches: alpha", "white"),
        (1 - share, "random patches: 1 \N{MINUS SIGN} alpha", style.DARK),
    ):
        place = inner.start + int(np.argmax(band[inner]))
        if band[place] > 0.12:  # room for a line of text
            middle = share[place] / 2 if band is share else (1 + share[place]) / 2
            side = "left" if place < len(epochs) / 3 else "right" if place > len(epochs) * 2 / 3 else "center"
            name = name if following else "random patches"
            axis.text(epochs[place], middle, name, ha=side, va="center", fontsize=style.TEXT, color=color)


def _name_unscored(axis: Axes, epochs: np.ndarray, random: np.ndarray, told: str) -> None:
    """Says where nothing is scored, if there is room for it."""
    if random.any() and np.ptp(epochs[random]) > 0.15 * epochs[-1]:
        middle = (epochs[random].min() + epochs[random].max()) / 2
        axis.text(middle, 0.8, told, ha="center", va="center", fontsize=style.SMALL, color=style.DARK)


def _draw_curve(axis: Axes, name: str, epochs: np.ndarray, values: np.ndarray) -> None:
    known = np.isfinite(values)
    if name == "prediction_accuracy":
        _prepare(axis, "prediction's\naccuracy")
        _mark(axis, 0.5, "chance")
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_ylim(min(0.45, float(np.nanmin(values)) - 0.02), max(0.8, float(np.nanmax(values)) + 0.03))
        color = style.GREEN
    else:
        _prepare(axis, name.replace("_", "\n"))
        low, high = _range(epochs[known], values[known])
        room = 0.08 * (high - low or 1)
        axis.set_ylim(low - room, high + room)
        color = style.ORANGE if name.startswith("prediction") else style.BLUE
    axis.plot(epochs, values, color=color, linewidth=1.8)


def _range(epochs: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The least and the largest value of an axis: of all, unless the first of many rows would flatten what follows."""
    low, high = float(values.min()), float(values.max())
    settled = values[epochs >= _SETTLED * epochs[-1]]
    flat = len(values) >= _MANY and high - low > _FLATTENS * float(np.ptp(settled))
    return (float(settled.min()), float(settled.max())) if flat else (low, high)


def _draw_hardness(axis: Axes, epochs: np.ndarray, measured: Sequence[Mapping[str, Any]]) -> None:
    """What hard patches are worth, between chance and what is attainable."""
    _prepare(axis, "share of\nattainable\nhardness")
    lowest, highest = 0.0, 1.0
    for metric, (name, color, line, marker) in _SHARES.items():
        values = _values(measured, metric)
        if np.isfinite(values).any():
            lowest, highest = min(lowest, float(np.nanmin(values))), max(highest, float(np.nanmax(values)))
            axis.plot(
                epochs, values, line, color=color, linewidth=1.8, marker=marker, markersize=4, label=name, clip_on=False
            )
    _mark(axis, 0, "chance")
    _mark(axis, 1)
    axis.set_ylim(lowest - 0.08, highest + 0.08)
    axis.set_yticks([0, 0.5, 1])
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.legend(
        fontsize=style.SMALL,
        labelcolor=style.DARK,
        frameon=False,
        ncols=len(_SHARES),
        columnspacing=1.0,
        handlelength=2.6,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0,
    )


def _mark(axis: Axes, level: float, name: str = "") -> None:
    """A broken line, with its name at its right end."""
    axis.axhline(level, color=style.DARK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axis.annotate(
        name,
        (1, level),
        (-4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=style.SMALL,
        color=style.DARK,
    )


def _prepare(axis: Axes, label: str) -> None:
    axis.set_ylabel(label, fontsize=style.TEXT, color=style.DARK)
    axis.tick_params(labelsize=style.SMALL, colors=style.DARK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=style.LIGHT, linewidth=0.6)
    axis.set_axisbelow(True)

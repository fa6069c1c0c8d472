"""The pictures of a comparison and of a search. Variants keep one color and one line style throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from optuna.trial import TrialState

from hpm.inference.evaluate import is_share
from hpm.visualization import style
from studies.analysis.comparison import Comparison
from studies.analysis.results import Row
from studies.analysis.statistics import estimate

# Okabe and Ito's palette: the color-blind tell them apart; line styles do so in a gray print.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#999999")
_STYLES = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D")
_MOST = 10  # variants whose curves fit a figure; of more, the best
_BANDS = 6  # variants whose bands do
_WIDTH = 7.0  # inches


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Every figure that the results allow, as PNGs in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_differences(comparison, folder / "differences.png")]
    rows: dict[str, list[list[Row]]] = {row.variant: [] for row in comparison.rows}
    several = len({result.source for result in comparison.results}) > 1
    for result in comparison.results:
        rows[f"{result.source}/{result.variant}" if several else result.variant].append(result.rows())
    name = _metric_over_training(comparison, [row for runs in rows.values() for run in runs for row in run])
    if name is not None:
        drawn.append(_curves(comparison, rows, name, "probe" if "/" in name else "train", folder / "training.png"))
    if any("alpha" in row for runs in rows.values() for run in runs for row in run):
        drawn.append(_curves(comparison, rows, "alpha", "train", folder / "alpha.png"))
    if any("flops" in row.cost for row in comparison.rows):
        drawn.append(_against_compute(comparison, folder / "compute.png"))
    return drawn


def draw_search(study: optuna.Study, metric: str, folder: Path) -> list[Path]:
    """History, importance of the parameters and parallel coordinates of a search."""
    folder.mkdir(parents=True, exist_ok=True)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    drawn = [_history(study, metric, folder / "history.png")]
    shared = set.intersection(*(set(trial.params) for trial in complete))
    if len(complete) > 3 and shared and len({trial.values[0] for trial in complete}) > 1:
        drawn.append(_importance(study, metric, folder / "importance.png"))
    if len(complete) > 1:
        drawn.append(_parallel(complete, metric, folder / "parallel.png"))
    if len(study.directions) > 1:
        drawn.append(_front(study, metric, folder / "pareto.png"))
    return drawn


def _metric_over_training(comparison: Comparison, rows: Sequence[Row]) -> str | None:
    """The compared metric where probes measured it, else the first probed metric, else the loss."""
    probed = {name for row in rows if row["kind"] == "probe" for name in row if "/" in name}
    if comparison.metric in probed:
        return comparison.metric
    if probed:
        return min(probed)
    return "reconstruction_loss" if any("reconstruction_loss" in row for row in rows) else None


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axis = figure.subplots()
    axis.tick_params(labelsize=style.SMALL, colors=style.DARK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color=style.LIGHT, linewidth=0.6)
    axis.set_axisbelow(True)
    return figure, axis


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]


def _look(number: int) -> dict[str, Any]:
    """Color and line style; no pair comes twice among as many as there are pairs."""
    style = number + number // len(_COLORS)
    return {"color": _color(number), "linestyle": _STYLES[style % len(_STYLES)], "linewidth": 1.8}


def _label(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=style.TEXT, color=style.DARK)
    axis.set_ylabel(y, fontsize=style.TEXT, color=style.DARK)


def _legend(axis: Axes, count: int, title: str | None = None) -> None:
    axis.legend(
        fontsize=style.SMALL,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        ncols=1 + count // 16,
        title=title,
        title_fontsize=style.SMALL,
        alignment="left",
    )


def _differences(comparison: Comparison, path: Path) -> Path:
    """Means with intervals, and below each what it gains over the baseline, every seed a point."""
    rows, scale = list(reversed(comparison.rows)), comparison.scale
    figure = Figure(figsize=(_WIDTH, 0.42 * len(rows) + 1.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    values = {row.variant: row.values for row in rows}
    for axis in (left, right):
        axis.tick_params(labelsize=style.SMALL, colors=style.DARK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color=style.LIGHT, linewidth=0.6)
        axis.set_axisbelow(True)
    for place, row in enumerate(rows):
        _interval(left, place, [scale * value for value in row.values.values()], style.BLUE)
        base = values[row.baseline]
        shared = [scale * (row.values[seed] - base[seed]) for seed in row.values if seed in base]
        if row.variant != row.baseline and shared:
            found = row.difference is not None and row.difference.significant
            _interval(right, place, shared, style.ORANGE if found else style.BLUE)
    right.axvline(0, color=style.DARK, linewidth=1)
    left.set_yticks(range(len(rows)), [row.variant for row in rows])
    left.set_xlabel(comparison.unit, fontsize=style.TEXT, color=style.DARK)
    right.set_xlabel(f"minus {comparison.baseline}, by seed", fontsize=style.TEXT, color=style.DARK)
    return style.save(figure, path)


def _interval(axis: Axes, place: float, values: Sequence[float], color: str) -> None:
    found = estimate(values)
    if math.isfinite(found.half):
        axis.plot([found.low, found.high], [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
    axis.plot(values, [place - 0.22] * len(values), "o", color=color, markersize=3.5, alpha=0.6, markeredgewidth=0)
    axis.plot([found.mean], [place], "D", color=color, markersize=6, markeredgecolor="white")


def _curves(
    comparison: Comparison, rows: Mapping[str, Sequence[Sequence[Row]]], name: str, kind: str, path: Path
) -> Path:
    """A metric over epochs: means, with 95 % bands where there are several seeds and few variants."""
    figure, axis = _figure(3.4)
    scale = 100.0 if is_share(name) else 1.0
    shown = [row.variant for row in comparison.rows][:_MOST]
    for number, variant in enumerate(rows):
        if variant not in shown:
            continue
        by_epoch: dict[float, list[float]] = {}
        for run in rows[variant]:
            for epoch, value in _points(run, name, kind):
                by_epoch.setdefault(epoch, []).append(scale * value)
        # Where a run has not measured a point, the others alone would make a jump.
        most = max(map(len, by_epoch.values()), default=0)
        points = sorted((epoch, estimate(values)) for epoch, values in by_epoch.items() if len(values) == most)
        epochs = [epoch for epoch, _ in points]
        drawstyle = "steps-pre" if name == "alpha" else "default"  # a row tells of the steps before it
        axis.plot(epochs, [found.mean for _, found in points], label=variant, drawstyle=drawstyle, **_look(number))
        if most > 1 and len(shown) <= _BANDS:
            low, high = ([getattr(found, end) for _, found in points] for end in ("low", "high"))
            axis.fill_between(epochs, low, high, color=_color(number), alpha=0.13, linewidth=0)
    _label(axis, "epoch", f"{name}, %" if scale == 100 else name.replace("_", " "))
    if name == "alpha":
        axis.set_ylim(-0.02, 1.02)
    elif kind == "train":
        _leave_out_the_beginning(axis)
    _legend(axis, len(shown), f"the best {_MOST} of {len(rows)}" if len(rows) > _MOST else None)
    return style.save(figure, path)


def _leave_out_the_beginning(axis: Axes) -> None:
    """Let the first tenth of training, in which a loss falls, run out of the picture, so that the rest can be told."""
    lines = [np.asarray(line.get_xydata()) for line in axis.get_lines()]
    late = [line[line[:, 0] > 0.1 * line[-1, 0], 1] for line in lines if len(line)]
    values = np.concatenate(late) if late else np.empty(0)
    if values.size and np.ptp(values) > 0:
        axis.set_ylim(values.min() - 0.1 * np.ptp(values), values.max() + 0.1 * np.ptp(values))


def _points(rows: Sequence[Row], name: str, kind: str) -> list[tuple[float, float]]:
    """(epoch, value) pairs; final figures close a curve of probes."""
    train = next((row for row in rows if row["kind"] == "train"), None)
    if train is None:
        return []
    steps_an_epoch = train["step"] / train["epoch"]
    kinds = {kind, "final"} if kind == "probe" else {kind}
    return [(row["step"] / steps_an_epoch, row[name]) for row in rows if row["kind"] in kinds and name in row]


def _against_compute(comparison: Comparison, path: Path) -> Path:
    """Mean against FLOPs of the training, with intervals: who pays for what. Equal costs stand side by side."""
    figure, axis = _figure(max(3.4, 0.19 * len(comparison.rows) + 0.8))
    scale = comparison.scale
    rows = [(number, row) for number, row in enumerate(comparison.rows) if "flops" in row.cost]
    costs = np.array([row.cost["flops"] / 1e12 for _, row in rows])
    apart = 0.012 * (np.ptp(costs) or costs.max())
    for place, (number, row) in enumerate(rows):
        near = np.flatnonzero(np.abs(costs - costs[place]) < apart)
        half = row.estimate.half if math.isfinite(row.estimate.half) else 0.0
        axis.errorbar(
            costs[place] + apart * (np.searchsorted(near, place) - (len(near) - 1) / 2),
            scale * row.estimate.mean,
            yerr=scale * half,
            fmt=_MARKERS[number // len(_COLORS) % len(_MARKERS)],
            capsize=2,
            markersize=6,
            color=_color(number),
            linewidth=1.4,
            label=row.variant,
        )
    _label(axis, "training, TFLOP", comparison.unit)
    _legend(axis, len(rows))
    return style.save(figure, path)


# Searches


def _history(study: optuna.Study, metric: str, path: Path) -> Path:
    """Every trial's objective, the best so far, and what was pruned."""
    figure, axis = _figure(3.2)
    scale, best = (100.0 if is_share(metric) else 1.0), (max if study.directions[0].name == "MAXIMIZE" else min)
    trials = study.get_trials(deepcopy=False)
    complete = [(trial.number, scale * trial.values[0]) for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [
        (trial.number, scale * trial.intermediate_values[max(trial.intermediate_values)])
        for trial in trials
        if trial.state == TrialState.PRUNED and trial.intermediate_values
    ]
    so_far = [best(value for _, value in complete[: count + 1]) for count in range(len(complete))]
    axis.step([number for number, _ in complete], so_far, where="post", color=style.DARK, linewidth=1.6, label="best")
    axis.plot(*zip(*complete, strict=True), "o", color=style.BLUE, markersize=5, label="complete")
    if pruned and len(study.directions) == 1:
        axis.plot(*zip(*pruned, strict=True), "x", color=style.ORANGE, markersize=6, label="pruned, last probe")
    _label(axis, "trial", f"{metric}, %" if scale == 100 else metric)
    _legend(axis, 3)
    return style.save(figure, path)


def _importance(study: optuna.Study, metric: str, path: Path) -> Path:
    """How much of the objective's variance each parameter explains (fANOVA, Hutter et al. 2014)."""
    target: Callable[[Any], float] | None = (lambda trial: trial.values[0]) if len(study.directions) > 1 else None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importance = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    figure, axis = _figure(0.38 * max(2, len(importance)) + 0.9)
    names = list(reversed(importance))
    axis.barh(names, [importance[name] for name in names], color=style.BLUE, height=0.6)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(visible=False, axis="y")
    _label(axis, f"share of the variance of {metric} (fANOVA)", "")
    return style.save(figure, path)


def _parallel(trials: Sequence[Any], metric: str, path: Path) -> Path:
    """Each trial a line through its parameters, the better the brighter. Parameters that a trial lacks break it."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    figure, axis = _figure(3.6)
    axis.grid(visible=False)
    values = np.array([trial.values[0] for trial in trials])
    span = np.ptp(values) or 1.0
    columns = [_column(trials, name) for name in names]
    for number in np.argsort(values):
        heights = [column[0][number] for column in columns] + [(values[number] - values.min()) / span]
        color = colormaps[style.MAP]((values[number] - values.min()) / span)
        axis.plot(range(len(heights)), heights, color=color, linewidth=1.3, alpha=0.85)
    for place, (_, low, high) in enumerate(columns):
        axis.axvline(place, color=style.LIGHT, linewidth=0.8, zorder=0)
        axis.text(place, -0.03, low, ha="center", va="top", fontsize=style.SMALL, color=style.DARK)
        axis.text(place, 1.03, high, ha="center", va="bottom", fontsize=style.SMALL, color=style.DARK)
    scale = 100.0 if is_share(metric) else 1.0
    axis.text(len(names), -0.03, f"{scale * values.min():.3g}", ha="center", va="top", fontsize=style.SMALL)
    axis.text(len(names), 1.03, f"{scale * values.max():.3g}", ha="center", va="bottom", fontsize=style.SMALL)
    axis.set_xticks(range(len(names) + 1), [*(name.replace(".", "\n") for name in names), metric.replace("/", "\n")])
    axis.tick_params(axis="x", length=0, pad=14)
    axis.set_yticks([])
    axis.set_ylim(-0.02, 1.02)
    axis.spines[:].set_visible(False)
    return style.save(figure, path)


def _column(trials: Sequence[Any], name: str) -> tuple[list[float], str, str]:
    """A parameter's values in [0, 1], NaN where it is missing, and the names of both ends."""
    known = {number: trial.params[name] for number, trial in enumerate(trials) if name in trial.params}
    if any(isinstance(value, str | bool | None) for value in known.values()):
        choices = sorted({str(value) for value in known.values()})
        places = {number: choices.index(str(value)) / max(1, len(choices) - 1) for number, value in known.items()}
        ends = (choices[0], choices[-1])
    else:
        low, high = min(known.values()), max(known.values())
        places = {number: (value - low) / ((high - low) or 1.0) for number, value in known.items()}
        ends = (f"{low:.3g}", f"{high:.3g}")
    return [places.get(number, math.nan) for number in range(len(trials))], *ends


def _front(study: optuna.Study, metric: str, path: Path) -> Path:
    """Both objectives, the Pareto front marked."""
    figure, axis = _figure(3.4)
    scale = 100.0 if is_share(metric) else 1.0
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = {trial.number for trial in study.best_trials}
    for chosen, color, label in ((False, style.BLUE, "dominated"), (True, style.ORANGE, "Pareto front")):
        points = [(t.values[1], scale * t.values[0]) for t in complete if (t.number in best) == chosen]
        if points:
            axis.plot(*zip(*sorted(points), strict=True), "o-" if chosen else "o", color=color, label=label)
    _label(axis, study.metric_names[1] if study.metric_names else "cost", f"{metric}, %" if scale == 100 else metric)
    _legend(axis, 2)
    return style.save(figure, path)

"""The figures of a search: its history, what the objective depends on, all trials, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpm.visualization import style
from studies.analysis.units import display_unit
from studies.reporting.figures.axes import add_legend, label_axes, new_figure, plot_points

_ENOUGH_FOR_IMPORTANCE = 4  # complete trials


def draw_search(study: optuna.Study, metric: str, folder: Path) -> list[Path]:
    """Draw every figure that the complete trials of a search allow.

    Args:
        study: the search.
        metric: its first objective.
        folder: takes the PNG files; it is made where it is missing.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    paths = [_draw_history(study, metric, folder / "history.png")]
    shared = set.intersection(*(set(trial.params) for trial in complete))
    varied = len({trial.values[0] for trial in complete}) > 1
    if len(complete) >= _ENOUGH_FOR_IMPORTANCE and shared and varied:
        paths.append(_draw_importance(study, metric, folder / "importance.png"))
    if len(complete) > 1:
        paths.append(_draw_parallel(complete, metric, folder / "parallel.png"))
    if len(study.directions) > 1:
        paths.append(_draw_front(study, metric, folder / "pareto.png"))
    return paths


def _draw_history(study: optuna.Study, metric: str, path: Path) -> Path:
    """Every complete trial's objective, the best so far, and at the worse edge what was pruned, which has none."""
    figure, axis = new_figure(3.2)
    unit = display_unit(metric)
    larger = study.directions[0] == StudyDirection.MAXIMIZE
    best = max if larger else min
    trials = study.get_trials(deepcopy=False)
    complete = [(trial.number, unit.scale * trial.values[0]) for trial in trials if trial.state == TrialState.COMPLETE]
    edge = 0.0 if larger else 1.0
    pruned = [(trial.number, edge) for trial in trials if trial.state == TrialState.PRUNED]
    so_far = [best(value for _, value in complete[: count + 1]) for count in range(len(complete))]
    axis.step([number for number, _ in complete], so_far, where="post", color=style.DARK, linewidth=1.6, label="best")
    plot_points(axis, complete, "o", color=style.BLUE, markersize=5, label="complete")
    if pruned:
        # A probe is another metric, at an earlier step: on this axis it would lie where it says nothing.
        place = axis.get_xaxis_transform()
        plot_points(axis, pruned, "x", color=style.ORANGE, markersize=6, label="pruned", transform=place, clip_on=False)
    label_axes(axis, "trial", unit.label)
    add_legend(axis, 3)
    return style.save(figure, path)


def _draw_importance(study: optuna.Study, metric: str, path: Path) -> Path:
    """How much of the objective's variance each parameter explains (fANOVA, Hutter et al. 2014)."""
    target: Callable[[FrozenTrial], float] | None = None
    if len(study.directions) > 1:
        target = _first_value
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importance = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    figure, axis = new_figure(0.38 * max(2, len(importance)) + 0.9)
    names = list(reversed(importance))
    axis.barh([style.plain(name) for name in names], [importance[name] for name in names], color=style.BLUE, height=0.6)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(visible=False, axis="y")
    label_axes(axis, f"share of the variance of {metric} (fANOVA)", "")
    return style.save(figure, path)


def _first_value(trial: FrozenTrial) -> float:
    return trial.values[0]


def _draw_parallel(trials: Sequence[FrozenTrial], metric: str, path: Path) -> Path:
    """Each trial a line through its parameters, the better the brighter. Parameters that a trial lacks break it."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    figure, axis = new_figure(3.6)
    axis.grid(visible=False)
    values = np.array([trial.values[0] for trial in trials])
    places = (values - values.min()) / (np.ptp(values) or 1.0)
    columns = [_column(trials, name) for name in names]
    for number in np.argsort(values):
        heights = [column[0][number] for column in columns] + [places[number]]
        axis.plot(range(len(heights)), heights, color=colormaps[style.MAP](places[number]), linewidth=1.3, alpha=0.85)
    for place, (_, low, high) in enumerate(columns):
        axis.axvline(place, color=style.LIGHT, linewidth=0.8, zorder=0)
        _label_ends(axis, place, low, high, color=style.DARK)
    scale = display_unit(metric).scale
    _label_ends(axis, len(names), f"{scale * values.min():.3g}", f"{scale * values.max():.3g}")
    axis.set_xticks(
        range(len(names) + 1), [*(style.plain(name.replace(".", "\n")) for name in [*names, metric.replace("/", ".")])]
    )
    axis.tick_params(axis="x", length=0, pad=14)
    axis.set_yticks([])
    axis.set_ylim(-0.02, 1.02)
    axis.spines[:].set_visible(False)
    return style.save(figure, path)


def _label_ends(axis: Axes, place: int, low: str, high: str, **options: Any) -> None:
    axis.text(place, -0.03, style.plain(low), ha="center", va="top", fontsize=style.SMALL, **options)
    axis.text(place, 1.03, style.plain(high), ha="center", va="bottom", fontsize=style.SMALL, **options)


def _column(trials: Sequence[FrozenTrial], name: str) -> tuple[list[float], str, str]:
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


def _draw_front(study: optuna.Study, metric: str, path: Path) -> Path:
    """Both objectives, the Pareto front marked."""
    figure, axis = new_figure(3.4)
    unit = display_unit(metric)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = {trial.number for trial in study.best_trials}
    for chosen, color, label in ((False, style.BLUE, "dominated"), (True, style.ORANGE, "Pareto front")):
        points = [
            (trial.values[1], unit.scale * trial.values[0]) for trial in complete if (trial.number in best) == chosen
        ]
        if points:
            plot_points(axis, sorted(points), "o-" if chosen else "o", color=color, label=label)
    label_axes(axis, study.metric_names[1] if study.metric_names else "cost", unit.label)
    add_legend(axis, 2)
    return style.save(figure, path)

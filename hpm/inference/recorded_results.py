"""What was measured of a trained model, for a model card: its run's final figures, and what `hpm evaluate` wrote."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpm.inference.evaluation_results import Entry, read_entries, results_folder
from hpm.inference.loading import LoadedModel
from hpm.inference.markdown import shareable
from hpm.metrics import Unit, unit_of
from hpm.runs.content import require_content

_COSTS = {
    "steps": int,
    "training_seconds": float,
    "evaluation_seconds": float,
    "processes": int,
    "device": str,
    "peak_memory_bytes": int | None,
}
_METRIC = {"values": list[float | None]}
_ENTRY = {"protocol": str, "model": str, "step": int, "weights": str, "metrics": dict[str, dict[str, Any]]}
_ALSO = {"configs": list[str], "bindings": list[str], "data": str, "device": str, "version": str, "time": str}


@dataclass(frozen=True)
class Figure:
    """A line of a table of results.

    Args:
        metric: its name.
        value: the mean over the seeds, as people read it; settings of all seeds.
        interval: half the width of the mean's 95 % interval; None where one seed gives none.
        seeds: how many.
    """

    metric: str
    value: str
    interval: str | None
    seeds: int


@dataclass(frozen=True)
class Measured:
    """What one command of `hpm evaluate` has measured.

    Args:
        protocol: its name.
        figures: what it found.
        told: the data, the bindings and others, for people.
    """

    protocol: str
    figures: list[Figure]
    told: str


@dataclass(frozen=True)
class Results:
    """What was measured of a trained model.

    Args:
        cost: what the run's summary says of time and machine; empty where there is none of this step.
        final: the figures that the run ended with, of its student, each of one seed.
        evaluations: what was measured of these weights afterwards.
        left_out: how many evaluations are of other steps or weights.
    """

    cost: dict[str, Any] = field(default_factory=dict)
    final: list[Figure] = field(default_factory=list)
    evaluations: list[Measured] = field(default_factory=list)
    left_out: int = 0


def read_results(loaded: LoadedModel, weights: str) -> Results:
    """Read what was measured of a model, those results alone that are of its step and weights.

    Args:
        loaded: the model.
        weights: "student" or "teacher".

    Raises:
        UserError: where a file of results is damaged.
    """
    summary: dict[str, Any] = {}
    if loaded.run is not None and loaded.run.summary.is_file():
        found = require_content(loaded.run.read_summary(), loaded.run.summary, {}, _COSTS)
        summary = found if found.get("steps") == loaded.step else {}
    measured, left_out = [], 0
    for file in sorted(results_folder(loaded).glob("evaluation-*.json")):
        for entry in read_entries(file):
            _check_entry(entry, file)
            if (entry["model"], entry["step"], entry["weights"]) == (loaded.path.name, loaded.step, weights):
                measured.append(_measured(entry))
            else:
                left_out += 1
    return Results(
        cost={name: summary[name] for name in _COSTS if name in summary},
        final=[_figure(name, {"values": [value]}) for name, value in summary.get("metrics", {}).items()],
        evaluations=measured,
        left_out=left_out,
    )


def _check_entry(entry: Entry, file: Path) -> None:
    require_content(entry, file, _ENTRY, _ALSO)
    for metric in entry["metrics"].values():
        if not require_content(metric, file, _METRIC, {"mean": float | None, "interval": float | None})["values"]:
            metric["values"] = [None]


def _measured(entry: Entry) -> Measured:
    told = [f"{name} {entry[name]}" for name in ("data", "device", "version", "time") if name in entry]
    for name in ("configs", "bindings"):
        if given := entry.get(name):
            told.append(f"{name} {', '.join(map(shareable, given))}")
    figures = [_figure(name, metric) for name, metric in entry["metrics"].items()]
    return Measured(entry["protocol"], figures, "; ".join(told))


def _figure(name: str, metric: dict[str, Any]) -> Figure:
    unit, values = unit_of(name), metric["values"]
    if unit is Unit.SETTING:
        return Figure(name, ", ".join(dict.fromkeys(_readable(unit, value) for value in values)), None, len(values))
    half = metric.get("interval")
    interval = None if half is None or not math.isfinite(half) else f"{unit.scale * half:.{unit.digits}f}"
    return Figure(name, _readable(unit, metric.get("mean", values[0])), interval, len(values))


def _readable(unit: Unit, value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else unit.readable(value)

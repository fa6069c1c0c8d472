"""Results of `hpm evaluate`: what an entry holds, and where it is shown, kept and sent.

evaluation-PROTOCOL.json is a list of entries, one for each (model, weights, configs, bindings, seeds);
evaluation-PROTOCOL.png is the picture of the last, where the protocol has something to show.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hpm.errors import UserError
from hpm.evaluation.gallery import Gallery
from hpm.inference.loading import LoadedModel
from hpm.metrics import HELD_OUT, VALIDATION, Unit, half_interval, split_of, unit_of
from hpm.runs.run_folder import RunFolder
from hpm.runtime.files import check_file, read_json, to_json, write_json
from hpm.tracking import Tracker, TrackingError
from hpm.tracking.redact import redact_all
from hpm.visualization import draw_gallery
from hpm.visualization.style import check_replaceable

Entry = dict[str, Any]
_MEANS = {Unit.IOU: "mIoU", Unit.AP: "COCO's AP"}  # what stands in a table's title where it is all that it has
_FEWEST_ROWS = 2  # of a table that has columns for what is measured


def key_of(entry: Entry) -> str:
    """What makes two entries the same evaluation."""
    return json.dumps([entry.get(name) for name in ("model", "step", "weights", "configs", "bindings", "seeds")])


def summarize(values: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Mean and values of each metric, and half the width of the mean's 95 % interval (Student's t) where there is one.

    Of settings there are the values alone.

    Args:
        values: of each metric, one for each seed.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, of_seeds in values.items():
        if unit_of(name) is Unit.SETTING:
            summary[name] = {"values": of_seeds}
            continue
        interval = {"interval": half_interval(of_seeds)} if len(of_seeds) > 1 else {}
        summary[name] = {"mean": statistics.fmean(of_seeds), **interval, "values": of_seeds}
    return summary


def tables(protocol: str, metrics: dict[str, dict[str, Any]]) -> list[Table]:
    """The metrics of an entry, for a terminal, each in its unit: a line each.

    Where the same is measured of several things, as the IoU and CorLoc of several scores, there is one table for each
    split instead, with a column for each of what is measured, and what is measured once stands below.
    """
    units = {unit_of(name) for name in metrics} - {Unit.SETTING}
    title = f"{protocol} ({_MEANS[units.pop()]})" if len(units) == 1 and units <= _MEANS.keys() else protocol
    found = [_across(title, split, metrics) for split in HELD_OUT]
    if all(table is None for table in found):
        return [_down(title, metrics)]
    return [table for table in found if table is not None]


def _down(protocol: str, metrics: dict[str, dict[str, Any]]) -> Table:
    several = any("interval" in metric for metric in metrics.values())
    shown = Table(title=protocol, title_justify="left", title_style="bold")
    for column in ("metric", "mean", *(["95 % interval", "values"] if several else [])):
        shown.add_column(column, justify="left" if column == "metric" else "right")
    for name, metric in metrics.items():
        unit = unit_of(name)
        if unit is Unit.SETTING:
            shown.add_row(name, _listed([unit.readable(value) for value in metric["values"]]))
            continue
        row = [name, unit.readable(metric["mean"])]
        if "interval" in metric:
            row += [f"± {unit.scale * metric['interval']:.{unit.digits}f}", str(len(metric["values"]))]
        shown.add_row(*row)
    return shown


def _across(protocol: str, split: str, metrics: dict[str, dict[str, Any]]) -> Table | None:
    """The metrics of a split, by the last part of their names; None where they are no such table."""
    rows: dict[str, dict[str, str]] = {}
    for name, metric in metrics.items():
        if split_of(name) == split:
            thing, _, measured = name.removeprefix(f"{VALIDATION}/").partition("/")[2].rpartition("/")
            rows.setdefault(thing, {})[measured] = _cell(unit_of(name), metric)
    several = [list(cells) for cells in rows.values() if len(cells) > 1]
    if len(several) < _FEWEST_ROWS or any(columns != several[0] for columns in several):
        return None
    shown = Table(title=f"{protocol}, {split} images", title_justify="left", title_style="bold")
    for column in ("", *several[0]):
        shown.add_column(column, justify="right" if column else "left")
    alone = []
    for thing, cells in rows.items():
        if len(cells) > 1:
            shown.add_row(thing, *cells.values())
        else:
            alone += [f"{'/'.join(filter(None, (thing, name)))}: {value}" for name, value in cells.items()]
    shown.caption, shown.caption_justify = ", ".join(alone) or None, "left"
    return shown


def _cell(unit: Unit, metric: dict[str, Any]) -> str:
    if unit is Unit.SETTING:
        return _listed([unit.readable(value) for value in metric["values"]])
    interval = f" ± {unit.scale * metric['interval']:.{unit.digits}f}" if "interval" in metric else ""
    return unit.readable(metric["mean"]) + interval


def _listed(values: list[str]) -> str:
    """Settings, in the order of the seeds: "0.002, 0.004", or "0.002" of any number that are the same."""
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def results_folder(loaded: LoadedModel) -> Path:
    """Where a model's results lie: the run's folder; for a checkpoint or a file without a run, that it lies in."""
    return loaded.path.parent if loaded.run is None else loaded.run.path


def read_entries(file: Path) -> list[Entry]:
    """The entries of a results file; none where there is no file.

    Raises:
        UserError: if it is not a results file.
    """
    check_file("the file of results", file)
    if not file.exists():
        return []
    try:
        entries = read_json(file)
    except UserError as error:
        raise UserError(f"{error}. Move it away: new results go there.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file} does not hold results of hpm evaluate. Move it away: new results go there.")
    return entries


def write_entry(console: Console, file: Path, entry: Entry) -> None:
    """Add an entry, in the place of an older one of the same evaluation. What cannot be written is printed."""
    try:
        entry, entries = redact_all(entry), redact_all(read_entries(file))
        replaced = [other for other in entries if key_of(other) == key_of(entry)]
        write_json(file, [*(other for other in entries if key_of(other) != key_of(entry)), entry])
    except (OSError, RecursionError, UserError) as error:
        console.print(f"{file} could not be written: {error}; these are the results", style="yellow")
        console.print(to_json(entry, indent=2))
        return
    for other in replaced:
        console.print(f"replaces the result of {other.get('time')}")
    console.print(f"results: {file}")


def draw(console: Console, gallery: Gallery, path: Path, name: str) -> Path | None:
    """The picture of an evaluation, in the place of an earlier one; None, and a line, where it cannot be written."""
    try:
        check_replaceable(path)
        draw_gallery(gallery, path, name=name)
    except (OSError, UserError) as error:
        console.print(f"the picture {path} could not be written: {error}", style="yellow")
        return None
    console.print(f"picture: {path}")
    return path


def send_to_tracker(
    console: Console, run: RunFolder, tracker: Tracker, entry: Entry, files: Sequence[Path] = ()
) -> None:
    """Add results to the copy of their run, as `evaluate/WEIGHTS/METRIC` at the model's step. Failing loses nothing.

    Args:
        console: where a person reads.
        run: the run's folder.
        tracker: of its copy.
        entry: the results.
        files: pictures that go with them. Default none.
    """
    figures: dict[str, float] = {}
    for name, metric in entry["metrics"].items():
        key = f"evaluate/{entry['weights']}/{name}"
        if "mean" not in metric:
            if len(metric["values"]) == 1:
                figures[key] = metric["values"][0]
            continue
        figures[key] = metric["mean"]
        if "interval" in metric:
            figures[f"{key}/interval"] = metric["interval"]
    try:
        where = tracker.add_metrics(run.path, figures, step=entry["step"], files=files)
    except TrackingError as error:
        console.print(f"MLflow does not have all of these results: {error}", style="yellow")
        return
    if where:
        console.print(f"MLflow: {where}")

"""Complete runs as CSV: full precision, nothing scaled. What `csv_text` writes `csv_results` reads.

The columns are what every run says of itself, `config` where that is known, then a search's parameters ("Ramp.end",
"scope/Ramp.end"), metrics ("knn/pretrained"), and "scored_images:METRIC", over how many images a metric is a share of
right answers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpm.errors import UserError
from studies.analysis.results import COSTS, Result, metric_names

_OWN = ("source", "variant", "seed", "data", "device", "commit")
_CONFIG = "config"
_SCORED = "scored_images:"
_BEGINS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
# What a search binds: a macro, or a part's parameter, in a scope or in none.
_PARAMETER = re.compile(r"[^/]*|.*/([a-z_]\w*\.)*[A-Z]\w*\.[A-Za-z_]\w*")


def csv_text(results: Sequence[Result]) -> str:
    """Every run, a line each.

    Args:
        results: the runs.
    """
    metrics = metric_names(results)
    parameters = sorted({name for result in results for name in result.parameters})
    scored = sorted({name for result in results for name in result.scored_images if name in metrics})
    own = [*_OWN, _CONFIG] if any(result.config for result in results) else _OWN
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*own, *COSTS, *parameters, *metrics, *(_SCORED + name for name in scored)])
    for result in results:
        writer.writerow(
            [
                *(_no_formula(getattr(result, name)) for name in own),
                *(result.cost.get(name, "") for name in COSTS),
                *(_no_formula(result.parameters.get(name, "")) for name in parameters),
                *(result.metrics.get(name, "") for name in metrics),
                *(result.scored_images.get(name, "") for name in scored),
            ]
        )
    return text.getvalue()


def csv_results(path: Path) -> list[Result]:
    """The runs of a file that a study or `hpm-study compare` wrote.

    Args:
        path: the file.

    Raises:
        UserError: if it cannot be read, lacks a column, or has a line that ends too early.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin it with a mark
            reader = csv.DictReader(file)
            missing = [name for name in _OWN if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path} is no results.csv of a study: it has no column {missing[0]!r}")
            runs = []
            for row in reader:
                if short := [name for name in _OWN if row[name] is None]:
                    raise UserError(f"{path}, line {reader.line_num}: there is no {short[0]}; the line is too short")
                runs.append(_result(row))
            return runs
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a results.csv of a study: {error}") from error


def _result(row: dict[str, str]) -> Result:
    own = (*_OWN, _CONFIG, *COSTS)
    given = {name: value for name, value in row.items() if name is not None and value}
    scored = {name.removeprefix(_SCORED): int(value) for name, value in given.items() if name.startswith(_SCORED)}
    measured = {name: value for name, value in given.items() if name not in own and not name.startswith(_SCORED)}
    parameters = {name: value for name, value in measured.items() if _PARAMETER.fullmatch(name)}
    return Result(
        source=_as_given(row["source"]),
        variant=_as_given(row["variant"]),
        seed=int(row["seed"]),
        metrics={name: float(value) for name, value in measured.items() if name not in parameters},
        cost={name: _number(given[name]) for name in COSTS if name in given},
        data=_as_given(row["data"]),
        device=_as_given(row["device"]),
        commit=_as_given(row["commit"]),
        parameters={name: _as_given(value) for name, value in parameters.items()},
        config=_as_given(given.get(_CONFIG, "")),
        scored_images=scored,
    )


def _no_formula(value: Any) -> Any:
    """A cell that no spreadsheet runs: an apostrophe goes before text that begins as a formula does, or with one."""
    text = str(value)
    return f"'{text}" if text.startswith(_BEGINS_FORMULA) and not _is_number(text) else value


def _as_given(text: str) -> str:
    """What `_no_formula` was given, as text."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_BEGINS_FORMULA) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    """A whole number stays one, so that a file that is read and written again is the same."""
    return int(text) if text.isdigit() else float(text)

"""Complete runs as CSV: full precision, nothing scaled. What `csv_text` writes `csv_results` reads.

The columns are what every run says of itself, `config` and `skipped_steps` where they are known, then a search's
parameters ("Ramp.end", "scope/Ramp.end"), metrics ("knn/pretrained"), "scored_images:METRIC", over how many images a
metric is a share of right answers, and "fingerprint:training", "fingerprint:validation" and "fingerprint:test", of the
images. Files of before lack some of these.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpm.errors import UserError
from hpm.runtime.files import expanded
from studies.analysis.results import COSTS, Result, is_usable, metric_names

OWN_COLUMNS = ("source", "variant", "seed", "data", "device", "commit")
"""What every file begins with."""

_CONFIG = "config"
_SKIPPED = "skipped_steps"
_SCORED = "scored_images:"
_FINGERPRINT = "fingerprint:"
_WHOLE = re.compile(r"-?[0-9]{1,4000}")  # as many digits as Python reads
_SHOWN = 40  # characters of a cell in a message
_TOO_MUCH = "beyond the last column"
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
    fingerprints = list(dict.fromkeys(name for result in results for name in result.fingerprints))
    own = [*OWN_COLUMNS, _CONFIG] if any(result.config for result in results) else OWN_COLUMNS
    skipped = [_SKIPPED] if any(result.skipped_steps is not None for result in results) else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    last = [*(_SCORED + name for name in scored), *(_FINGERPRINT + name for name in fingerprints)]
    writer.writerow([*own, *skipped, *COSTS, *parameters, *metrics, *last])
    for result in results:
        writer.writerow(
            [
                *(_no_formula(getattr(result, name)) for name in own),
                *("" if result.skipped_steps is None else result.skipped_steps for _ in skipped),
                *(result.cost.get(name, "") for name in COSTS),
                *(_no_formula(result.parameters.get(name, "")) for name in parameters),
                # As they are read again: JSON keeps a metric that is a whole number as such.
                *(float(result.metrics[name]) if name in result.metrics else "" for name in metrics),
                *(result.scored_images.get(name, "") for name in scored),
                *(_no_formula(result.fingerprints.get(name, "")) for name in fingerprints),
            ]
        )
    return text.getvalue()


def csv_results(path: Path) -> list[Result]:
    """The runs of a file that a study or `hpm-study compare` wrote.

    Args:
        path: the file.

    Raises:
        UserError: if it cannot be read, lacks a column, has a line that is too short or too long, or is cut.
    """
    try:
        text = expanded(path).read_bytes().decode("utf-8-sig")  # spreadsheets begin it with a mark
        reader = csv.DictReader(io.StringIO(text, newline=""), restkey=_TOO_MUCH, strict=True)
        names = reader.fieldnames or ()
        missing = [name for name in OWN_COLUMNS if name not in names]
        if missing:
            raise UserError(f"{path} is no results.csv of a study: it has no column {missing[0]!r}")
        if twice := [name for place, name in enumerate(names) if name and name in names[:place]]:
            raise UserError(f"{path} has the column {twice[0]!r} twice; leave one of them")
        runs = []
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if short := [name for name in names if row[name] is None]:
                raise UserError(f"{where}: there is no {short[0]}; the line is too short")
            if any(row.pop(_TOO_MUCH, ())):
                raise UserError(f"{where}: it has more cells than there are columns")
            try:
                runs.append(_result(row))
            except ValueError as error:
                raise UserError(f"{where}: {error}") from error
        if not text.endswith(("\n", "\r")):
            raise UserError(
                f"{path}, line {reader.line_num}: the line has no end, so the file may have been cut within its last "
                "number; write it again or, if it is whole, end the line"
            )
        return runs
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a results.csv of a study: {error}") from error


def _result(row: dict[str, str]) -> Result:
    own = (*OWN_COLUMNS, _CONFIG, _SKIPPED, *COSTS)
    given = {name: value for name, value in row.items() if value}
    scored, fingerprints = (
        {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        for prefix in (_SCORED, _FINGERPRINT)
    )
    others = {name: value for name, value in given.items() if name not in own}
    measured = {name: value for name, value in others.items() if not name.startswith((_SCORED, _FINGERPRINT))}
    parameters = {name: value for name, value in measured.items() if _PARAMETER.fullmatch(name)}
    return Result(
        source=_as_given(row["source"]),
        variant=_as_given(row["variant"]),
        seed=_whole(row, "seed", -(2**63)),
        metrics={name: _metric(given, name) for name in measured if name not in parameters},
        cost={name: _cost(given, name) for name in COSTS if name in given},
        data=_as_given(row["data"]),
        device=_as_given(row["device"]),
        commit=_as_given(row["commit"]),
        parameters={name: _as_given(value) for name, value in parameters.items()},
        config=_as_given(given.get(_CONFIG, "")),
        scored_images={name: _whole(given, _SCORED + name, 1) for name in scored},
        skipped_steps=_whole(given, _SKIPPED, 0) if _SKIPPED in given else None,
        fingerprints={name: _as_given(value) for name, value in fingerprints.items()},
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


def _whole(given: Mapping[str, str], name: str, least: int) -> int:
    text = given[name]
    if not _WHOLE.fullmatch(text) or not least <= int(text) < 2**64:
        wanted = "a whole number of 64 bits" if least < 0 else f"a whole number of 64 bits, {least} or more"
        raise ValueError(f"{name} = {text[:_SHOWN]!r} must be {wanted}")
    return int(text)


def _metric(given: Mapping[str, str], name: str) -> float:
    value = _number(given, name)
    if _SCORED + name in given and (value < 0 or value > 1):
        raise ValueError(f"{name} = {value} must be from 0 to 1, a share of right answers")
    return value


def _cost(given: Mapping[str, str], name: str) -> float:
    """A whole number that means something stays one, so that a file that is read and written again is the same."""
    value = _number(given, name)
    if value < 0:
        raise ValueError(f"{name} = {given[name][:_SHOWN]!r} must be at least 0")
    return int(given[name]) if is_usable(value) and _WHOLE.fullmatch(given[name]) else value


def _number(given: Mapping[str, str], name: str) -> float:
    if not _is_number(given[name]):
        raise ValueError(f"{name} = {given[name][:_SHOWN]!r} is no number")
    return float(given[name])

"""One self-contained HTML page of comparisons: tables, warnings, pictures and how it was made."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from hpm.runtime.files import write_text
from hpm.runtime.version import source_version
from hpm.tracking.redact import redact_text
from studies.analysis.cautions import distinct_warnings
from studies.analysis.comparison import Comparison
from studies.reporting.notes import footnote, notes
from studies.reporting.tables import cells, columns, title
from studies.reporting.trials import TrialTable

_CAPTIONS = {
    "differences.png": "Means and paired differences, 95 % intervals; each dot is a seed",
    "training.png": "During training: mean over seeds, with 95 % bands where there are few variants",
    "alpha.png": "Alpha: the share of the mask that follows the difficulty",
    "compute.png": "Against the cost of the training",
    "history.png": "The search, trial by trial",
    "importance.png": "What the objective depends on",
    "parallel.png": "Complete trials: the brighter, the better",
    "pareto.png": "Both objectives",
}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("studies", "reporting"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def write_report(
    path: Path,
    comparisons: Sequence[Comparison],
    figures: Sequence[Path],
    *,
    heading: str,
    command: str,
    identity: Mapping[str, Any] | None = None,
    best: str | None = None,
    trials: TrialTable | None = None,
    best_lines: Sequence[str] = (),
) -> Path:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file.
        comparisons: its tables, at least one.
        figures: PNG files, which the page takes in.
        heading: the page's.
        command: the command that makes the page again.
        identity: what the study is, as `Definition.check` gives it; None or empty for none.
        best: the best configuration of a search; None for none.
        trials: the trials of a search; None for none.
        best_lines: sentences that say its best setting.

    Returns:
        The file.
    """
    definition, configurations = _definition(identity or {})
    text = _TEMPLATES.get_template("report.html.j2").render(
        heading=heading,
        runs=len(comparisons[0].results),
        time=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        version=source_version(),
        tables=[_table(comparison) for comparison in comparisons],
        footnote=footnote(comparisons),
        warnings=list(distinct_warnings([comparison.warnings for comparison in comparisons])),
        figures=[_figure(figure) for figure in figures],
        best=None if best is None else redact_text(best),
        trials=None if trials is None else {"columns": trials.columns, "rows": _trial_rows(trials)},
        best_lines=[redact_text(line) for line in best_lines],
        command=redact_text(command),
        definition=definition,
        configurations=configurations,
    )
    write_text(path, text)
    return path


def _table(comparison: Comparison) -> dict[str, Any]:
    return {
        "title": title(comparison),
        "columns": columns(comparison),
        "rows": [{"significant": row.significant, "cells": cells(comparison, row)} for row in comparison.rows],
        "notes": notes(comparison),
    }


def _trial_rows(trials: TrialTable) -> list[dict[str, Any]]:
    return [
        {"best": trial.number in trials.best, "cells": cells_of_trial}
        for trial, cells_of_trial in zip(trials.trials, trials.rows(), strict=True)
    ]


def _figure(path: Path) -> dict[str, str]:
    kind, _, metric = path.stem.partition("-")
    caption = _CAPTIONS.get(f"{kind}{path.suffix}", kind)
    return {
        "caption": f"{caption}: {metric.replace('-', '/')}" if metric else caption,
        "data": base64.b64encode(path.read_bytes()).decode(),
    }


def _definition(identity: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Short values as one text, and whole configurations by name, which the page shows folded."""
    if not identity:
        return None, {}
    short = {name: value for name, value in identity.items() if name not in ("variants", "config")}
    configurations = dict(identity.get("variants", {}))
    if "config" in identity:
        configurations["base configuration"] = identity["config"]
    hidden = {name: redact_text(text) for name, text in configurations.items()}
    return redact_text(json.dumps(short, indent=2)), hidden

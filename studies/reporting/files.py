"""What a comparison leaves in a folder.

report.html   one page with everything in it
results.md    the table
results.csv   every run, at full precision
figures/      the figures of the page
"""

from __future__ import annotations

from pathlib import Path

import optuna

from hpm.runtime.files import write_text
from studies.analysis.comparison import Comparison
from studies.definition.identity import identity_of
from studies.reporting.figures import draw_comparison, draw_search
from studies.reporting.report import write_report
from studies.reporting.tables import csv_text, markdown


def write_files(
    comparison: Comparison, folder: Path, *, command: str, study: optuna.Study | None = None, best: str | None = None
) -> list[Path]:
    """Write report, tables and figures of a comparison.

    Args:
        comparison: what they show.
        folder: takes them; it is made where it is missing.
        command: the command that makes them again.
        study: the study that the results are of, where they are of one alone.
        best: the best configuration of a search.

    Returns:
        The files, the report first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = draw_comparison(comparison, folder / "figures")
    identity = {} if study is None else identity_of(study)
    if study is not None and "space" in identity:
        figures = [*draw_search(study, comparison.metric, folder / "figures"), *figures]
    report = write_report(
        folder / "report.html",
        comparison,
        figures,
        title=comparison.results[0].source,
        command=command,
        identity=identity,
        best=best,
    )
    tables = {folder / "results.md": markdown(comparison), folder / "results.csv": csv_text(comparison)}
    for path, text in tables.items():
        write_text(path, text)
    return [report, *tables, *figures]

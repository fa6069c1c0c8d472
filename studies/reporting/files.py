"""What comparisons leave in a folder.

report.html   one page with everything in it
results.md    the tables
results.csv   every run, at full precision
figures/      the figures of the page
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna

from hpm.runtime.files import check_file, check_folder, write_text
from studies.analysis.comparison import Comparison
from studies.analysis.results import Result
from studies.analysis.results_csv import csv_text
from studies.definition.identity import identity_of
from studies.reporting.figures import draw_comparison, draw_differences, draw_search
from studies.reporting.report import write_report
from studies.reporting.tables import markdown


def check_report(name: str, folder: Path) -> None:
    """Find out before the work whether `write_files` can write to a folder.

    Args:
        name: what the user calls the folder.
        folder: the folder, which need not be there.

    Raises:
        UserError: if there is something else, or in it something else than what belongs there.
    """
    check_folder(name, folder)
    check_folder("the folder of figures", folder / "figures")
    for file in ("report.html", "results.md", "results.csv"):
        check_file("the file of the report", folder / file)


def write_files(
    comparisons: Sequence[Comparison],
    folder: Path,
    *,
    runs: Sequence[Result],
    command: str,
    study: optuna.Study | None = None,
    best: str | None = None,
) -> list[Path]:
    """Write report, tables and figures of comparisons.

    Args:
        comparisons: what they show, at least one, of the same runs; the first has the figures of the training.
        folder: takes them; it is made where it is missing.
        runs: every run, those too that have none of the metrics.
        command: the command that makes them again.
        study: the study that the results are of, where they are of one alone.
        best: the best configuration of a search.

    Returns:
        The files, the report first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first, *others = comparisons
    figures = draw_comparison(first, folder / "figures")
    figures += [draw_differences(other, folder / "figures", name=True) for other in others]
    identity = {} if study is None else identity_of(study)
    if study is not None and "space" in identity:
        figures = [*draw_search(study, first.metric, folder / "figures"), *figures]
    report = write_report(
        folder / "report.html",
        comparisons,
        figures,
        heading=first.results[0].source,
        command=command,
        identity=identity,
        best=best,
    )
    tables = {folder / "results.md": markdown(comparisons), folder / "results.csv": csv_text(runs)}
    for path, text in tables.items():
        write_text(path, text)
    return [report, *tables, *figures]

"""What comparisons leave in a folder.

report.html   one page with everything in it
results.md    the tables
results.csv   every run, at full precision
figures/      the figures of the page
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import optuna

from hpm.errors import UserError
from hpm.runtime.files import check_file, check_folder, write_text
from studies.analysis.comparison import Comparison
from studies.analysis.results import Result
from studies.analysis.results_csv import OWN_COLUMNS, csv_text
from studies.definition.identity import identity_of
from studies.reporting.figures import draw_comparison, draw_differences, draw_search
from studies.reporting.report import write_report
from studies.reporting.tables import markdown, markdown_of_trials
from studies.reporting.trials import best_sentences, trial_table

_MARKS = {  # how the files begin, or what stands near their beginning
    "report.html": re.compile(r'<p class="note">\d+ runs; made \d{4}-'),
    "results.md": re.compile(r"^\| variant \| seeds \| mean \|", re.MULTILINE),
    "results.csv": re.compile(rf"\A\ufeff?{','.join(OWN_COLUMNS)}[,\n\r]"),
}
_BEST = re.compile(r"\A# Trial \d+ of study ")
_READ = 100_000  # characters


def check_study_folder(name: str, folder: Path, *, is_new: bool) -> None:
    """Refuse a folder that holds other things than a study's: it would be filled, and what is called alike replaced.

    Args:
        name: what the user calls the folder.
        folder: the folder, which need not be there. Whole runs that were copied there are found trained.
        is_new: whether the study is yet to be started; what is called as its files are is then looked at too.

    Raises:
        UserError: naming the folder or the file.
    """
    check_places(name, folder)
    shown = [path for path in folder.glob("*") if not path.name.startswith(".")]
    files = {path: mark for path in shown if (mark := _mark_of(path)) is not None}
    foreign = [path for path, mark in files.items() if not _has(path, mark)]
    runs = any((path / "config.gin").is_file() and (path / "run.json").is_file() for path in shown)
    logs = any(path.name.endswith((".txt", ".imports.gin")) for path in (folder / "logs").glob("*"))
    if foreign and is_new:
        _refuse(name, foreign[0])
    if shown and not runs and not logs and len(foreign) == len(files):
        raise UserError(f"{name} {folder} is not empty, and holds nothing of a study; name another folder")


def check_report(name: str, folder: Path) -> None:
    """Find out before the work whether `write_files` can write to a folder, and replaces nothing but what it wrote.

    Args:
        name: what the user calls the folder.
        folder: the folder, which need not be there.

    Raises:
        UserError: if there is something else, or in it something else than what belongs there.
    """
    check_places(name, folder)
    for file, mark in _MARKS.items():
        if (folder / file).exists() and not _has(folder / file, mark):
            _refuse(name, folder / file)
    if any((folder / "figures").glob("*")) and not (folder / "report.html").exists():
        _refuse(name, folder / "figures")


def _refuse(name: str, path: Path) -> NoReturn:
    raise UserError(f"{name} would replace {path}, which no study and no comparison wrote; move it, or name another")


def _mark_of(path: Path) -> re.Pattern[str] | None:
    """What a file of this name has if a study wrote it; None for names that no study gives."""
    return _BEST if re.fullmatch(r"(best|front-\d+)\.gin", path.name) else _MARKS.get(path.name)


def _has(path: Path, mark: re.Pattern[str]) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return mark.search(file.read(_READ)) is not None
    except OSError:
        return False


def check_places(name: str, folder: Path) -> None:
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
    trials, best_lines = None, []
    if study is not None and "space" in identity:
        figures = [*draw_search(study, first.metric, folder / "figures"), *figures]
        trials, best_lines = trial_table(study, first.metric), best_sentences(study, first.metric)
    report = write_report(
        folder / "report.html",
        comparisons,
        figures,
        heading=first.results[0].source,
        command=command,
        identity=identity,
        best=best,
        trials=trials,
        best_lines=best_lines,
    )
    text = markdown(comparisons) + ("" if trials is None else f"\n{markdown_of_trials(trials, best_lines)}")
    tables = {folder / "results.md": text, folder / "results.csv": csv_text(runs)}
    for path, text in tables.items():
        write_text(path, text)
    return [report, *tables, *figures]

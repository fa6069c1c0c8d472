"""What a study leaves: a table, figures and a report and, of a search, the best setting as a config."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.tracking.mlflow import MLflowTracker
from studies.analysis.comparison import Comparison, compare, csv_text, markdown, table
from studies.analysis.results import Result, of_experiment, of_study
from studies.definition.base import Definition, Search
from studies.execution.storage import ERROR, definition_of, load_study, root_number, study_names
from studies.reporting.figures import draw, draw_search
from studies.reporting.report import write_report

if TYPE_CHECKING:
    from studies.execution.launcher import Launch, Started


def finish(launch: Launch, started: Started, console: Console) -> None:
    """Say what a study found, and keep it in the study's folder and in MLflow."""
    study = started.study
    definition = started.definition
    folder = launch.folder
    _report_failures(study, console)
    files: list[Path] = []
    if results := of_study(study):
        folder.mkdir(parents=True, exist_ok=True)
        settings = best_settings(study, definition, folder) if isinstance(definition, Search) else []
        known = definition_of(study)
        against = known.get("baseline") if launch.kind == "ablation" else _first(results)
        comparison = compare(results, definition.metric, against=against, direction=definition.direction)
        files = [*_keep(comparison, study, folder, shlex.join(_again(launch)), settings[:1]), *settings]
        _show(console, comparison, few=launch.kind == "search")
        for path in files:
            if path.suffix in (".html", ".gin"):
                console.print(f"{'report' if path.suffix == '.html' else 'best setting'}: {path}", highlight=False)
    started.tracker.complete(study, files)


def _first(results: Sequence[Result]) -> str:
    """A search is compared with its first trial: the published setting where it was enqueued."""
    return min(results, key=lambda result: result.variant).variant


def _again(launch: Launch) -> list[str]:
    words = ["hpm-study", "ablate" if launch.kind == "ablation" else "search", *launch.configs]
    for text in launch.bindings:
        words += ["-b", text]
    return words + (["--study", launch.study] if launch.study else [])


def _report_failures(study: optuna.Study, console: Console) -> None:
    retried = {
        number for trial in study.get_trials(deepcopy=False) for number in trial.system_attrs.get("retry_history", [])
    }
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if trial.number not in retried:
            reason = trial.user_attrs.get(ERROR, "its worker died too often")
            console.print(f"trial {trial.number} failed: {reason}", style="yellow", markup=False, soft_wrap=True)


def _show(console: Console, comparison: Comparison, *, few: bool) -> None:
    if few:
        rows = list(comparison.rows)[:10]
        console.print(table(replace(comparison, rows=rows), console.width))
    else:
        console.print(table(comparison, console.width))
    for warning in comparison.warnings:
        console.print(f"beware: {warning}", style="yellow", highlight=False, soft_wrap=True)


def _keep(
    comparison: Comparison, study: optuna.Study | None, folder: Path, command: str, best: Sequence[Path]
) -> list[Path]:
    """Report, table and figures as files."""
    figures = draw(comparison, folder / "figures")
    definition = None if study is None else definition_of(study)
    if study is not None and definition and definition.get("kind") == "search":
        figures = [*draw_search(study, comparison.metric, folder / "figures"), *figures]
    title = comparison.results[0].source
    text = best[0].read_text() if best else None
    report = write_report(
        folder / "report.html", comparison, figures, title=title, command=command, definition=definition, best=text
    )
    (folder / "results.md").write_text(markdown(comparison))
    (folder / "results.csv").write_text(csv_text(comparison))
    return [report, folder / "results.md", folder / "results.csv", *figures]


def best_settings(study: optuna.Study, definition: Definition, folder: Path) -> list[Path]:
    """The best trial as a config that `hpm pretrain` runs; of two objectives, one for each trial of the front."""
    best = study.best_trials if len(study.directions) > 1 else [study.best_trial]
    names = ["best.gin"] if len(best) == 1 else [f"front-{number + 1}.gin" for number in range(len(best))]
    for old in [folder / "best.gin", *folder.glob("front-*.gin")]:
        old.unlink(missing_ok=True)
    written = []
    for name, trial in zip(names, sorted(best, key=lambda trial: trial.values[-1]), strict=True):
        path = folder / name
        path.write_text(_as_config(study, definition, trial, path))
        written.append(path)
    return written


def _as_config(study: optuna.Study, definition: Definition, trial: FrozenTrial, path: Path) -> str:
    run = definition.plan(optuna.trial.FixedTrial(trial.params), root_number(trial))[0]
    config = parse_config(run.configs, [*run.bindings, f"Trainer.seed = {run.seed}"])
    config.build()
    imports = "".join(f"{line}\n" for line in definition.imports)
    values = ", ".join(f"{name} {value:.6g}" for name, value in zip(definition.objectives, trial.values, strict=True))
    return (
        f"# Trial {trial.number} of study {study.study_name}: {values}.\n#\n#   hpm pretrain {path}\n\n"
        f"{imports}{config.text()}"
    )


def compare_sources(
    storage: RDBStorage | None,
    names: Sequence[str],
    console: Console,
    *,
    metric: str | None,
    against: str | None,
    direction: str | None,
    output: Path | None,
    as_markdown: bool,
    as_csv: bool,
) -> Comparison:
    """`hpm-study compare`: studies of the storage, or experiments of MLflow, in one table.

    Raises:
        UserError: for a name that is neither, a metric that nobody has, a baseline that is none.
    """
    known = set() if storage is None else set(study_names(storage))
    studies = {name: load_study(storage, name) for name in names if storage is not None and name in known}
    results = [
        result
        for name in names
        for result in (of_study(studies[name]) if name in studies else of_experiment(name, MLflowTracker()))
    ]
    if not results:
        raise UserError(f"{', '.join(names)}: no run is complete yet")
    definition = definition_of(studies[names[0]]) if names[0] in studies else {}
    metric = metric or definition.get("metric")
    if metric is None:
        raise UserError("--metric is needed for an experiment of MLflow")
    if against is None and definition.get("baseline") is not None:
        of_one = len(names) > 1 and "*" not in definition["baseline"]
        against = f"{names[0]}/{definition['baseline']}" if of_one else definition["baseline"]
    comparison = compare(
        results, metric, against=against, direction=direction or definition.get("direction", "maximize")
    )
    if as_markdown:
        print(markdown(comparison), end="")
    elif as_csv:
        print(csv_text(comparison), end="")
    else:
        _show(console, comparison, few=False)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        words = ["hpm-study", "compare", *names, "--metric", metric, "--against", comparison.baseline]
        only = studies[names[0]] if len(names) == 1 and studies else None
        written = _keep(comparison, only, output, shlex.join([*words, "--output", os.fspath(output)]), [])
        console.print(f"report: {written[0]}", highlight=False)
    return comparison

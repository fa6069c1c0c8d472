"""`hpm-study compare`: studies of the storage, or experiments of MLflow, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpm.errors import UserError
from studies.execution.options import DEFAULT_STORAGE, StorageOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna

    from studies.analysis.comparison import Comparison


def command(
    names: Annotated[list[str], typer.Argument(metavar="STUDY|EXPERIMENT...", help="Studies, or MLflow experiments.")],
    metric: Annotated[str | None, typer.Option(help="Which; by default the first study's.")] = None,
    against: Annotated[str | None, typer.Option(help="The baseline, or one for each group: '*_random'.")] = None,
    direction: Annotated[str | None, typer.Option(help="maximize or minimize; by default the study's.")] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    output: Annotated[Path | None, typer.Option(help="A folder for report.html, tables and figures.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every run as CSV.")] = False,
) -> None:
    """Compare variants over seeds: means, paired differences, tests, costs, and warnings."""
    from rich.console import Console

    from hpm.runtime.notices import notices_to
    from studies.reporting.tables import csv_text, markdown, show_comparison

    if direction not in (None, "maximize", "minimize"):
        raise UserError(f"--direction {direction} is unknown; choose maximize or minimize")
    if as_markdown and as_csv:
        raise UserError("--markdown and --csv are two formats; ask for one of them")
    console = Console(stderr=as_markdown or as_csv)
    with notices_to(console):
        studies = _load_studies(names, storage)
        comparison = _compare(names, studies, metric=metric, against=against, direction=direction)
        if as_markdown:
            typer.echo(markdown(comparison), nl=False)
        elif as_csv:
            typer.echo(csv_text(comparison), nl=False)
        else:
            show_comparison(console, comparison)
        if output is not None:
            report = _write(comparison, names, studies, output)
            console.print(f"report: {report}", highlight=False)


def _load_studies(names: Sequence[str], url: str) -> dict[str, optuna.Study]:
    """Those of the names that are studies of the storage."""
    from studies.execution.storage import load_study, open_storage, storage_exists, study_names

    if not storage_exists(url):
        return {}
    storage = open_storage(url)
    known = set(study_names(storage))
    return {name: load_study(storage, name) for name in names if name in known}


def _compare(
    names: Sequence[str],
    studies: Mapping[str, optuna.Study],
    *,
    metric: str | None,
    against: str | None,
    direction: str | None,
) -> Comparison:
    """The comparison; what was not asked for is as the first study has it.

    Raises:
        UserError: for a name that is neither a study nor an experiment, a metric that nobody has, or a baseline that
            is not a variant.
    """
    from hpm.tracking.mlflow import MLflowTracker
    from studies.analysis.comparison import compare
    from studies.analysis.results import Result, experiment_results, study_results
    from studies.definition.identity import identity_of

    results: list[Result] = []
    for name in names:
        of_study = name in studies
        results += study_results(studies[name]) if of_study else experiment_results(name, MLflowTracker())
    if not results:
        raise UserError(f"{', '.join(names)}: no run is complete yet")
    identity = identity_of(studies[names[0]]) if names[0] in studies else {}
    metric = metric or identity.get("metric")
    if metric is None:
        raise UserError("--metric is needed for an experiment of MLflow")
    baseline = identity.get("baseline")
    if against is None and baseline is not None:
        against = f"{names[0]}/{baseline}" if len(names) > 1 and "*" not in baseline else baseline
    return compare(results, metric, against=against, direction=direction or identity.get("direction", "maximize"))


def _write(comparison: Comparison, names: Sequence[str], studies: Mapping[str, optuna.Study], output: Path) -> Path:
    import shlex

    from studies.reporting.files import write_files

    words = ["hpm-study", "compare", *names, "--metric", comparison.metric, "--against", comparison.baseline]
    command = shlex.join([*words, "--output", str(output)])
    study = studies.get(names[0]) if len(names) == 1 else None
    return write_files(comparison, output, command=command, study=study)[0]

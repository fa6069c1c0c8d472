"""`hpm-study compare`: studies of the storage, experiments of MLflow, or CSV files, a table for each metric."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hpm.errors import UserError
from hpm.runtime.files import expanded
from studies.execution.options import DEFAULT_STORAGE, StorageOption


def command(
    names: Annotated[
        list[str], typer.Argument(metavar="STUDY|EXPERIMENT|CSV...", help="Studies, MLflow experiments, results.csv.")
    ],
    metric: Annotated[
        list[str] | None, typer.Option(help="Which; a table for each. By default the first study's.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="The baseline, or one for each group: '*_random'.")] = None,
    direction: Annotated[str | None, typer.Option(help="maximize or minimize; by default as the metric is.")] = None,
    equivalent_within: Annotated[
        float | None,
        typer.Option(help="Test too that differences are no larger than this, in the unit shown, e.g. points."),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    output: Annotated[
        Path | None, typer.Option(parser=expanded, help="A folder for report.html, tables and figures.")
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every run as CSV.")] = False,
) -> None:
    """Compare variants over seeds: means, paired differences, tests, what could have been found, costs, and warnings.

    All tables of one call are corrected together.
    """
    from hpm.runtime.console import loading, make_console
    from hpm.runtime.notices import notices_to

    with loading():
        from studies.analysis.comparison import compare_metrics
        from studies.analysis.results_csv import csv_text
        from studies.commands._sources import load_sources
        from studies.reporting.tables import markdown, show_comparisons

    if direction not in (None, "maximize", "minimize"):
        raise UserError(f"--direction {direction} is unknown; choose maximize or minimize")
    if as_markdown and as_csv:
        raise UserError("--markdown and --csv are two formats; ask for one of them")
    if output is not None:
        from studies.reporting.files import check_report, write_files  # here, since only figures need torch

        check_report("--output", output)
    console = make_console(stderr=as_markdown or as_csv)
    with notices_to(console):
        sources = load_sources(names, storage)
        comparisons = compare_metrics(
            sources.results,
            sources.metrics(metric or [], direction),
            against=sources.baseline(against),
            equivalent_within=equivalent_within,
            planned=sources.planned(),
        )
        if as_markdown:
            typer.echo(markdown(comparisons), nl=False)
        elif as_csv:
            typer.echo(csv_text(sources.results), nl=False)
        else:
            show_comparisons(console, comparisons)
        if output is not None:
            words = ["hpm-study", "compare", *names]
            for comparison in comparisons:
                words += ["--metric", comparison.metric]
            baselines = {comparison.baseline for comparison in comparisons}
            if len(baselines) == 1:  # otherwise each table has its own first variant
                words += ["--against", *baselines]
            if direction is not None:
                words += ["--direction", direction]
            if equivalent_within is not None:
                words += ["--equivalent-within", f"{equivalent_within:g}"]
            if sources.studies and storage != DEFAULT_STORAGE:
                words += ["--storage", storage]
            again = shlex.join([*words, "--output", str(output)])
            study = sources.studies.get(names[0]) if len(names) == 1 else None
            report = write_files(comparisons, output, runs=sources.results, command=again, study=study)[0]
            console.print(f"report: {report}")

"""A comparison as a table: for a terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from studies.analysis.comparison import COSTS, ComparedVariant, Comparison
from studies.analysis.results import metric_names
from studies.analysis.statistics import Estimate

COLUMNS = ("variant", "seeds", "mean", "difference", "p (Holm)", "d_z", "images", "seconds", "FLOPs")
FOOTNOTE = (
    "± is half a 95 % interval (Student's t). Differences are paired by seed; p by a two-sided paired t-test with "
    "Holm's correction over the table, * below 0.05; d_z is the mean difference over its standard deviation. FLOPs "
    "are counted, of the whole training."
)
# A terminal of fewer columns shows less.
_WIDTH_OF_COSTS, _WIDTH_OF_EFFECTS = 115, 95


def cells(comparison: Comparison, row: ComparedVariant) -> list[str]:
    """A row as a reader sees it: a text for each of `COLUMNS`."""
    images, seconds, flops = (row.cost.get(name) for name in COSTS)
    return [
        row.variant,
        str(row.estimate.count),
        _with_interval(comparison, row.estimate),
        *_difference_cells(comparison, row),
        "" if images is None else f"{images:,.0f}",
        "" if seconds is None else f"{seconds:,.0f}",
        "" if flops is None else f"{flops:.2e}",
    ]


def _difference_cells(comparison: Comparison, row: ComparedVariant) -> list[str]:
    difference = row.difference
    if row.variant == row.baseline:
        return ["baseline", "", ""]
    if difference is None:
        return ["no common seed", "", ""]
    mark = " *" if difference.significant else ""
    return [
        _with_interval(comparison, difference.estimate, "+"),
        "" if difference.corrected is None else _format_p(difference.corrected) + mark,
        "" if difference.effect is None else f"{difference.effect:+.2f}",
    ]


def _with_interval(comparison: Comparison, estimate: Estimate, sign: str = "") -> str:
    scale, digits = comparison.unit.scale, comparison.unit.digits
    half = f" ± {scale * estimate.half:.{digits}f}" if estimate.has_interval else ""
    return f"{scale * estimate.mean:{sign}.{digits}f}{half}"


def _format_p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def show_comparison(console: Console, comparison: Comparison, *, most: int | None = None) -> None:
    """Print the table and its warnings.

    Args:
        console: where a person reads.
        comparison: what to print.
        most: how many variants are shown, of the best; None for all.
    """
    console.print(table(replace(comparison, rows=list(comparison.rows)[:most]), console.width))
    for warning in comparison.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)


def table(comparison: Comparison, width: int = 120) -> Table:
    """The table for a terminal of so many columns."""
    hidden = {"images", "seconds"} if width < _WIDTH_OF_COSTS else set()
    hidden |= {"FLOPs", "d_z"} if width < _WIDTH_OF_EFFECTS else set()
    title = f"{comparison.unit.label}, against {comparison.baseline}"
    shown = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(COLUMNS):
        if column not in hidden:
            shown.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0)
    for row in comparison.rows:
        texts = [cell for cell, column in zip(cells(comparison, row), COLUMNS, strict=True) if column not in hidden]
        shown.add_row(*texts, style="bold" if row.significant else "")
    return shown


def markdown(comparison: Comparison) -> str:
    """The table for documents, with its footnote and warnings."""
    lines = [
        f"{comparison.unit.label}, against {comparison.baseline}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| --- |" + " ---: |" * (len(COLUMNS) - 1),
        *("| " + " | ".join(cell or " " for cell in cells(comparison, row)) + " |" for row in comparison.rows),
        "",
        FOOTNOTE,
        *(f"\nWarning: {warning}." for warning in comparison.warnings),
    ]
    return "\n".join(lines) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Every run, for other tools: full precision, nothing scaled."""
    metrics = metric_names(comparison.results)
    parameters = sorted({name for result in comparison.results for name in result.parameters})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "variant", "seed", "data", "device", "commit", *COSTS, *parameters, *metrics])
    for result in comparison.results:
        writer.writerow(
            [
                result.source,
                result.variant,
                result.seed,
                result.data,
                result.device,
                result.commit,
                *(result.cost.get(name, "") for name in COSTS),
                *(result.parameters.get(name, "") for name in parameters),
                *(result.metrics.get(name, "") for name in metrics),
            ]
        )
    return text.getvalue()

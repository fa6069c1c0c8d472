"""Comparisons as tables, for a terminal and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from hpm.runtime.console import WIDTH_OF_PIPES, print_table
from studies.analysis.cautions import distinct_warnings
from studies.analysis.comparison import ComparedVariant, Comparison
from studies.analysis.results import COSTS
from studies.analysis.statistics import Estimate, PValue
from studies.reporting.notes import footnote, notes
from studies.reporting.trials import TrialTable

# A terminal of fewer columns shows less.
_WIDTH_OF_COSTS, _WIDTH_OF_EFFECTS, _WIDTH_OF_BOTH_TESTS = 128, 108, 100
_LONGEST_NAME = 28
_COSTS = ("images", "seconds", "FLOPs")


def columns(comparison: Comparison) -> list[str]:
    """The headings of a table."""
    equivalent = [] if comparison.margin is None else [f"within ±{comparison.unit.scale * comparison.margin:g}"]
    return ["variant", "seeds", "mean", "difference", "p blocked", "p paired", *equivalent, "d_z", *_COSTS]


def cells(comparison: Comparison, row: ComparedVariant) -> list[str]:
    """A row as a reader sees it: a text for each of `columns`."""
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
    empty = [""] * (3 if comparison.margin is None else 4)
    if row.variant == row.baseline:
        return ["baseline", *empty]
    if difference is None:
        is_there = any(group.baseline == row.baseline for group in comparison.groups)
        return ["no common seed" if is_there else "no baseline yet", *empty]
    equivalent = [] if difference.equivalent is None else [_p_cell(difference.equivalent)]
    return [
        _with_interval(comparison, difference.estimate, "+"),
        _p_cell(difference.blocked),
        _p_cell(difference.paired),
        *equivalent,
        "" if difference.effect is None else _fixed(difference.effect, 2, "+"),
    ]


def _p_cell(test: PValue) -> str:
    """The corrected p, or in parentheses why there is none."""
    if test.corrected is None:
        return f"({test.missing})"
    return format_p(test.corrected) + (" *" if test.significant else "")


def _with_interval(comparison: Comparison, estimate: Estimate, sign: str = "") -> str:
    scale, digits = comparison.unit.scale, comparison.unit.digits
    half = f" ± {scale * estimate.half:.{digits}f}" if estimate.has_interval else ""
    return f"{_fixed(scale * estimate.mean, digits, sign)}{half}"


def _fixed(value: float, digits: int, sign: str = "") -> str:
    """A number of so many digits; what rounds to nothing has no minus."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def format_p(value: float) -> str:
    """A p-value in a few characters."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def show_comparisons(console: Console, comparisons: Sequence[Comparison], *, most: int | None = None) -> None:
    """Print tables, what their designs could have found, and their warnings.

    Args:
        console: where a person reads.
        comparisons: what to print.
        most: how many variants are shown, of the best; None for all.
    """
    for comparison in comparisons:
        print_table(console, table(replace(comparison, rows=list(comparison.rows)[:most]), console.width))
        for note in notes(comparison):
            console.print(note)
    for warning in distinct_warnings([comparison.warnings for comparison in comparisons]):
        console.print(f"warning: {warning}", style="yellow")


def table(comparison: Comparison, width: int = WIDTH_OF_PIPES) -> Table:
    """The table for a terminal of so many columns."""
    hidden = {"images", "seconds"} if width < _WIDTH_OF_COSTS else set()
    hidden |= {"FLOPs", "d_z"} if width < _WIDTH_OF_EFFECTS else set()
    hidden |= {"p paired"} if width < _WIDTH_OF_BOTH_TESTS else set()
    shown = Table(title=title(comparison), title_justify="left", title_style="bold")
    names = columns(comparison)
    # The names must be told apart, whatever else has to be cut.
    longest = max(len(row.variant) for row in comparison.rows)
    for number, column in enumerate(names):
        if number == 0:
            shown.add_column(column, overflow="fold", min_width=min(longest, _LONGEST_NAME))
        elif column not in hidden:
            shown.add_column(column, justify="right", no_wrap=True)
    for row in comparison.rows:
        texts = [cell for cell, column in zip(cells(comparison, row), names, strict=True) if column not in hidden]
        shown.add_row(*texts, style="bold" if row.significant else "")
    return shown


def plain_markdown(text: str) -> str:
    """A text for a line or the cell of a table: it ends neither, and begins no tag, and no link of another text.

    Args:
        text: "a|b <c>".
    """
    one_line = " ".join(text.splitlines())
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"[\\|\[]", r"\\\g<0>", one_line))


def markdown_of_trials(trials: TrialTable, best: Sequence[str]) -> str:
    """The trials of a search for documents, and its best setting.

    Args:
        trials: the table.
        best: sentences that say it.
    """
    lines = [" | ".join(map(plain_markdown, row)) for row in [trials.columns, ["---"] * len(trials.columns)]]
    lines += [" | ".join(plain_markdown(cell) or " " for cell in row) for row in trials.rows()]
    return "".join(f"{plain_markdown(line)}\n\n" for line in best) + "".join(f"| {line} |\n" for line in lines)


def title(comparison: Comparison) -> str:
    """What a table is of."""
    return f"{comparison.unit.label}, against {comparison.baseline}"


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The tables of a report for documents, each with its notes, then footnote and warnings.

    Args:
        comparisons: at least one.
    """
    lines = []
    for comparison in comparisons:
        names = columns(comparison)
        lines += [
            plain_markdown(title(comparison)),
            "",
            "| " + " | ".join(names) + " |",
            "| --- |" + " ---: |" * (len(names) - 1),
            *(
                "| " + " | ".join(plain_markdown(cell) or " " for cell in cells(comparison, row)) + " |"
                for row in comparison.rows
            ),
            "",
        ]
        for note in notes(comparison):
            lines += [plain_markdown(note), ""]
    lines.append(footnote(comparisons))
    warnings = distinct_warnings([comparison.warnings for comparison in comparisons])
    lines += [f"\nWarning: {plain_markdown(warning)}." for warning in warnings]
    return "\n".join(lines) + "\n"

"""Tables in a file or a pipe are lines that nothing wraps; on a terminal they fit it."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.table import Table
from rich.text import Text

from hpm.runtime.console import make_console, print_table

LONG = "a sentence that is far longer than any terminal is wide, " * 8


def printed(table: Table, **options: object) -> list[str]:
    text = StringIO()
    print_table(make_console(file=text, color_system=None, **options), table)
    return text.getvalue().splitlines()


@pytest.fixture
def table() -> Table:
    table = Table(title=f"[/red] {LONG}", title_style="bold", box=None, show_header=False)
    table.add_row("name", Text(LONG.strip()))
    table.add_row("other", "short")
    return table


def test_a_row_is_a_line_of_a_pipe(table: Table) -> None:
    title, first, second = printed(table)
    assert title == f"[/red] {LONG}"
    assert first.split(maxsplit=1) == ["name", LONG.strip()]
    assert second.split() == ["other", "short"]
    assert second == second.rstrip(), "cells are not filled up to the longest"


def test_a_variable_of_the_environment_wraps_no_pipe(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert len(printed(table)) == 3


def test_a_terminal_is_not_overrun_and_its_title_is_told_whole(table: Table) -> None:
    title, *rows = printed(table, force_terminal=True, width=60)
    assert title == f"[/red] {LONG}"
    assert max(map(len, rows)) <= 60
    assert len(rows) > 4
    assert table.title is not None, "the table is as it was"

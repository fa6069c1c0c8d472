"""Where commands print."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH_OF_PIPES = 140
"""Columns of a file or a pipe, for what fits itself to a width."""
_ANY_WIDTH = 100_000


def make_console(**options: Any) -> Console:
    """A console that prints texts as they are, however long their lines and whatever names they hold.

    A folder may be called "[/red]": no text is markup. What is to have a color is given a style, or is a `rich.Text`.
    Tables are printed by `print_table`.

    Args:
        **options: rich's own, "stderr" or "quiet".
    """
    console = Console(**{"markup": False, "emoji": False, "highlight": False, "soft_wrap": True} | options)
    if not console.is_terminal and "width" not in options and "COLUMNS" not in os.environ:
        console.width = WIDTH_OF_PIPES
    return console


@contextmanager
def loading() -> Iterator[None]:
    """Tell a terminal that seconds pass while modules are imported."""
    with make_console(stderr=True, quiet=os.environ.get("RANK", "0") != "0").status("loading ..."):
        yield


def print_table(console: Console, table: Table) -> None:
    """Print a table: as wide as a terminal, and in a file or a pipe as wide as it needs to be, a row being a line.

    A title is not wrapped to the width of its table.
    """
    if table.title is not None:
        console.print(table.title, style=table.title_style, markup=False, soft_wrap=True)
        table = copy.copy(table)
        table.title = None
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    text = io.StringIO()
    make_console(file=text, width=_ANY_WIDTH).print(table, soft_wrap=False)
    for line in text.getvalue().splitlines():
        console.out(line.rstrip(), highlight=False)

"""Where tables are printed."""

from __future__ import annotations

import os

from rich.console import Console

WIDTH_OF_ALL = 140
"""Columns of text that hold every column of a table."""


def table_console(*, stderr: bool = False) -> Console:
    """A console as wide as its terminal. What goes into a file or a pipe is wide enough for every column.

    Args:
        stderr: print to the standard error stream.
    """
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_OF_ALL
    return console

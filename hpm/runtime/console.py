"""Where commands print."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

WIDTH_OF_PIPES = 140
"""Columns that a table has in a file or a pipe: enough for every column of every table."""


def make_console(**options: Any) -> Console:
    """A console that prints texts as they are, however long their lines and whatever names they hold.

    A folder may be called "[/red]": no text is markup. What is to have a color is given a style, or is a `rich.Text`.
    Tables are printed with `soft_wrap=False`, for their titles' sake.

    Args:
        **options: rich's own, "stderr" or "quiet".
    """
    console = Console(**{"markup": False, "emoji": False, "highlight": False, "soft_wrap": True} | options)
    if not console.is_terminal and "width" not in options and "COLUMNS" not in os.environ:
        console.width = WIDTH_OF_PIPES
    return console

"""Notices: warnings that are for people."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from hpm.errors import Notice


@contextmanager
def notices_to(console: Console) -> Iterator[None]:
    """Show notices as yellow lines, without a place in our source. Other warnings go where they always go."""
    others = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, Notice):
            console.print(str(message), style="yellow", markup=False)
        else:
            others(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = show
        yield

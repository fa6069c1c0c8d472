"""How far long work is: bars with the time left on a terminal, a plain line now and then in a log.

What works says how far it is by `track` or `tracked`, wherever it is; what a person started says by `progress_to` where
that is shown. Without that nothing is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 30.0
_Item = TypeVar("_Item")


class _Display:
    """Bars on a terminal, lines elsewhere."""

    def __init__(self, console: Console, seconds_between_lines: float) -> None:
        self.console = console
        self.seconds_between_lines = seconds_between_lines
        self.last_line = time.monotonic()
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[counted]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or console.quiet,
            transient=True,
        )


_shown: ContextVar[_Display | None] = ContextVar("progress", default=None)


@contextmanager
def progress_to(
    console: Console, doing: str = "", *, seconds_between_lines: float = _SECONDS_BETWEEN_LINES
) -> Iterator[None]:
    """Show how far work is as long as this is entered.

    Args:
        console: where a person reads.
        doing: what a terminal is told beside, such as "evaluating ..."; "" for nothing.
        seconds_between_lines: at least, in a file or a pipe.
    """
    display = _Display(console, seconds_between_lines)
    if doing:
        display.bars.add_task(doing, total=None, counted="")
    before = _shown.set(display)
    try:
        with display.bars:
            yield
    finally:
        _shown.reset(before)


class Tracked:
    """Work whose progress is shown; see `tracked`.

    Args:
        display: where; None for nowhere.
        what: is done, see `tracked`.
        total: how many there are of what is counted.
        done: how many were done before.
        unit: what is counted.
    """

    def __init__(self, display: _Display | None, what: str, total: int, done: int, unit: str) -> None:
        self._display = display
        self._what, self._total, self._unit = what, total, unit
        self._before = self._done = done
        self._started = time.monotonic()
        self._task: TaskID | None = None
        if display is not None:
            self._task = display.bars.add_task(what, total=total, completed=done, counted=self._counted())

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        if self._display is None or self._task is None:
            return
        self._display.bars.update(self._task, completed=self._done, counted=self._counted())
        now = time.monotonic()
        lines = self._display
        if not lines.console.is_terminal and self._done < self._total:
            if now - lines.last_line < lines.seconds_between_lines:
                return
            lines.last_line = now
            left = (now - self._started) / (self._done - self._before) * (self._total - self._done)
            lines.console.print(f"{self._what} {self._counted()}, about {left:,.0f} s left", markup=False)

    def end(self) -> None:
        """It is over, done or not."""
        if self._display is not None and self._task is not None:
            self._display.bars.remove_task(self._task)

    def _counted(self) -> str:
        return f"{self._done:,}/{self._total:,} {self._unit}"


@contextmanager
def tracked(what: str, total: int, *, done: int = 0, unit: str = "images") -> Iterator[Tracked]:
    """Show how far a piece of work is, which calls `advance`.

    Args:
        what: is done, so that a number can follow: "features of".
        total: how many there are.
        done: how many were done before, and take no time now.
        unit: what is counted.
    """
    work = Tracked(_shown.get(), what, total, done, unit)
    try:
        yield work
    finally:
        work.end()


def track(
    items: Iterable[_Item],
    what: str,
    total: int,
    *,
    count: Callable[[_Item], int] = lambda item: 1,
    unit: str = "images",
) -> Generator[_Item, None, None]:
    """Go through items and show how far that is.

    Args:
        items: what is worked on, batches say.
        what: is done, see `tracked`.
        total: how many there are of what is counted.
        count: of an item, `len` for batches.
        unit: what is counted.
    """
    with tracked(what, total, unit=unit) as work:
        for item in items:
            yield item
            work.advance(count(item))

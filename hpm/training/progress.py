"""What a person sees while a run trains: a live bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 15.0


class TrainingProgress:
    """Progress of training. Use as a context manager.

    Args:
        console: where it is shown.
        total: steps of the run.
        done: steps already taken.
    """

    def __init__(self, console: Console, *, total: int, done: int) -> None:
        self._console = console
        self._total = total
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=total, completed=done, metrics="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, step: int) -> None:
        """A step was taken; costs nothing on the device."""
        self._bar.update(self._task, completed=step)

    def metrics(self, row: Mapping[str, float]) -> None:
        """An interval's metrics have come."""
        loss = f"{row['loss']:.4f}" if "loss" in row else "not finite"
        text = (
            f"loss {loss}  alpha {row['alpha']:.2f}  lr {row['learning_rate']:.1e}  "
            f"{row['images_per_second']:,.0f} images/s"
        )
        self._bar.update(self._task, metrics=text)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            step = int(row["step"])
            left = (self._total - step) * row["images_per_step"] / max(row["images_per_second"], 1e-9)
            self.report(f"step {step}/{self._total}  {text}  {left:,.0f} s left")

    def report(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False)  # a caller's console may read it
